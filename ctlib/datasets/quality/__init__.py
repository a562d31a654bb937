"""What a careful scientist looks at before training: is each volume what it claims to be, is any of
them there twice, and do the files alone tell who is ill?

Every function takes tables (`ctlib.core.tables`): `series`, `splits` and `checks`, which holds what
`ctlib.datasets.store.volume_checks.examine` found in each stored volume. `inspect` runs them all for a cohort, and
`findings` says in sentences what came out.
"""

from ctlib.datasets.quality.duplicates import near_duplicates
from ctlib.datasets.quality.hu_scale import rescale_faults
from ctlib.datasets.quality.metadata_baseline import metadata_baseline
from ctlib.datasets.quality.overview import Extreme, extremes, scanners
from ctlib.datasets.quality.text import Inspection, findings, inspect

__all__ = [
    "Extreme",
    "Inspection",
    "extremes",
    "findings",
    "inspect",
    "metadata_baseline",
    "near_duplicates",
    "rescale_faults",
    "scanners",
]
