"""The short name of `ctlib.visualization.viewer`: `from ctlib import viewer`, then `viewer.show(volume)`."""

from ctlib.visualization.viewer import *  # noqa: F403  # what is exported stands there
