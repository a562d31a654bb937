"""Where the curves of a run are written while it computes: Lightning's loggers.

A CSV is always there, `runs/<run_id>/logs/metrics.csv`; another of `LOGGERS` may come on top, in the
workspace: `tensorboard --logdir work/<profile>/tensorboard`, `mlflow ui --backend-store-uri
work/<profile>/mlflow`, `wandb sync work/<profile>/wandb/offline-run-*`. A run that goes on writes the epochs
it had before first, so a log is whole. No table is made of these files, and they are no part of a run's id.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CSV = "csv"
LOGS = "logs"
"""Folder of the CSV in that of a run."""


@dataclass(frozen=True)
class Logger:
    """A logger that a run may have.

    Args:
        make: the folder of a run, whose name is the run's id, and the root of the workspace to a logger of
            Lightning's.
        package: what it needs besides Lightning; also the name of the extra.
    """

    make: Callable[[Path, Path], Any]
    package: str = ""


def _csv(folder: Path, root: Path) -> Any:
    """Lines of `logs/metrics.csv` in the folder of the run."""
    from lightning.pytorch.loggers import CSVLogger

    shutil.rmtree(folder / LOGS, ignore_errors=True)  # of a run that goes on; Lightning would warn
    return CSVLogger(folder, name=LOGS, version="")


def _tensorboard(folder: Path, root: Path) -> Any:
    """A folder of `tensorboard/` a run."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(root / "tensorboard", name=folder.name, version="")


def _mlflow(folder: Path, root: Path) -> Any:
    """A run of `mlflow/`: files, one folder a run, so that many workers write at once."""
    from lightning.pytorch.loggers import MLFlowLogger

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # since mlflow 3 they must be allowed
    return MLFlowLogger(root.name, run_name=folder.name, tracking_uri=(root / "mlflow").as_uri())


def _wandb(folder: Path, root: Path) -> Any:
    """A run of `wandb/`: nothing leaves this machine before `wandb sync`."""
    from lightning.pytorch.loggers import WandbLogger

    class Ending(WandbLogger):
        """Ends its run with the fit; the next one of this process would be written into it."""

        def finalize(self, status: str) -> None:
            """Close the files of the run."""
            super().finalize(status)
            if self._experiment is not None:
                self._experiment.finish(exit_code=int(status != "success"))

    return Ending(folder.name, save_dir=root, project=root.name, offline=True)


LOGGERS = {
    CSV: Logger(_csv),
    "tensorboard": Logger(_tensorboard, "tensorboard"),
    "mlflow": Logger(_mlflow, "mlflow"),
    "wandb": Logger(_wandb, "wandb"),
}
"""Loggers by the names that parameter `logger` uses."""


def require(name: str) -> str:
    """A logger that there is, with its package.

    Raises:
        ValueError: it is unknown, or its package is not installed.

    >>> require("csv")
    'csv'
    """
    if name not in LOGGERS:
        raise ValueError(f"logger is {name!r}; known are {', '.join(LOGGERS)}.")
    package = LOGGERS[name].package
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"logger is {name!r}, which needs the package {package}: pip install -e '.[{package}]', or take "
            f"{CSV}."
        )
    return name


def of_run(name: str, folder: Path, root: Path) -> list[Any]:
    """Lightning's loggers of a run: the CSV, and the one that is asked for.

    Args:
        name: a logger, see `require`.
        folder: of the run; its name is the run's id.
        root: of the workspace.

    Raises:
        ValueError: see `require`.
    """
    return [LOGGERS[each].make(folder, root) for each in dict.fromkeys((CSV, require(name)))]
