"""What every room uses: HU windows, schemas of tables, files and places, parameters, progress, locks."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
