"""Cohorts: one module a dataset, all giving the same tables; and the tasks asked of them.

A dataset is an entry of `COHORTS` and the module `ctlib.datasets.<name>`. Its function `read(root, values,
run)` gives the `Cohort` of the files in folder `root`; `values` holds the parameters of `01_explore_data`,
those of the dataset among them, and `run` spreads the reading of headers. Where the files can be downloaded,
the function `plan(folder, patients)` of `ctlib.datasets.download.<name>` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from ctlib import io
from ctlib.core import HU_WINDOWS, Identity, Workspace, printable, tables
from ctlib.datasets.store import Store, StoreError
from ctlib.io import SeriesError, Volume

TABLES = ("series", "slices", "problems", "marks")
"""Tables of a cohort, keys of `tables.SCHEMAS`."""
FEATURES = "features"
"""Table of those cohorts whose source says more of an exam than its label."""


class CohortError(ValueError):
    """The files of a dataset are not what they should be: one sentence with file and field.

    Args:
        text: fit for a report.
        shown: the same with names of files, for the terminal of their owner; by default the same text.
    """

    def __init__(self, text: str, shown: str = "") -> None:
        super().__init__(text)
        self.shown = shown or text


def commonest(problems: pd.DataFrame) -> str:
    """How many files are refused, and the reason of most of them.

    Args:
        problems: n_files and reason.

    >>> commonest(pd.DataFrame({"n_files": [3, 1], "reason": ["Refused: no CT.", "Refused: empty."]}))
    '4 files are refused, 3 of them with the reason "no CT"'
    """
    counts = problems.groupby("reason")["n_files"].sum()
    if not counts.sum():
        return "it holds no files"
    reason = str(counts.idxmax()).removeprefix("Refused: ").removeprefix("Not used: ").rstrip(".")
    n, of = int(counts.sum()), int(counts.max())
    files = "1 file is" if n == 1 else f"{n} files are"
    return f'{files} refused, {"all" if of == n and n > 1 else of} of them with the reason "{reason}"'


@dataclass(frozen=True)
class Task:
    """A question asked of every clip of a cohort.

    Args:
        name: key in `TASKS`.
        cohort: cohort whose labels it uses.
        hu_window: name of the HU window, a key of `hu.HU_WINDOWS`.
        title: what people read.
        min_positive_slices: positive slices that make a clip positive (Ke et al. 2023).
    """

    name: str
    cohort: str
    hu_window: str
    title: str
    min_positive_slices: int = 4


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset beside its files.

    Args:
        terms: of its use, and so of weights that were learnt from it.
        tasks: what is asked of it.
        patients_of: cohort whose patients these are, too; "" for patients of its own. What was learnt from the
            labels of one is no start for the other.
    """

    terms: str
    tasks: tuple[Task, ...]
    patients_of: str = ""


FOLDER = "folder"
"""Cohort of a user's own volumes; its task is called after the HU window it is looked at in."""
COHORTS = {
    "rspect": Dataset(
        "RSNA's terms of RSPECT, no commercial use",
        (Task("rspect_pe", "rspect", "pe", "Pulmonary embolism on contrast CT (RSPECT)"),),
    ),
    "lidc": Dataset(
        "CC BY 3.0 (LIDC-IDRI, TCIA)", (Task("lidc_nodule", "lidc", "lung", "Lung nodule (LIDC-IDRI)"),)
    ),
    FOLDER: Dataset(
        "its owner's", tuple(Task(f"{FOLDER}_{name}", FOLDER, name, "Own data") for name in HU_WINDOWS)
    ),
    "luna16": Dataset(
        "CC BY 4.0 (LUNA16); images: CC BY 3.0 (LIDC-IDRI, TCIA)",
        (Task("luna16_nodule", "luna16", "lung", "Lung nodule (LUNA16, patients of LIDC-IDRI)"),),
        patients_of="lidc",
    ),
    "nlst501": Dataset(
        "CC BY 4.0 (LIDC-annot-NLST501, NLST, TCIA)",
        (Task("nlst501_nodule", "nlst501", "lung", "Lung nodule (NLST, read as LIDC-IDRI was)"),),
    ),
    "nodulemnist3d": Dataset(
        "CC BY 4.0 (MedMNIST); images: CC BY 3.0 (LIDC-IDRI, TCIA)",
        (
            Task(
                "nodulemnist3d_malignancy",
                "nodulemnist3d",
                "lung",
                "Malignancy of a nodule as readers rated it (NoduleMNIST3D, 8-bit crops, patients of LIDC-IDRI)",
            ),
        ),
        patients_of="lidc",
    ),
}
"""All datasets, by the name of their cohort."""
TASKS = {task.name: task for dataset in COHORTS.values() for task in dataset.tasks}
"""All tasks, by name."""


def task(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: no task has that name; the message lists those that there are.

    >>> task("lidc_nodule").hu_window
    'lung'
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; known are {', '.join(TASKS)}.")
    return TASKS[name]


def same_patients(one: str, other: str) -> bool:
    """Whether two cohorts have patients in common, as far as is known.

    >>> same_patients("luna16", "lidc"), same_patients("lidc", "rspect"), same_patients("folder", "folder")
    (True, False, True)
    """
    names = [COHORTS[name].patients_of or name if name in COHORTS else name for name in (one, other)]
    return names[0] == names[1]


def tasks_of(cohorts: Sequence[str], hu_window: str) -> dict[str, Task]:
    """A task for each cohort.

    Args:
        cohorts: names of cohorts.
        hu_window: name of the HU window of the cohort `folder`.

    >>> tasks_of(["lidc", "folder"], "pe")["folder"].name
    'folder_pe'
    """
    task(f"{FOLDER}_{hu_window}")
    by_cohort = {known.cohort: known for known in TASKS.values()}
    by_cohort[FOLDER] = TASKS[f"{FOLDER}_{hu_window}"]
    return {name: by_cohort[name] for name in cohorts}


@dataclass(frozen=True)
class Cohort:
    """The tables of a dataset.

    Args:
        name: name of the cohort.
        series: table `series`.
        slices: table `slices`.
        problems: table `problems`; its files and those of `series` are all that were found.
        marks: table `marks`.
        files: files of each series, inferior to superior; empty after `load_tables`.
        sources: `tree.source_checksum` of each series; empty after `load_tables`.
        splits: split of each patient where the source names one; empty elsewhere.
        features: table `features`: what the source says of an exam that may tell its label.
    """

    name: str
    series: pd.DataFrame
    slices: pd.DataFrame
    problems: pd.DataFrame
    marks: pd.DataFrame
    files: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    features: pd.DataFrame = field(default_factory=lambda: tables.empty("features"))

    def hidden(self, identity: Identity) -> Cohort:
        """The same cohort with pseudonyms for patients, studies, series and paths.

        Raises:
            CohortError: two of them got the same pseudonym.
        """
        series = self.series.assign(
            patient_id=_renamed(self.series["patient_id"], identity.patient),
            study_uid=_renamed(self.series["study_uid"], identity.study),
            series_uid=_renamed(self.series["series_uid"], identity.series),
        )
        renamed = {
            name: frame.assign(series_uid=_renamed(frame["series_uid"], identity.series))
            for name, frame in (("slices", self.slices), ("marks", self.marks), (FEATURES, self.features))
        }
        problems = self.problems.assign(path=[identity.path(path) for path in self.problems["path"]])
        return replace(
            self,
            series=series,
            **renamed,
            problems=tables.check(problems, "problems"),
            files={identity.series(uid): paths for uid, paths in self.files.items()},
            sources={identity.series(uid): source for uid, source in self.sources.items()},
            splits={identity.patient(name): split for name, split in self.splits.items()},
        )

    def volume(self, series_uid: str) -> Volume:
        """A volume at its own matrix, read from its files, under the name that the tables have for it.

        Raises:
            CohortError: it cannot be read any more, or `files` is empty.
        """
        if series_uid not in self.files:
            raise CohortError(f"series {series_uid} has no files here; read the cohort first.")
        try:
            return replace(io.read_series(self.files[series_uid]), series_uid=series_uid)
        except SeriesError as error:  # whose text names files
            raise CohortError(f"series {series_uid} cannot be read any more: {error.reason}.") from None

    def without(self, refused: dict[str, str]) -> Cohort:
        """The same cohort with some series moved to its problems.

        Args:
            refused: reason by series_uid.
        """
        gone = self.series["series_uid"].isin(list(refused))
        rows = self.series.loc[gone, ["series_uid", "n_files"]].rename(columns={"series_uid": "path"})
        rows = rows.assign(cohort=self.name, reason=[refused[uid] for uid in rows["path"]])
        problems = pd.concat([self.problems, rows]) if len(rows) else self.problems
        kept = {
            name: frame[~frame["series_uid"].isin(list(refused))].reset_index(drop=True)
            for name, frame in (
                (name, getattr(self, name)) for name in ("series", "slices", "marks", FEATURES)
            )
        }
        files = {uid: paths for uid, paths in self.files.items() if uid not in refused}
        return replace(self, **kept, problems=tables.check(problems, "problems"), files=files)

    def save(self, workspace: Workspace) -> None:
        """Write the tables, checked.

        Raises:
            tables.TableError: one does not fit its schema.
        """
        for table in TABLES:
            tables.write(getattr(self, table), table, workspace.table(table, self.name))
        if len(self.features):
            tables.write(self.features, FEATURES, workspace.table(FEATURES, self.name))
        else:
            workspace.table(FEATURES, self.name).unlink(missing_ok=True)


def _renamed(ids: pd.Series, pseudonym: Callable[[str], str]) -> pd.Series:
    """Ids by their pseudonyms; each is computed once."""
    names = {name: pseudonym(name) for name in ids.unique()}
    if len(set(names.values())) != len(names):
        raise CohortError("two ids of the cohort have the same pseudonym; choose another id_key.")
    return ids.map(names).astype("str")


def load_tables(workspace: Workspace, name: str) -> Cohort:
    """A cohort's tables as `Cohort.save` wrote them; `files` is empty.

    Raises:
        MissingInput: a table is missing; the sentence names the notebook that writes it.
        tables.TableError: a table is damaged or of another version.
    """
    frames = {}
    for table in TABLES:
        path = workspace.require(workspace.table(table, name), "01_explore_data")
        frames[table] = tables.read(table, path)
    return Cohort(name, **frames, features=load_features(workspace, name))


def load_features(workspace: Workspace, name: str) -> pd.DataFrame:
    """Table `features` of a cohort; without rows where its source has none."""
    path = workspace.table(FEATURES, name)
    return tables.read(FEATURES, path) if path.is_file() else tables.empty(FEATURES)


def slice_rows(series: pd.DataFrame) -> pd.DataFrame:
    """One row a slice.

    Args:
        series: from `volumes.scan`.

    Returns:
        series_uid, slice (from 0, inferior to superior), z_mm, file (as `printable` gives it; of a volume in
        one file, the same for all).
    """
    names = ([printable(file) for file in files] for files in series["files"])
    files = [f if len(f) == n else f * n for f, n in zip(names, series["n_slices"], strict=True)]
    rows = series[["series_uid", "z_mm"]].assign(file=files)
    rows = rows.explode(["file", "z_mm"], ignore_index=True).astype({"z_mm": "float64"})
    rows.insert(1, "slice", rows.groupby("series_uid", sort=False).cumcount())
    return rows


def assemble(
    name: str,
    series: pd.DataFrame,
    slices: pd.DataFrame,
    problems: pd.DataFrame,
    marks: pd.DataFrame,
    refused: dict[str, str],
    root: Path,
) -> Cohort:
    """A cohort of what was found, without the series whose labels were refused.

    Args:
        name: name of the cohort.
        series: from `volumes.scan`, with labels.
        slices: one row a slice, with labels; more columns are dropped.
        problems: from `volumes.scan`.
        marks: table `marks`.
        refused: reason by series_uid.
        root: folder that paths in `problems` are relative to.
    """
    gone = series["series_uid"].isin(list(refused))
    moved = pd.DataFrame(
        {
            "path": [_place(files, root) for files in series.loc[gone, "files"]],
            "n_files": series.loc[gone, "n_files"].to_numpy(),
            "reason": [refused[uid] for uid in series.loc[gone, "series_uid"]],
        }
    )
    problems = pd.concat([problems, moved]) if len(moved) else problems

    def table(frame: pd.DataFrame, key: str) -> pd.DataFrame:
        if key != "problems":
            frame = frame[~frame["series_uid"].isin(list(refused))]
        frame = frame.assign(cohort=name)
        return tables.check(frame[[column.name for column in tables.SCHEMAS[key]]], key, f"cohort {name}")

    files = {
        uid: tuple(map(Path, paths))
        for uid, paths in zip(series["series_uid"], series["files"], strict=True)
        if uid not in refused
    }
    return Cohort(
        name,
        table(series, "series"),
        table(slices, "slices"),
        table(problems, "problems"),
        table(marks, "marks"),
        files,
        {
            uid: source
            for uid, source in zip(series["series_uid"], series["source"], strict=True)
            if uid in files
        },
    )


def _place(files: Sequence[str], root: Path) -> str:
    """The file or folder of a series, relative to the root."""
    path = Path(files[0]) if len(files) == 1 else Path(files[0]).parent
    return printable(str(path.relative_to(root)))


def store_series(item: tuple[str, str, tuple[str, ...]], store: Store) -> str:
    """Read a series and store its volume, unless it is there from the same files.

    Args:
        item: the series' name in the store, its source checksum, its files.
        store: where to.

    Returns:
        "", or why the series is refused, fit for a report.
    """
    uid, source, files = item
    try:
        if not store.has(uid, source):
            store.put(replace(io.open_series(files), series_uid=uid), source)
    except SeriesError as error:
        return f"Refused: {error.reason}."
    except StoreError as error:
        return f"Refused: {error}."
    except FileNotFoundError:
        return "Refused: a file is gone since the folder was scanned."
    return ""
