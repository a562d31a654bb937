"""Published weights: the records of `published.yaml`, read when one is first asked for. Nothing is fetched here."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ctlib.core import display_path
from ctlib.models.weights.read import InitError, Weights, record_of, yaml_fields
from ctlib.models.weights.tensor_names import NAMES

FILE = Path(__file__).with_name("published.yaml")
PARTS = {"shared", "weights", "absent"}
"""What the file holds: values that have a name in it, the records, and why there are some not."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Lazy(UserDict[Key, Value]):
    """A dictionary whose content is made when it is first asked for."""

    def __init__(self, make: Callable[[], dict[Key, Value]]) -> None:
        self._make = make

    @cached_property
    def data(self) -> dict[Key, Value]:  # type: ignore[override]
        """The content."""
        return self._make()


@cache
def content(file: Path) -> tuple[dict[str, dict[str, Weights]], dict[tuple[str, str], str]]:
    """The records of a file by init and network, and why there are none of an init and a network.

    Args:
        file: as `published.yaml`.

    Raises:
        InitError: it is no YAML, or has a field or a value that cannot be: the sentence names file, record,
            field and value.
    """
    given, where = yaml_fields(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), display_path(file)
    if given.keys() != PARTS:
        raise InitError(
            f"{where} holds {', '.join(map(str, given))}; it must hold {', '.join(sorted(PARTS))}."
        )
    weights = {
        init: {
            str(key): _record(record, f"{where}, {init}, {key}")
            for key, record in _mapping(records, f"{where}: weights, {init}").items()
        }
        for init, records in _mapping(given["weights"], f"{where}: weights").items()
    }
    absent = {
        (init, key): str(why)
        for init, whys in _mapping(given["absent"], f"{where}: absent").items()
        for key, why in _mapping(whys, f"{where}: absent, {init}").items()
    }
    return weights, absent


def _mapping(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InitError(f"{where} is {given!r}; give what belongs to each name, a line each.")
    return given


def _record(given: Any, where: str) -> Weights:
    """A record, its names made where a key of `NAMES` stands for them."""
    if isinstance(given, dict) and isinstance(key := given.get("names"), str):
        if key not in NAMES:
            raise InitError(f"{where}: names is {key!r}; give a mapping, or one of {', '.join(NAMES)}.")
        given = {**given, "names": NAMES[key]()}
    return record_of(given, where, published=True)


PUBLIC: Lazy[str, dict[str, Weights]] = Lazy(lambda: content(FILE)[0])
"""Published weights by init and backbone."""

ABSENT: Lazy[tuple[str, str], str] = Lazy(lambda: content(FILE)[1])
"""Why an init has no weights for a network where one would look for them."""
