"""Labelled videos: found, decoded once to disk, and served as clips with the interface of `clips`.

`prepare_videos` turns a `VideoFiles` (a folder of classes, or lists) into a `VideoIndex`, whose frames
lie decoded in a cache; `VideoClips` serves it. `metadata_accuracy` says whether the files give the classes
away without a picture. `generate` (from `ctlib.datasets.synthetic.video`) writes the source of the demo.

A file that cannot be used (no video, broken, cut off, too short, too slow) stands in the table with a
sentence that says why. No file is left out without one but hidden ones.
"""

from ctlib.datasets.metadata import MetadataAccuracy, metadata_accuracy
from ctlib.datasets.synthetic.video import generate
from ctlib.datasets.video.cache import FrameSettings, VideoIndex, prepare_videos, stored_px
from ctlib.datasets.video.dataset import VideoClips
from ctlib.datasets.video.decode import Facts, VideoError, read_video
from ctlib.datasets.video.index import VideoFiles

__all__ = [
    "Facts",
    "FrameSettings",
    "MetadataAccuracy",
    "VideoClips",
    "VideoError",
    "VideoFiles",
    "VideoIndex",
    "generate",
    "metadata_accuracy",
    "prepare_videos",
    "read_video",
    "stored_px",
]
