"""Where the curves of a run are written while it computes: Lightning's loggers.

A CSV is always there, `runs/<run_id>/logs/metrics.csv`; TensorBoard or MLflow may come on top, in the
workspace: `tensorboard --logdir work/<profile>/tensorboard`, `mlflow ui --backend-store-uri
work/<profile>/mlflow`. A run that goes on writes the epochs it had before first, so a log is whole. No table
is made of these files, and they are no part of a run's id.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

CSV, TENSORBOARD, MLFLOW = "csv", "tensorboard", "mlflow"
PACKAGES = {CSV: "", TENSORBOARD: "tensorboard", MLFLOW: "mlflow"}
"""What each needs besides Lightning; also the name of the extra."""
LOGS = "logs"
"""Folder of the CSV in that of a run."""


def require(name: str) -> str:
    """A logger that there is, with its package.

    Raises:
        ValueError: it is unknown, or its package is not installed.

    >>> require("csv")
    'csv'
    """
    if name not in PACKAGES:
        raise ValueError(f"logger is {name!r}; known are {', '.join(PACKAGES)}.")
    package = PACKAGES[name]
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"logger is {name!r}, which needs the package {package}: pip install -e '.[{package}]', or take "
            f"{CSV}."
        )
    return name


def of_run(name: str, folder: Path, root: Path) -> list[Any]:
    """Lightning's loggers of a run.

    Args:
        name: a logger, see `require`.
        folder: of the run; its name is the run's id.
        root: of the workspace.

    Raises:
        ValueError: see `require`.
    """
    from lightning.pytorch import loggers

    shutil.rmtree(folder / LOGS, ignore_errors=True)  # of a run that goes on; Lightning would warn
    made: list[Any] = [loggers.CSVLogger(folder, name=LOGS, version="")]
    if require(name) == TENSORBOARD:
        made.append(loggers.TensorBoardLogger(root / TENSORBOARD, name=folder.name, version=""))
    elif name == MLFLOW:
        # files, one folder a run, so that many workers write at once; since mlflow 3 they must be allowed
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        where = (root / MLFLOW).as_uri()
        made.append(loggers.MLFlowLogger(root.name, run_name=folder.name, tracking_uri=where))
    return made
