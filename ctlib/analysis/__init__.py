"""The questions of a report, the claims of the paper, and the plan that was fixed before the results."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
