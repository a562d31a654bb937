"""The runs of an experiment: expand, execute, resume, collect.

A run lives in `runs/<run_id>/`:

- `run.json`: its settings, written first;
- `last.ckpt`: its last epoch, while it is not finished;
- `weights.safetensors`, `curves.parquet`, `predictions.parquet`, `ledger.parquet`: what came out;
- `result.json`: the figures of table `runs`, written last: a run that has it is finished and is
  never computed again;
- `error.txt`: the traceback of its last failure.

A run that was killed goes on from its last epoch, and one that failed begins there again; what
comes out is the same, to the last bit, whatever the number of workers (on a CPU).
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit

from ctlib import metrics, tables
from ctlib.backbones import spec
from ctlib.clips import ClipDataset, ClipSettings, intensity
from ctlib.cohorts import task
from ctlib.inits import find, network
from ctlib.optimization import FitSettings
from ctlib.precision import choose
from ctlib.results import ERROR, RESULT, finished
from ctlib.runs import Run, fingerprint, labelled_clips, read_table, store_of
from ctlib.sampling import BalancedSampler
from ctlib.splits import fraction_patients
from ctlib.training import CHECKPOINT, FitError, Metric, fit, predict
from ctlib.workspace import Workspace, read_json, write_json, write_text

if TYPE_CHECKING:
    from ctlib.engine import Engine, Outcome


def expand(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    lr: float,
    **settings: Any,
) -> list[Run]:
    """All runs of an experiment, in an order in which the first ones cover all arms.

    Args:
        workspace: where data and weights lie.
        tasks: keys of `ctlib.cohorts.TASKS`.
        backbones: keys of networks.
        inits: where weights begin.
        fractions: shares of the training patients.
        seeds: seeds.
        lr: learning rate of all.
        settings: the other fields of `Run`, but for `data` and `weights`, which are looked up.

    Raises:
        MissingInput: data or weights were not made yet.
        FitError: all validation studies of a task have one label.
        ValueError: an unknown name or a setting out of range.
        TypeError: a setting is missing or unknown.
    """
    data = {name: fingerprint(workspace, task(name).cohort) for name in tasks}
    for name in tasks:  # here, not only in each run, so that nothing starts in vain
        rows = labelled_clips(workspace, task(name).cohort, settings.get("study_label", "exam"))
        study_auroc(rows[rows["split"] == "val"])
    weights = {
        (init, backbone): find(init, backbone, workspace, cohort_mean_std=(0.0, 1.0)).checksum
        for init in inits
        for backbone in backbones
    }
    runs = [
        Run(
            task=name,
            backbone=backbone,
            init=init,
            fraction=fraction,
            seed=seed,
            lr=lr,
            data=data[name],
            weights=weights[init, backbone],
            **settings,
        )
        for seed in seeds
        for fraction in fractions
        for name in tasks
        for backbone in backbones
        for init in inits
    ]
    return list(dict.fromkeys(runs))


def execute(work_dir: str, run: Run, loader_workers: int = 0) -> dict[str, Any]:
    """Compute one run, or what is left of it. This is what a worker does.

    Args:
        work_dir: root of the workspace.
        run: the run.
        loader_workers: processes that read clips ahead; worth it on a GPU.

    Returns:
        The content of `result.json`.

    Raises:
        Exception: whatever went wrong; `error.txt` has the traceback.
    """
    workspace = Workspace.at(work_dir)
    folder = workspace.runs / run.run_id
    if finished(workspace, run):
        return read_json(folder / RESULT)
    write_json(folder / "run.json", {**dataclasses.asdict(run), "run_id": run.run_id})
    try:
        result = _finetune(workspace, run, loader_workers)
    except Exception:
        write_text(folder / ERROR, traceback.format_exc())
        raise
    (folder / ERROR).unlink(missing_ok=True)
    write_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _finetune(workspace: Workspace, run: Run, loader_workers: int) -> dict[str, Any]:
    """Train, predict, write the tables; returns the figures of the run."""
    cohort = task(run.task).cohort
    if fingerprint(workspace, cohort) != run.data:
        raise FitError(f"cohort {cohort} has changed since this run was planned; run 03_finetune_grid again.")
    folder, store = workspace.runs / run.run_id, store_of(workspace, run)
    rows = labelled_clips(workspace, cohort, run.study_label)
    cut = ClipSettings(run.clip_length, run.crop_px, task(run.task).hu_window, run.rotation_deg)
    in_split = {name: part.reset_index(drop=True) for name, part in rows.groupby("split")}
    splits = read_table(workspace, "splits", cohort)
    patients = fraction_patients(splits, read_table(workspace, "series", cohort), run.fraction, run.seed)
    used = in_split["train"][in_split["train"]["patient_id"].isin(patients)].reset_index(drop=True)

    cohort_mean_std = intensity(store, in_split["train"], cut)
    init = find(run.init, run.backbone, workspace, cohort_mean_std)
    model, ledger = network(run.backbone, run.size, init, run.seed)  # type: ignore[arg-type]
    compute = choose(run.precision, spec(run.backbone))
    sampler = BalancedSampler(used["label"].tolist(), run.steps_per_epoch * run.batch_size, run.seed)
    names = {field.name for field in dataclasses.fields(FitSettings)}
    fitted = fit(
        model,
        ClipDataset(store, used, cut, train=True, seed=run.seed),
        sampler,
        ClipDataset(store, in_split["val"], cut, train=False),
        study_auroc(in_split["val"]),
        FitSettings(**{name: value for name, value in dataclasses.asdict(run).items() if name in names}),
        compute,
        folder,
        run.seed,
        loader_workers,
    )
    started = time.perf_counter()
    test = ClipDataset(store, in_split["test"], cut, train=False)
    logits = {
        "val": fitted.val_logits,
        "test": predict(model, test, run.batch_size, compute, loader_workers),
    }
    predictions = pd.concat([_predictions(run.run_id, in_split[name], logits[name]) for name in logits])
    curves = fitted.curves.rename(columns={"val_metric": "val_auroc"}).assign(run_id=run.run_id)
    for name, table in (("curves", curves), ("predictions", predictions), ("ledger", ledger)):
        tables.write(table, name, folder / f"{name}.parquet")
    return {
        "run_id": run.run_id,
        "n_patients": int(used["patient_id"].nunique()),
        "n_studies": int(used["study"].nunique()),
        "n_clips": _n_drawn(sampler, len(curves)),
        "n_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "epochs": len(curves),
        "best_epoch": fitted.best_epoch,
        "val_auroc": float(curves["val_auroc"][fitted.best_epoch - 1]),
        "seconds": fitted.seconds + time.perf_counter() - started,
        "peak_memory_mb": _peak_memory_mb(),
        "compute": str(compute),
        "torch": torch.__version__,
    }


def study_auroc(clips: pd.DataFrame) -> Metric:
    """The validation metric: logits of clips to the AUROC of their studies' highest scores.

    Args:
        clips: columns patient_id, study, split, clip, label, study_label; as `labelled_clips` gives them.

    Raises:
        FitError: all studies have one label, so there is no AUROC.
    """
    labels = clips.drop_duplicates("study")["study_label"]
    if labels.nunique() < 2:
        raise FitError(
            f"the validation split has {len(labels)} studies, all with label {labels.iloc[0]}, so no AUROC "
            "can choose the best epoch; give it a larger share (split_shares), or another split_seed."
        )

    def metric(logits: NDArray[np.float32]) -> float:
        studies = metrics.study_scores(_predictions("", clips, logits))
        auroc = metrics.auroc(studies["label"], studies["score"])
        if auroc.reason:
            raise FitError(f"validation AUROC is not defined: {auroc.reason}.")
        return auroc.value

    return metric


def _predictions(run_id: str, clips: pd.DataFrame, logits: NDArray[np.float32]) -> pd.DataFrame:
    """Table `predictions` of clips and their logits `[n_clips, 1]`."""
    columns = [column.name for column in tables.SCHEMAS["predictions"]]
    scores = expit(logits[:, 0].astype(np.float64))  # of float64: no ties from rounding to 1
    return clips.assign(run_id=run_id, score=scores)[columns]


def _n_drawn(sampler: BalancedSampler, epochs: int) -> int:
    """Distinct training clips that the epochs saw."""
    seen: set[int] = set()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        seen.update(map(int, sampler))
    return len(seen)


def _peak_memory_mb() -> float:
    """Most memory this process has had so far, MB: in a worker, over all of its runs."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run_grid(
    workspace: Workspace,
    runs: Sequence[Run],
    engine: Engine,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
) -> None:
    """Compute the runs that are not finished; a failed one stops no other.

    Args:
        workspace: where everything lies.
        runs: from `expand`.
        engine: where they execute.
        echo: takes one line a run that ends.
        loader_workers: see `execute`.
    """
    todo = [run for run in runs if not finished(workspace, run)]
    echo(f"{len(runs) - len(todo)} of {len(runs)} runs were finished before; {len(todo)} to compute.")

    def line(outcome: Outcome) -> str:
        run = todo[outcome.index]
        if outcome.error is not None:
            return f"{run}: failed: {outcome.reason}"
        result = outcome.value
        return (
            f"{run}: validation AUROC {result['val_auroc']:.3f} at epoch {result['best_epoch']} of "
            f"{result['epochs']}, {result['seconds']:.1f} s"
        )

    def on_done(outcome: Outcome) -> None:
        if outcome.error is not None:  # a worker that died could not write it
            write_text(workspace.runs / todo[outcome.index].run_id / ERROR, outcome.error)
        echo(line(outcome))

    work = partial(execute, str(workspace.root), loader_workers=loader_workers)
    engine.run(work, todo, what="finetuning runs", note=line, on_done=on_done)
