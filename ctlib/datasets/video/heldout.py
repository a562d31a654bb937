"""Which videos are held out: by lists, or a share of each class, recordings undivided."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.datasets.video.decode import VideoError


def held_out(table: pd.DataFrame, share: float, seed: int) -> NDArray[np.bool_]:
    """Which videos are held out: by the lists, or the same share of each class, whole groups at a time.

    Groups are drawn in random order until a class has its share, so it may have a little more. Files
    with the same bytes count as one group, and a group that several classes share stays together too.

    Args:
        table: of an index: label, group, listed, and content where it is known.
        share: of the files of a class, 0 to 1.
        seed: for a seed it is always the same.

    Returns:
        bool [n], one a row.

    >>> rows = pd.DataFrame({"label": [0, 0, 0, 0], "group": list("aabb"), "listed": ""})
    >>> held_out(rows, 0.5, seed=0).tolist()
    [True, True, False, False]
    """
    if (table["listed"] != "").any():
        return (table["listed"] == "heldout").to_numpy()
    if not 0 <= share < 1:
        raise VideoError(f"heldout_share is {share}; give 0 to less than 1.")
    opened = (table["content"] != "").to_numpy() if "content" in table else np.ones(len(table), bool)
    held = np.zeros(len(table), bool)
    held[opened] = _drawn(table[opened], share, seed)
    return held


def _drawn(table: pd.DataFrame, share: float, seed: int) -> NDArray[np.bool_]:
    """What `held_out` draws, of files that were opened."""
    groups = _joined(table)
    decided: dict[str, bool] = {}
    for label in sorted(set(table["label"])):
        of_class = groups[(table["label"] == label).to_numpy()]
        sizes = of_class.value_counts(sort=False)
        names = list(dict.fromkeys(of_class))
        order = np.random.default_rng([seed, 1, label]).permutation(len(names))
        n_held = sum(sizes[name] for name in names if decided.get(name))
        for name in (names[i] for i in order):
            if name not in decided:
                decided[name] = n_held < round(share * len(of_class))
                n_held += sizes[name] * decided[name]
    return groups.map(decided).to_numpy(dtype=bool)


def _joined(table: pd.DataFrame) -> pd.Series:
    """The group of each row; groups that have a file in common are one."""
    groups = table["group"].astype(str)
    if "content" not in table:
        return groups
    leader = {name: name for name in groups}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for _, names in _repeated(zip(table["content"], groups, strict=True)):
        for other in names[1:]:
            leader[lead(other)] = lead(names[0])
    return groups.map(lead)


def _repeated(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Contents that several groups have, with the groups."""
    seen: dict[str, list[str]] = {}
    for content, group in pairs:
        if content:
            seen.setdefault(content, []).append(group)
    return [(content, names) for content, names in seen.items() if len(set(names)) > 1]
