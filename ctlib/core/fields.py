"""The fields of a data class, looked up by name among values that have more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def picked(kind: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a data class's fields.

    Args:
        kind: the data class.
        values: by name; those that are no field are left alone, and fields that are not there are left out.
        prefix: a name that begins with it comes before the bare one: `pretrain_lr` before `lr`.

    >>> @dataclasses.dataclass
    ... class Cut:
    ...     length: int
    ...     flip: bool = False
    >>> picked(Cut, {"length": 32, "lr": 0.1}), picked(Cut, {"length": 32, "my_length": 16}, "my_")
    ({'length': 32}, {'length': 16})
    """
    found = {}
    for field in dataclasses.fields(kind):
        for name in (prefix + field.name, field.name):
            if name in values:
                found[field.name] = values[name]
                break
    return found
