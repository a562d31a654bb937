"""What a notebook declares in its parameters cell: names, types, defaults, and values of these types."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctlib.core.workspace import shown


class ParameterError(ValueError):
    """Parameters that do not fit their notebooks; one line a problem."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell.

    Args:
        name: of the variable.
        annotation: declared type, as written, for example `list[int]`.
        default: value in the notebook.
        comment: unit or meaning.
    """

    name: str
    annotation: str
    default: Any
    comment: str


def declared(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares in its cell tagged `parameters`.

    Raises:
        ParameterError: no such notebook, or a line of the cell is not `name: type = literal`.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError([f"{shown(path)} is no readable notebook: {error}."]) from error
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    source = "".join(tagged[0]["source"]) if tagged else ""
    found = [_parameter(node, source, path) for node in ast.parse(source).body]
    return {parameter.name: parameter for parameter in found}


def _parameter(node: ast.stmt, source: str, path: Path) -> Parameter:
    lines = source.splitlines()
    if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
        line = lines[node.lineno - 1]
        raise ParameterError([f"{path.stem}: {line!r} in the parameters cell is not 'name: type = literal'."])
    annotation = ast.unparse(node.annotation)
    try:
        default = conform(ast.literal_eval(node.value), annotation)
    except (ValueError, TypeError) as error:
        raise ParameterError([f"{path.stem}.{node.target.id}: its default is wrong: {error}."]) from error
    rest = lines[(node.end_lineno or node.lineno) - 1].encode()[node.end_col_offset :]
    return Parameter(node.target.id, annotation, default, rest.decode().lstrip(" #"))


_SIMPLE = {"str": str, "int": int, "bool": bool}


def conform(value: Any, annotation: str) -> Any:
    """The value as its declared type; an int where a float is wanted becomes a float.

    Raises:
        TypeError: it is of another type; the sentence states both.

    >>> conform([1, 0.25], "list[float]"), conform(None, "int | None")
    ([1.0, 0.25], None)
    >>> conform(True, "int")
    Traceback (most recent call last):
    TypeError: it is True, which is bool, but must be int
    """
    try:
        return _conform(value, ast.parse(annotation, mode="eval").body)
    except TypeError:
        hint = ""
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.IGNORECASE):
            hint = f"; YAML reads {value} as text, write it as {float(value)!r}"
        raise TypeError(
            f"it is {value!r}, which is {type(value).__name__}, but must be {annotation}{hint}"
        ) from None


def _conform(value: Any, node: ast.expr) -> Any:
    match node:
        case ast.Name(id="float") if type(value) in (int, float):
            return float(value)
        case ast.Name(id=name) if name in _SIMPLE and type(value) is _SIMPLE[name]:
            return value
        case ast.Constant(value=None) if value is None:
            return None
        case ast.Subscript(value=ast.Name(id="list"), slice=item) if isinstance(value, list | tuple):
            return [_conform(element, item) for element in value]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            try:
                return _conform(value, left)
            except TypeError:
                return _conform(value, right)
    raise TypeError
