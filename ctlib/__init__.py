"""ctlib: the work behind the four notebooks; import its modules by name."""

__version__ = "0.1.0"
