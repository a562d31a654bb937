"""The command line, notebooks as it executes them, and the reports made of what they showed."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
