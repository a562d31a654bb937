"""`python -m ctlib`: the command line of `ctlib.cli`."""

from ctlib.cli import main

if __name__ == "__main__":
    main()
