"""Names of the inits whose weights are made here, and what such a name says of how they are made.

    [<start>+]<source>[_ssl][_placebo | _part | _b]

`<source>` is `video`, or `ct_<cohort>`; `_ssl` says that no label was read; `<start>` is the init that the
pretraining begins from, itself made here or not: `kinetics400+ct_rspect`, `video_ssl+ct_lidc`. Without a
start it begins from random weights. Published names win over made ones: `ct_astra` is published, so no
cohort can be called `astra`. A control is no start: `shuffled:video+ct_lidc` is the control of the whole.

The last part names an arm of the method's own control, beside the init without it:

| ending | pretrained as the init without it, but | asks |
|---|---|---|
| `_placebo` | the labels are exchanged among the training clips | is it knowledge, or only optimisation? |
| `_part` | for a share of the steps | is more of it better? |
| `_b` | with another seed | how much do two draws of the same differ? |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ctlib.models.weights.ablations import split
from ctlib.models.weights.catalog import PUBLIC, absent
from ctlib.models.weights.read import CT, VIDEO

WRITER = "02_pretrain"
"""The notebook that makes these weights."""

KNOWN = (
    "video, ct_<cohort>, each also with _ssl, with _placebo, _part or _b, and behind another init and a plus"
)
"""The names, for messages."""

PLACEBO, PART, SECOND = "placebo", "part", "b"
"""Variants: with exchanged labels, for a share of the steps, with a second seed."""

_SOURCE = re.compile(rf"(video|ct_[a-z0-9][\w-]*?)(_ssl)?(?:_({PLACEBO}|{PART}|{SECOND}))?")
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Origin:
    """How the weights of an init are made here.

    Args:
        start: the init that pretraining begins from; `random` where the name gives none.
        source: what is learnt from: `video`, or `ct_` and the key of a cohort.
        self_supervised: whether no label is read.
        variant: `placebo`, `part`, `b`, or "" for none.
    """

    start: str
    source: str
    self_supervised: bool
    variant: str = ""

    @property
    def kind(self) -> str:
        """What kind of thing is learnt from, one of `ctlib.models.weights.read.KINDS`."""
        return VIDEO if self.source == "video" else CT


def origin(init_name: str) -> Origin | None:
    """What the name of an init says of its making; None where it is not one that is made here.

    Args:
        init_name: any name of an init, controls included.

    Raises:
        ValueError: the name has a plus, and something beside it that cannot be there; or it asks for a
            placebo of what reads no labels.

    >>> origin("kinetics400+ct_rspect_ssl")
    Origin(start='kinetics400', source='ct_rspect', self_supervised=True, variant='')
    >>> origin("video_placebo")
    Origin(start='random', source='video', self_supervised=False, variant='placebo')
    >>> origin("ct_astra"), origin("shuffled:video"), origin("imagenet")
    (None, None, None)
    """
    if ":" in init_name:
        return None
    start, plus, last = init_name.rpartition("+")
    made = None if last in PUBLIC else _SOURCE.fullmatch(last)
    if made and made[2] and made[3] == PLACEBO:
        raise ValueError(f"init is {init_name!r}: without labels (_ssl) there are none to exchange.")
    if not plus:
        return Origin("random", made[1], bool(made[2]), made[3] or "") if made else None
    if made is None:
        raise ValueError(
            f"init is {init_name!r}: behind the plus stands {last!r}; it must be what is pretrained on here, "
            "video or ct_<cohort>, each also with _ssl, _placebo, _part or _b."
        )
    if start in ("", "random"):
        raise ValueError(f"init is {init_name!r}: without another start its name is {last}.")
    if origin(start) is None and not _NAME.fullmatch(start):
        raise ValueError(f"init is {init_name!r}: {start!r} before the plus is no name of an init.")
    return Origin(start, made[1], bool(made[2]), made[3] or "")


def lacking(init_name: str, backbone: str) -> str:
    """Why published weights, or those that an init begins from, are not there for a network; "" where they are.

    >>> lacking("kinetics400+ct_lidc", "slow_r50"), lacking("kinetics400+ct_lidc", "resnet18")[:43]
    ('', 'init kinetics400 has no weights for resnet1')
    """
    _, base = split(init_name)
    while made := origin(base):
        base = made.start
    return absent(base, backbone)
