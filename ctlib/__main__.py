"""`python -m ctlib`: the command line of `ctlib.cli`."""

from ctlib.cli.__main__ import main

if __name__ == "__main__":
    main()
