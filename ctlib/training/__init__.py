"""One finetuning or pretraining: loaders, optimizer, losses, device, and the loop over epochs."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
