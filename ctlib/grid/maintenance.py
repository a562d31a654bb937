"""The folders of runs as they lie there: listed, tried again, freed of what no table needs.

Whatever is asked here is answered by the files alone, without data, weights or torch, so that it is quick
and works while a grid computes, on a cluster too. A run that failed has its traceback in `error.txt`: a grid
leaves it alone, for it would fail again. `retry` puts the traceback aside (`error.previous.txt`), and the
next grid computes the run, from its last epoch, or from the beginning.

Nothing is deleted of a folder that a process has claimed (`ctlib.core.locks`), and never predictions, curves,
ledgers and results.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctlib.core import Workspace, command, display_path

if TYPE_CHECKING:
    import pandas as pd

SETTINGS_FILE, RESULT, ERROR = "run.json", "result.json", "error.txt"
CHECKPOINT, WEIGHTS, WEIGHTS_RECORD = "last.ckpt", "weights.safetensors", "weights.json"
"""Files of a run's folder (`ctlib.training.finetune`); named here too, for torch is not needed. A test compares."""
PREVIOUS = "error.previous.txt"
"""The traceback of a run that is tried again."""
FEATURES = "features"
"""Folder of the features of frozen networks (`ctlib.training.features`)."""
CLAIM = "claim."
"""How the file of a process that computes a run begins (`ctlib.core.locks`)."""

FINISHED, FAILED, BEGUN, MISSING = "finished", "failed", "begun", "missing"
"""What became of a run. `begun`: it is being computed, or was interrupted and will go on."""

MAX_TOLD = 12
"""Reasons of failures that are told."""

COLUMNS = (
    *("run_id", "task", "backbone", "init", "fraction", "seed", "lr"),
    *("status", "val_auroc", "seconds", "peak_memory_mb", "peak_gpu_mb", "error"),
)
"""Of `listed`."""
MEMORY = ("peak_memory_mb", "peak_gpu_mb")
"""Columns that are empty where no run has finished, or none on a GPU."""
_SETTINGS, _FIGURES = COLUMNS[1:7], ("val_auroc", "seconds", *MEMORY)


class HousekeepingError(ValueError):
    """What is asked cannot be done: one sentence."""


# ---- looking ---------------------------------------------------------------------------


def status(names: Collection[str]) -> str:
    """What became of a run, from the names of its files.

    >>> status(["run.json", "last.ckpt"]), status(["run.json", "error.txt", "last.ckpt"])
    ('begun', 'failed')
    >>> status(["run.json", "error.txt", "result.json"]), status([])
    ('finished', 'missing')
    """
    if RESULT in names:
        return FINISHED
    if ERROR in names:
        return FAILED
    return BEGUN if SETTINGS_FILE in names else MISSING


def _names(folder: Path | str) -> list[str]:
    """Names of the files of a folder; none where it is gone or is no folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def states(folder: Path, run_ids: Sequence[str]) -> list[str]:
    """What became of many runs: the folder of runs is listed once, and each run's that is there.

    Args:
        folder: `Workspace.runs`; it may be missing.
        run_ids: of the runs that are asked for.

    Returns:
        `finished`, `failed`, `begun` or `missing`, in the order of the ids.
    """
    there, root = set(_names(folder)), str(folder)
    return [status(_names(f"{root}/{i}")) if i in there else MISSING for i in run_ids]


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders of runs and the names of their files, in order; links are passed over."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            found = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        for path in found:
            names = _names(path)
            if SETTINGS_FILE in names:
                yield Path(path), names


def listed(workspace: Workspace, only_failed: bool = False) -> pd.DataFrame:
    """All runs that were ever begun here, whatever grid they belong to.

    Args:
        workspace: where they lie.
        only_failed: those alone.

    Returns:
        Columns `COLUMNS`, sorted by task, network, init, fraction and seed. `error` is the reason of a
        failure, or what makes the folder unreadable. val_auroc, seconds and memory are empty where there are none.
    """
    import pandas as pd  # here, for the command line imports this module

    rows = []
    for path, names in _folders(workspace.runs):
        found = status(names)
        if only_failed and found != FAILED:
            continue
        row: dict[str, Any] = {"run_id": path.name, "status": found}
        row |= _read(path / SETTINGS_FILE, _SETTINGS)
        if found == FINISHED:
            row |= _read(path / RESULT, _FIGURES)
        elif found == FAILED:
            row["error"] = reason(path / ERROR)
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values([*_SETTINGS[:5], "run_id"], ignore_index=True, na_position="last")


def require_finished(workspace: Workspace, run_id: str) -> None:
    """Refuse a run that is not there or not finished.

    Raises:
        HousekeepingError: so it is; the sentence names the command that lists the runs.
    """
    folder = workspace.runs / run_id
    listed = f"`{command('runs', workspace.root.name)}` lists the runs"
    if not run_id or not (folder / SETTINGS_FILE).is_file():
        raise HousekeepingError(f"{display_path(folder)} holds no run; {listed}.")
    if not (folder / RESULT).is_file():
        raise HousekeepingError(f"run {run_id} is not finished; {listed}.")


def _read(path: Path, keys: Sequence[str] | None = None) -> dict[str, Any]:
    """Some values of a JSON file, or all; of one that is gone or damaged, the reason under `error`."""
    try:
        values = json.loads(path.read_bytes())
        return {key: values[key] for key in keys or values if key in values}
    except (OSError, ValueError, TypeError) as error:
        return {"error": f"{path.name} cannot be read ({type(error).__name__})"}


def reason(path: Path) -> str:
    """The whole message at the end of a traceback, as one line, without the module of its class; "" where none is."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    last = (
        max((i for i, line in enumerate(lines) if line.startswith(("Traceback", "  File "))), default=-1) + 1
    )
    while last and last < len(lines) and lines[last].startswith("    "):  # the source of the last frame
        last += 1
    return re.sub(r"^(\w+\.)+(?=\w+:)", "", " ".join(" ".join(lines[last:]).split()))


def differences(workspace: Workspace, table: pd.DataFrame) -> pd.DataFrame:
    """Runs with the settings that tell those apart that have task, network, init, fraction and seed in common.

    Args:
        workspace: where they lie.
        table: from `listed`.

    Returns:
        The table; `lr` only where it tells runs apart, and other such settings after the seed.
    """
    import pandas as pd

    names = [name for name in _SETTINGS if name != "lr"]
    records = [_read(workspace.runs / run_id / SETTINGS_FILE) for run_id in table["run_id"]]
    alike: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        alike.setdefault(json.dumps([record.get(name) for name in names]), []).append(record)
    keys = dict.fromkeys(
        key for record in records for key in record if key not in (*names, "run_id", "error")
    )
    telling = [
        key
        for key in keys
        if any(len({json.dumps(record.get(key)) for record in group}) > 1 for group in alike.values())
    ]
    more = pd.DataFrame([[record.get(key) for key in telling] for record in records], table.index, telling)
    place = len(names) + 1
    kept = table.drop(columns="lr")
    return pd.concat([kept.iloc[:, :place], more, kept.iloc[:, place:]], axis=1)


def failures(workspace: Workspace) -> list[str]:
    """What failed of the last grid; of a search for learning rates nothing, for some of its rates are too high.

    Args:
        workspace: with tables `runs` and `controls`, where they are there.

    Returns:
        How many runs, then a line for each network, init and reason; nothing where none failed.
    """
    from ctlib.core import tables

    asked: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str, str]] = Counter()
    for name in ("runs", "controls"):
        if (path := workspace.table(name)).is_file():
            for row in tables.read(name, path).itertuples():
                asked[row.init, row.backbone] += 1
                if row.status == FAILED:
                    failed[row.init, row.backbone, reason(workspace.runs / row.run_id / ERROR)] += 1
    told = [
        f"  init {init}, network {backbone}: {n} of {asked[init, backbone]}: {why or 'no reason is known'}"
        for (init, backbone, why), n in failed.items()
    ]
    more = [f"  and {len(told) - MAX_TOLD} more reasons"] if len(told) > MAX_TOLD else []
    return told and [f"{failed.total()} of {asked.total()} runs failed:", *told[:MAX_TOLD], *more]


# ---- trying again ----------------------------------------------------------------------


def retry(workspace: Workspace, run_ids: Collection[str] = (), from_start: bool = False) -> pd.DataFrame:
    """Let the next grid compute failed runs again.

    Args:
        workspace: where they lie.
        run_ids: which; none means all that failed.
        from_start: delete their checkpoints too, so that they begin again: where the loss was not finite, the
            last epoch would lead there once more.

    Returns:
        The rows of `listed` of these runs, as they were.

    Raises:
        HousekeepingError: one of the ids is no failed run; nothing was changed.
    """
    failed = listed(workspace, only_failed=True)
    if run_ids:
        strange = sorted(set(run_ids) - set(failed["run_id"]))
        if strange:
            found = states(workspace.runs, strange[:1])[0]
            raise HousekeepingError(
                f"run {strange[0]} is {found}, not failed; `{command('runs', workspace.root.name, '--failed')}` "
                "lists those that are."
            )
        failed = failed[failed["run_id"].isin(set(run_ids))].reset_index(drop=True)
    for run_id in failed["run_id"]:
        folder = workspace.runs / run_id
        if from_start:  # first: a grid that starts between the two must not go on from it
            (folder / CHECKPOINT).unlink(missing_ok=True)
        (folder / ERROR).replace(folder / PREVIOUS)
    return failed


# ---- making room -----------------------------------------------------------------------


@dataclass(frozen=True)
class Waste:
    """Files of one kind that can be deleted.

    Args:
        what: they are.
        paths: of the files.
        n_bytes: their size.
    """

    what: str
    paths: tuple[Path, ...]
    n_bytes: int

    @classmethod
    def of(cls, what: str, paths: Sequence[Path]) -> Waste:
        """Files with their size; those that are gone are left out."""
        sizes = {path: path.stat().st_size for path in paths if path.is_file() and not path.is_symlink()}
        return cls(what, tuple(sizes), sum(sizes.values()))


def waste(
    workspace: Workspace, keep_weights: bool = False, needed: Collection[str] | None = None
) -> list[Waste]:
    """What no table needs.

    Args:
        workspace: where the runs lie.
        keep_weights: leave the weights of finished runs, which `ctlib predict` needs.
        needed: ids of the grid; runs that are not finished and none of these lose checkpoint and weights.
            None leaves all that are not finished, so that each can go on.

    Returns:
        Kinds of files, those that are there.
    """
    found: dict[str, list[Path]] = {
        "checkpoints of finished runs": [],
        "weights of finished runs": [],
        "checkpoints and weights of unfinished runs that are not in the grid": [],
    }
    left, weights, stale = found.values()
    for folder, names in _folders(workspace.runs):
        if any(name.startswith(CLAIM) for name in names):
            continue
        parts = [folder / name for name in names if CHECKPOINT in name]  # temporary ones have a dot before it
        files = [folder / name for name in (WEIGHTS, WEIGHTS_RECORD) if name in names]
        if RESULT in names:
            left += parts
            weights += [] if keep_weights else files
        elif needed is not None and folder.name not in needed:
            stale += [*parts, *files]
    if needed and set(states(workspace.runs, list(needed))) == {FINISHED}:
        files = sorted((workspace.root / FEATURES).glob("*/*"))
        busy = {path.parent for path in files if path.name.startswith(CLAIM)}
        what = "features of frozen networks, computed again for another head"
        found[what] = [path for path in files if path.parent not in busy]
    return [kind for kind in (Waste.of(*item) for item in found.items()) if kind.paths]


def delete(kinds: Sequence[Waste]) -> None:
    """Delete these files; one that is gone already is no fault.

    Raises:
        HousekeepingError: the system refuses; what was deleted before is gone, and no table misses it.
    """
    for path in (path for kind in kinds for path in kind.paths):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise HousekeepingError(f"{display_path(path)} cannot be deleted: {error.strerror}.") from error
