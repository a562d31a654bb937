"""Files to volumes in HU: DICOM, NIfTI, MetaImage and NRRD, their headers checked, every refusal with its reason."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
