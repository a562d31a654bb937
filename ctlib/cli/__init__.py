"""The command line, notebooks as it executes them, and the reports made of what they showed."""
