"""Parameters: what a notebook declares, what a profile gives, and whether the two fit.

One idea: a notebook is a function. Its arguments, with their defaults, are the literals of the cell tagged
`parameters`; a profile (a folder of YAML files) says what differs from them; all values are checked before the
first kernel starts, without importing anything heavy. Settings are data classes that take theirs by name.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctlib.core.text import nearest, nearest_name
from ctlib.core.workspace import HOME, PLAN, Places, display_path


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


def declared_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares in its cell tagged `parameters`.

    Raises:
        ParameterError: no such notebook, or a line of the cell is not `name: type = literal`.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError([f"{display_path(path)} is no readable notebook: {error}."]) from error
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    source = "".join(tagged[0]["source"]) if tagged else ""
    lines = [node for node in ast.parse(source).body if not ast.unparse(node).startswith("notebooks.use(")]
    found = [_parameter(node, source, path) for node in lines]
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


class _UniqueKeys(yaml.SafeLoader):
    """YAML that does not let a second key of the same name win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping, its keys checked."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The `name: value` lines of a file.

    Raises:
        ParameterError: it is no YAML, a name is there twice, or it holds something else.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ParameterError([f"{display_path(path)} is no YAML: {' '.join(str(error).split())}."]) from error
    if not isinstance(values or {}, dict):
        raise ParameterError([f"{display_path(path)} holds no 'name: value' lines."])
    return values or {}


Known = Mapping[str, Mapping[str, Parameter]]
"""What each notebook declares."""


def _unknown(notebook: str, key: str, known: Known) -> str:
    """Sentence about a key that its notebook does not have."""
    elsewhere = {name: other for other in known if other != notebook for name in known[other]}
    near = nearest(key, elsewhere)
    also = f" ({elsewhere[near[0]]} has {near[0]!r})" if near else ""
    return f"{notebook}.{key} is no parameter of that notebook{nearest_name(key, known[notebook])}{also}."


@dataclass(frozen=True)
class _Override:
    """One `--set`: `notebook` is '' where it is meant for all that have the key."""

    text: str
    notebook: str
    key: str
    raw: str

    def value(self, parameter: Parameter) -> Any:
        """What was written, as the declared type; text needs no quotes."""
        try:
            value = ast.literal_eval(self.raw)
        except (ValueError, SyntaxError):
            if not parameter.annotation.startswith("str"):
                raise TypeError(
                    f"{self.raw!r} is no literal of type {parameter.annotation}; write it like "
                    f"{parameter.default!r}"
                ) from None
            value = self.raw
        if parameter.annotation == "str" and not isinstance(value, str):
            value = self.raw
        return conform(value, parameter.annotation)


def _override(text: str, places: Places) -> _Override:
    left, equals, raw = text.partition("=")
    prefix, dot, key = left.strip().rpartition(".")
    if not equals or not key:
        raise ParameterError([f"--set {text!r} is not NOTEBOOK.KEY=VALUE, for example 03.seeds='[0]'."])
    notebook = places.find(prefix) if dot else ""
    if notebook is None:
        near = nearest_name(prefix, places.names)
        raise ParameterError([f"--set {text!r}: no notebook is called {prefix!r}{near}."])
    return _Override(text, notebook, key, raw.strip())


DEFAULT, SET = "the notebook", "--set"
"""Where a value comes from, beside the files of a profile."""


@dataclass(frozen=True)
class Profile:
    """The parameters of the notebooks of a profile, and where each value comes from.

    Args:
        values: by notebook, in the order in which they run, and by name; of the declared types.
        sources: alike; `DEFAULT`, the file of the profile, or `SET`.
    """

    values: dict[str, dict[str, Any]]
    sources: dict[str, dict[str, str]]


def load_profile(
    profile: str, overrides: Sequence[str] = (), places: Places = HOME
) -> dict[str, dict[str, Any]]:
    """The parameters of every notebook of a profile, checked, in the order in which they run.

    Args:
        profile: see `resolve_profile`.
        overrides: see `resolve_profile`.
        places: see `resolve_profile`.

    Raises:
        ParameterError: see `resolve_profile`.
    """
    return resolve_profile(profile, overrides, places).values


def resolve_profile(profile: str, overrides: Sequence[str] = (), places: Places = HOME) -> Profile:
    """The parameters of every notebook of a profile, checked, and where each comes from.

    A profile's folder holds one YAML file for each notebook that belongs to it. What a file does not give
    is the notebook's default. A key that several notebooks share has one value in a profile.

    Args:
        profile: name of a folder of `places.params`.
        overrides: texts `NOTEBOOK.KEY=VALUE` for one notebook (by name or number), or
            `KEY=VALUE` for all that have the key; values are Python literals, text also bare.
        places: where to look.

    Raises:
        ParameterError: anything is unknown, of the wrong type or no literal; every problem is a line with
            the notebook, the key and the nearest right name.
    """
    folder = places.params / profile
    if not folder.is_dir():
        profiles = sorted({path.parent.name for path in places.params.glob("*/*.yaml")})
        near = nearest_name(profile, profiles)
        raise ParameterError(
            [
                f"{display_path(places.params)} has no profile {profile!r}{near}; known are {', '.join(profiles)}."
            ]
        )
    names = [name for name in places.names if (folder / f"{name}.yaml").is_file()]
    known = {name: declared_parameters(places.notebooks / f"{name}.ipynb") for name in places.names}
    given = {name: read_yaml(folder / f"{name}.yaml") for name in names}
    problems = [
        f"{display_path(path)} belongs to no notebook{nearest_name(path.stem, places.names)}."
        for path in sorted(folder.glob("*.y*ml"))
        if path.name not in {PLAN, *(f"{name}.yaml" for name in names)}
    ]
    defaults = {name: {key: p.default for key, p in known[name].items()} for name in names}
    values = {name: defaults[name] | given[name] for name in names}
    for name in names:  # what a misspelt name was meant for has no value: it is one problem, not two
        for key in given[name].keys() - known[name].keys():
            for near in nearest(key, known[name]):
                if near not in given[name]:
                    del values[name][near]
    problems += _differing(values, given, profile)
    sources = {
        name: dict.fromkeys(values[name], DEFAULT)
        | dict.fromkeys(given[name], display_path(folder / f"{name}.yaml"))
        for name in names
    }
    for text in overrides:
        override = _override(text, places)
        problems += _apply(override, values, known, profile)
        for name in [override.notebook] if override.notebook in sources else names:
            if override.key in sources[name]:
                sources[name][override.key] = SET
    for name in names:
        problems += parameter_problems(name, values[name], known)
    if problems:
        raise ParameterError(problems)
    return Profile(
        {
            name: {key: conform(values[name][key], p.annotation) for key, p in known[name].items()}
            for name in names
        },
        sources,
    )


def _differing(
    values: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]], profile: str
) -> Iterator[str]:
    """Problems of keys that do not have the same value in each notebook of a profile."""
    first: dict[str, str] = {}
    for name, here in values.items():
        for key, value in here.items():
            other = first.setdefault(key, name)
            if values[other][key] != value:
                told = [f"{at}.{key} is {values[at][key]!r}" for at in (name, other)]
                told = [
                    one if key in given[at] else f"{one}, which is its default"
                    for one, at in zip(told, (name, other), strict=True)
                ]
                yield (
                    f"{told[0]}, but {told[1]}: a key that notebooks share has one value in profile "
                    f"{profile!r}; give it in both files."
                )
        if here.get("profile", profile) != profile:
            yield f"{name}.profile is {here['profile']!r}, but its file lies in profile {profile!r}."


def _apply(
    override: _Override, values: dict[str, dict[str, Any]], known: Known, profile: str
) -> Iterator[str]:
    """Put an override into the values; yields what is wrong with it."""
    notebook, key = override.notebook, override.key
    if notebook and notebook not in values:
        yield f"--set {override.text!r}: profile {profile!r} has no parameters for {notebook}."
        return
    here = [notebook] if notebook else [name for name in values if key in known[name]]
    if not here:
        near = nearest_name(key, sorted({name for each in values for name in known[each]}))
        yield f"--set {override.text!r}: no notebook has the parameter {key!r}{near}."
    for name in here:
        if key not in known[name]:
            yield _unknown(name, key, known)
            continue
        try:
            values[name][key] = override.value(known[name][key])
        except TypeError as error:
            yield f"{name}.{key} in --set: {error}."


def parameter_problems(name: str, given: Mapping[str, Any], known: Known) -> Iterator[str]:
    """Problems of one notebook's values: unknown, or of the wrong type."""
    yield from (_unknown(name, key, known) for key in given if key not in known[name])
    for key, parameter in known[name].items():
        if key in given:
            try:
                conform(given[key], parameter.annotation)
            except TypeError as error:
                yield f"{name}.{key}: {error} ({parameter.comment})."


def field_values(kind: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a data class's fields.

    Args:
        kind: the data class.
        values: by name; those that are no field are left alone, and fields that are not there are left out.
        prefix: a name that begins with it comes before the bare one: `pretrain_lr` before `lr`.

    >>> @dataclasses.dataclass
    ... class Cut:
    ...     length: int
    ...     flip: bool = False
    >>> field_values(Cut, {"length": 32, "lr": 0.1}), field_values(Cut, {"length": 32, "my_length": 16}, "my_")
    ({'length': 32}, {'length': 16})
    """
    found = {}
    for field in dataclasses.fields(kind):
        for name in (prefix + field.name, field.name):
            if name in values:
                found[field.name] = values[name]
                break
    return found
