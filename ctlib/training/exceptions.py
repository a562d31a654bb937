"""Settings that some networks have for themselves: parameters `exceptions` and `pretrain_exceptions`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import yaml

Exceptions = list[tuple[str, str, str, Any]]
"""Task ("" for all), backbone, setting and its value there."""


def exceptions_of(
    given: Sequence[str], tasks: Sequence[str], backbones: Sequence[str], settings: Collection[str]
) -> Exceptions:
    """Settings of some networks alone, from parameter `exceptions`.

    Args:
        given: `<backbone>.<setting>=<value>`, or `<task>.<backbone>.<setting>=<value>`.
        tasks: that there are.
        backbones: that there are.
        settings: names of those that there are.

    Returns:
        Task ("" for all), backbone, setting and its value, a number where it reads as one.

    Raises:
        ValueError: one is not of that form, or names a network or setting that there is not.

    >>> exceptions_of(["slow_r50.batch_size=3"], ["lidc_nodule"], ["slow_r50"], ["batch_size"])
    [('', 'slow_r50', 'batch_size', 3)]
    """
    found = []
    for text in given:
        left, equals, value = text.partition("=")
        where, _, name = left.rpartition(".")
        at, dot, rest = where.partition(".")
        of = (at, rest) if dot and at in tasks else ("", where)
        if not equals or of[1] not in backbones or name not in settings:
            raise ValueError(
                f"exceptions has {text!r}; give network.setting=value or task.network.setting=value, with a "
                f"network of {', '.join(backbones)} and a setting of {', '.join(sorted(settings))}."
            )
        found.append((*of, name, yaml.safe_load(value)))
    return found


def own_settings(exceptions: Exceptions, arm: tuple[str, str, str]) -> dict[str, Any]:
    """The settings that an arm has for itself."""
    return {
        name: value for at, backbone, name, value in exceptions if at in ("", arm[0]) and backbone == arm[1]
    }
