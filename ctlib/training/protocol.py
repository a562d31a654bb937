"""Choices of the published code that this study corrects, each of which can be put back by itself.

`protocol: released` puts all of them back, `corrected` none, and `protocol_overrides` adds some, so that an
ablation tells what each of them does. They are those of the table "Its flaws, and what we do" of
docs/protocol.md that change a run; what only changes a file format is not among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

FRESH_FRACTION = "fresh_fraction"
CLIP_LABELS = "clip_labels"
DROPPED_TAILS = "dropped_tails"
FILL = "fill"
ONE_MEAN = "one_mean"
FLAWS = {
    FRESH_FRACTION: "a fraction is a cap on the batches of an epoch, drawn anew from all training patients",
    CLIP_LABELS: "an exam has the label of its clips, not its own",
    DROPPED_TAILS: "a series has (slices - length) // length clips; the rest is dropped, short exams vanish",
    FILL: "what a rotation uncovers is -1000, after the mapping to [0, 1]",
    ONE_MEAN: "every init has the same mean and std, here those of the cohort",
}
"""What each of them is."""
PROTOCOLS = {"corrected": (), "released": tuple(FLAWS)}
"""Flaws of each protocol."""
FILL_VALUE = -1000.0
"""In [0, 1], where air is 0: docs/protocol.md."""


def flaws_of(protocol: str, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """The flaws of a protocol and of what is put back besides, in the order of `FLAWS`.

    Raises:
        ValueError: unknown protocol or flaw.

    >>> flaws_of("corrected", ["fill"])
    ('fill',)
    >>> flaws_of("released") == tuple(FLAWS)
    True
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; known are {', '.join(PROTOCOLS)}.")
    if unknown := [name for name in overrides if name not in FLAWS]:
        raise ValueError(f"protocol_overrides has {', '.join(unknown)}; known are {', '.join(FLAWS)}.")
    asked = {*PROTOCOLS[protocol], *overrides}
    return tuple(name for name in FLAWS if name in asked)


def without_tails(clips: pd.DataFrame, length: int) -> pd.DataFrame:
    """The clips that the published code has: (slices - length) // length of each series.

    Args:
        clips: columns series_uid, start and stop, all clips of each series.
        length: slices a clip.

    >>> clips = pd.DataFrame({"series_uid": "1.2", "start": [0, 16, 32], "stop": [16, 32, 40]})
    >>> without_tails(clips, 16)["start"].tolist()
    [0]
    """
    n_slices = clips.groupby("series_uid")["stop"].transform("max")
    kept = clips["stop"] <= (n_slices - length) // length * length
    return clips[kept].reset_index(drop=True)
