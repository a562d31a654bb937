"""The schema of every table that passes between notebooks, and checked Parquet.

A table is written only if it fits its schema, and read the same way, so that a notebook
never meets a column of another name, type or unit than the one before it wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ctlib.core.workspace import replacing


class TableError(ValueError):
    """A table does not fit its schema: one sentence with table, column and value."""


@dataclass(frozen=True)
class Column:
    """One column: pandas dtype, unit or meaning, and whether it may be empty."""

    name: str
    dtype: str
    meaning: str
    nullable: bool = False


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    """Rows of (name, dtype, meaning); a dtype that ends in `?` may be empty."""
    return tuple(Column(n, d.removesuffix("?"), m, d.endswith("?")) for n, d, m in rows)


SCHEMAS: dict[str, tuple[Column, ...]] = {
    "series": _columns(
        ("cohort", "str", "name of the cohort"),
        ("patient_id", "str", "pseudonym of the patient; of the study where the source names no patient"),
        ("study_uid", "str", "pseudonym of the study"),
        ("series_uid", "str", "pseudonym of the series"),
        ("n_files", "int64", "files of the series"),
        ("n_slices", "int64", "slices of its volume"),
        ("rows_px", "int64", "rows of an upright slice, before it was stored"),
        ("cols_px", "int64", "columns of an upright slice, before it was stored"),
        ("spacing_z_mm", "float64", "distance between slices, mm, from positions"),
        ("spacing_y_mm", "float64", "distance between rows, mm"),
        ("spacing_x_mm", "float64", "distance between columns, mm"),
        ("thickness_mm", "float64?", "SliceThickness, mm, as the file claims it"),
        ("kernel", "str?", "reconstruction kernel"),
        ("manufacturer", "str?", "maker of the scanner"),
        ("label", "int64?", "exam label, 1 = disease; empty where it is not known"),
    ),
    "features": _columns(
        ("series_uid", "str", "series"),
        ("name", "str", "column of the user's label file"),
        ("value", "float64?", "what it says of the exam; empty where it says nothing"),
    ),
    "slices": _columns(
        ("series_uid", "str", "series"),
        ("slice", "int64", "index into the volume, 0 = the most inferior"),
        ("z_mm", "float64", "patient coordinate along Superior, mm"),
        ("label", "int64?", "1 = disease on this slice; empty where it is not known"),
    ),
    "problems": _columns(
        ("cohort", "str", "name of the cohort"),
        ("path", "str", "pseudonym of the file or folder, relative to the root; or of the series"),
        ("n_files", "int64", "files it stands for"),
        ("reason", "str", "one sentence"),
    ),
    "checks": _columns(
        ("series_uid", "str", "series"),
        ("air_hu", "float64?", "peak of air in the stored volume, HU; empty where it has none"),
        ("tissue_hu", "float64?", "peak of soft tissue, HU; empty where it has none"),
        ("body_hu", "float64?", "highest peak above lung, HU; empty where it has none"),
        ("air_share", "float64", "share of voxels near the peak of air"),
        ("tissue_share", "float64", "share of voxels near the peak of soft tissue"),
        ("padding_share", "float64", "share of voxels at exactly -1024 HU"),
        ("body_share", "float64", "share of voxels above lung"),
        ("dense_share", "float64", "share of voxels above 300 HU"),
        ("coarse", "str", "the volume in a few blocks, base64 of int16 HU"),
    ),
    "marks": _columns(
        ("series_uid", "str", "series"),
        ("nodule", "int64", "cluster of readers' marks of one nodule"),
        ("reader", "int64", "reader within the nodule, from 0"),
        ("slice", "int64", "index into the volume, 0 = the most inferior"),
        ("z_mm", "float64", "patient coordinate along Superior, mm"),
        ("inclusion", "bool", "False where the contour cuts a hole"),
        ("contour", "str", "points 'row,col' of the upright slice, px, joined by blanks"),
    ),
    "clips": _columns(
        ("series_uid", "str", "series"),
        ("clip", "int64", "index of the clip in its series, 0 = the most inferior"),
        ("start", "int64", "first slice"),
        ("stop", "int64", "slice after the last; the rest of the clip is air"),
        ("n_positive", "int64?", "slices with label 1"),
        ("label", "int64?", "clip label"),
    ),
    "splits": _columns(
        ("patient_id", "str", "patient"),
        ("split", "str", "train, val or test"),
    ),
    "folds": _columns(
        ("patient_id", "str", "patient"),
        ("fold", "int64", "from 0; one of them is test, the next val, the others are train"),
    ),
    "ledger": _columns(
        ("backbone", "str", "network"),
        ("init", "str", "where the weights come from"),
        ("tensor", "str", "name in the network"),
        ("shape", "str", "its shape"),
        ("n_parameters", "int64", "numbers in it"),
        ("status", "str", "loaded, adapted (why says how), head or random"),
        ("why", "str", "reason of the status"),
        ("checksum", "str", "first 16 hex digits of the SHA-256 of the tensor in memory"),
    ),
    "pretraining": _columns(
        ("init", "str", "init that is made"),
        ("backbone", "str", "network"),
        ("epoch", "int64", "from 1"),
        ("train_loss", "float64", "mean of the epoch"),
        ("heldout_loss", "float64", "on held-out clips"),
        ("heldout_metric", "float64", "on held-out clips"),
        ("metric", "str", "accuracy, study AUROC, or clips found again"),
        ("chance", "float64", "that metric of a network that has learnt nothing"),
    ),
    "runs": _columns(
        ("run_id", "str", "hash of all that changes the result"),
        ("task", "str", "task"),
        ("backbone", "str", "network"),
        ("init", "str", "where the weights come from"),
        ("fraction", "float64", "share of training patients whose labels are used"),
        ("seed", "int64", "of the training patients drawn, the order, the head"),
        ("fold", "int64", "turn of the cross-validation; 0 is table splits as it is"),
        ("lr", "float64", "learning rate"),
        ("status", "str", "finished, failed or missing"),
        ("error", "str?", "last line of the traceback of a failed run"),
        ("n_patients", "int64?", "distinct training patients"),
        ("n_studies", "int64?", "distinct training studies seen"),
        ("n_clips", "int64?", "distinct training clips seen"),
        ("n_parameters", "int64?", "numbers that are trained"),
        ("epochs", "int64?", "epochs trained"),
        ("best_epoch", "int64?", "epoch whose weights are used"),
        ("val_auroc", "float64?", "validation study AUROC at that epoch"),
        ("seconds", "float64?", "wall time of training and prediction, s"),
    ),
    "search": _columns(
        ("run_id", "str", "run of the search"),
        ("task", "str", "task"),
        ("backbone", "str", "network"),
        ("init", "str", "where the weights come from"),
        ("lr", "float64", "learning rate that was tried"),
        ("status", "str", "finished, failed or missing"),
        ("error", "str?", "last line of the traceback of a failed run"),
        ("val_auroc", "float64?", "validation study AUROC"),
        ("val_accuracy", "float64?", "share of validation studies on the right side of a score of 0.5"),
        ("chosen", "bool", "the best of its task, network and init"),
    ),
    "curves": _columns(
        ("run_id", "str", "run"),
        ("epoch", "int64", "from 1"),
        ("train_loss", "float64", "loss of the run, mean of the epoch"),
        ("val_loss", "float64", "loss of the run, mean over validation clips"),
        ("val_auroc", "float64?", "study AUROC on the validation split"),
    ),
    "predictions": _columns(
        ("run_id", "str", "run"),
        ("split", "str", "val or test"),
        ("patient_id", "str", "patient"),
        ("study", "str", "study"),
        ("clip", "int64", "index of the clip in its study"),
        ("score", "float64", "after the sigmoid, in [0, 1]"),
        ("label", "int64", "clip label"),
        ("study_label", "int64", "exam label"),
    ),
    "effects": _columns(
        ("task", "str", "task"),
        ("fraction", "float64", "share of training patients whose labels are used"),
        ("backbone", "str", "network, or 'mean of N networks'"),
        ("baseline", "str", "init that is subtracted"),
        ("init", "str", "init that is looked at"),
        ("auroc_baseline", "float64?", "mean over seeds"),
        ("auroc_init", "float64?", "mean over seeds"),
        ("effect", "float64?", "auroc_init - auroc_baseline"),
        ("low", "float64?", "lower end of the interval"),
        ("high", "float64?", "upper end of the interval"),
        ("se", "float64?", "standard error of the effect"),
        ("freedom", "float64?", "degrees of freedom of the standard error"),
        ("p_value", "float64?", "two-sided, of no effect"),
        ("p_holm", "float64?", "by Holm, over all rows of the table"),
        ("equivalent", "bool", "two one-sided tests show it within the margin of what would not matter"),
        ("spread", "float64?", "standard deviation of the effect between networks"),
        ("low_spread", "float64?", "lower end of its interval"),
        ("high_spread", "float64?", "upper end of its interval"),
        ("low_mean", "float64?", "lower end, mean over networks like these"),
        ("high_mean", "float64?", "upper end, mean over networks like these"),
        ("p_mean", "float64?", "two-sided, of no mean effect over networks like these"),
        ("low_next", "float64?", "lower end, effect of a next network"),
        ("high_next", "float64?", "upper end, effect of a next network"),
        ("p_next", "float64?", "probability that a next network benefits"),
        ("low_p_next", "float64?", "lower end of that probability"),
        ("high_p_next", "float64?", "upper end of that probability"),
        ("n_patients", "int64", "test patients"),
        ("n_positive", "int64", "test patients with disease"),
        ("n_seeds", "int64", "seeds"),
        ("n_networks", "int64", "networks averaged"),
        ("reason", "str", "why a value is empty, or ''"),
        ("reason_next", "str", "why nothing is said of other networks, or ''"),
    ),
}

SCHEMAS["controls"] = (*SCHEMAS["runs"], *_columns(("control", "str", "negative control of the run")))


def check(frame: pd.DataFrame, name: str, where: str = "") -> pd.DataFrame:
    """The same rows with exactly the schema's columns, in its order and types.

    Args:
        frame: the table.
        name: a key of `SCHEMAS`.
        where: the file, for the message.

    Raises:
        TableError: a column is missing, unknown, empty where it must not be, or of a
            value that its type cannot hold.
    """
    place = f"{where}: " if where else ""
    if name not in SCHEMAS:
        raise TableError(f"{place}no table is called {name!r}; known are {', '.join(SCHEMAS)}.")
    schema = SCHEMAS[name]
    wanted = [column.name for column in schema]
    missing = [column for column in wanted if column not in frame.columns]
    unknown = [str(column) for column in frame.columns if column not in wanted]
    if missing or unknown:
        raise TableError(
            f"{place}table {name!r} lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}; "
            f"its columns are {', '.join(wanted)}."
        )
    checked = {}
    for column in schema:
        values = frame[column.name]
        if not column.nullable and values.isna().any():
            row = int(values.isna().to_numpy().argmax())
            raise TableError(
                f"{place}table {name!r}, column {column.name!r}, row {row} is empty; it must have a value."
            )
        dtype = "Int64" if column.nullable and column.dtype == "int64" else column.dtype
        try:
            checked[column.name] = values.astype(dtype)
        except (ValueError, TypeError) as error:
            raise TableError(
                f"{place}table {name!r}, column {column.name!r} does not hold {column.dtype}: {error}."
            ) from error
    return pd.DataFrame(checked).reset_index(drop=True)


def empty(name: str) -> pd.DataFrame:
    """A table without rows.

    >>> len(empty("splits")), list(empty("splits").columns)
    (0, ['patient_id', 'split'])
    """
    return check(pd.DataFrame({column.name: [] for column in SCHEMAS[name]}), name)


def write(frame: pd.DataFrame, name: str, path: Path) -> Path:
    """Check a table and write it as Parquet, under a temporary name first.

    Raises:
        TableError: see `check`.
    """
    checked = check(frame, name, str(path))
    with replacing(path) as temporary:
        checked.to_parquet(temporary, index=False)
    return path


LATER = {"search": ("val_accuracy",)}
"""Columns that tables of before do not have: they are read as empty."""


def read(name: str, path: Path) -> pd.DataFrame:
    """Read a table and check it.

    Raises:
        FileNotFoundError: no such file.
        TableError: the file is no Parquet or does not fit the schema.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: table {name!r} has not been written.")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise TableError(f"{path} is no Parquet table: {error}. Delete it and write it again.") from error
    absent = [column for column in LATER.get(name, ()) if column not in frame.columns]
    return check(frame.assign(**dict.fromkeys(absent)), name, str(path))
