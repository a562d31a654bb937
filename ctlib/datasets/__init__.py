"""Cohorts and videos: found, stored at the training matrix, split by patient, cut into clips."""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
