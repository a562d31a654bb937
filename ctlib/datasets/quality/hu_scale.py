"""Volumes that are not in HU: rescaled twice, not at all, or by a wrong slope.

Four faults, by what they do to a chest of air at -1000, lung at -850, fat at -100, soft tissue at
50 and bone above 300 HU, and the number of `ctlib.datasets.store.volume_checks.examine` that tells them:

| fault | air | soft tissue | seen by |
|---|---|---|---|
| intercept of -1024 applied twice | -1024, clipped | -974 | hardly a voxel above -700 HU |
| slope and intercept not applied | 24 | 1074 | no air below -700 HU, much above 300 HU |
| slope of 2 for 1 | -976 | 1124 | body outside its band |
| slope of 0.5 for 1 | -1012 | -487 | body outside its band |

The position of air alone would miss the first, where soft tissue takes its place, and the last two,
as air lies at the bottom of the scale, where a slope hardly moves it. Body means the peak with most
voxels above -700 HU. What keeps soft tissue within the band is not found: a slope of 0.83 to 1.07 times
the right one, an intercept up to 80 HU too high or 185 HU too low.
"""

from __future__ import annotations

import pandas as pd

LEAST_BODY_SHARE = 0.3
"""Share of voxels above -700 HU that a body has. Measured: 0.36 in LIDC-IDRI-0314, 0.42 to 0.57 in
800 phantoms; with the intercept applied twice, where only bone and bright contrast are left, at most 0.21."""
MOST_DENSE_SHARE = 0.25
"""Share of the voxels that are not padding above 300 HU. Measured: up to 0.05 in chests, bone and
contrast; without slope and intercept, where all of the body lies there, 0.36 and more."""
AIR_HU = (-1023.0, -950.0)
"""Where the lowest peak lies that is air outside the body or in the airways; for people to look at, as
a tight field of view has lung alone, from -930 upwards. Measured: -1003 to -969."""
BODY_HU = (-135.0, 130.0)
"""Where the peak of a body lies: fat (-120 to -80 HU, -135 at 80 kV) or soft tissue with or
without contrast (0 to 130 HU). Measured: -106 to 52 in the real chests at hand."""
FOAM_HU = (-602.0, -574.0)
"""The same for this project's phantoms without contrast, which are cast in foam
(`ctlib.datasets.synthetic.anatomy`): -593 to -581 in 400 of them. Fat at half its slope lies at -562."""


def rescale_faults(checks: pd.DataFrame) -> pd.DataFrame:
    """Volumes whose HU scale cannot be right.

    Args:
        checks: table `checks`.

    Returns:
        series_uid, air_hu, tissue_hu, reason, in the order of the table; no rows if all is well.
        A volume without air, as a tight field of view gives, is none by that alone.
    """
    reasons = [_reason(row) for row in checks.to_dict("records")]
    faults = checks[["series_uid", "air_hu", "tissue_hu"]].assign(
        reason=pd.Series(reasons, checks.index, str)
    )
    return faults[faults["reason"] != ""].reset_index(drop=True)


def _reason(row: dict[str, float]) -> str:
    """Why a volume is not in HU, or ''."""
    body_hu, little = row["body_hu"], row["body_share"] < LEAST_BODY_SHARE
    seen = 1 - row["padding_share"]
    if pd.isna(row["air_hu"]) and seen > 0 and row["dense_share"] / seen > MOST_DENSE_SHARE:
        return (
            f"no air below -700 HU, and {row['dense_share']:.0%} of the voxels above 300 HU, where bone and "
            f"contrast are: slope and intercept were not applied"
        )
    # a thin patient in a wide field of view has little body too, but where it should be
    if BODY_HU[0] <= body_hu <= BODY_HU[1] or (FOAM_HU[0] <= body_hu <= FOAM_HU[1] and not little):
        return ""
    if little:
        return (
            f"{row['body_share']:.1%} of the voxels above -700 HU, where a body has {LEAST_BODY_SHARE:.0%} "
            f"at least: the intercept was applied twice, the slope is too small, or there is no body"
        )
    where = "has no peak" if pd.isna(body_hu) else f"peaks at {body_hu:.0f} HU"
    return (
        f"the body {where}, where fat and soft tissue peak between {BODY_HU[0]:.0f} and {BODY_HU[1]:.0f} HU: "
        f"slope or intercept is wrong"
    )
