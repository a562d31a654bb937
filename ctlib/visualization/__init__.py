"""What people look at: figures, small tables, and the viewer in JupyterLab."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
