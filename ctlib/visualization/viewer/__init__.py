"""The viewer in JupyterLab, and what it leaves where nobody sits at a page; `ctlib.viewer` is its short name."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
