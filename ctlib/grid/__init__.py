"""Many runs: which there are, what they will take, where they execute, and what is kept of them."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
