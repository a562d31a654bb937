"""One run: train, predict, write what came out. This is what a worker does.

A run lives in `runs/<run_id>/`:

- `run.json`: its settings, written first;
- `last.ckpt`: its last epoch, while it is not finished;
- `weights.safetensors`, `curves.parquet`, `predictions.parquet`, `ledger.parquet`: what came out;
- `result.json`: the figures of table `runs`, and what its starting weights were trained on (`seen`), written
  last: a run that has it is finished and is never computed again;
- `error.txt`: the traceback of its last failure.

A run that was killed goes on from its last epoch, and one that failed begins there again; what
comes out is the same, to the last bit, whatever the number of workers (on a CPU).
"""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctlib.core import (
    GPU_SHARE,
    Busy,
    Claim,
    ClaimLost,
    GpuError,
    Workspace,
    claimed,
    display_path,
    field_values,
    read_json,
    tables,
    write_json,
    write_text,
)
from ctlib.datasets import SAMPLERS, ClipDataset, Store, fraction_patients, intensity, task
from ctlib.models import (
    DRAWN,
    NO_COHORT,
    Init,
    Network,
    build_network,
    find,
    headed,
    load_weights,
    needs_cohort,
    spec,
)
from ctlib.training import heads, loggers
from ctlib.training.device import choose, watching_gpu
from ctlib.training.features import features
from ctlib.training.heads import Sample
from ctlib.training.loaders import EpochSampler
from ctlib.training.loggers import CSV
from ctlib.training.loop import CHECKPOINT, WEIGHTS, FitError, fit, predict, while_mine
from ctlib.training.losses import LOSSES
from ctlib.training.memory import PeakMemory
from ctlib.training.negative_controls import PERMUTED_LABELS, with_permuted_labels
from ctlib.training.optimizer import FitSettings
from ctlib.training.protocol import FRESH_FRACTION, ONE_MEAN
from ctlib.training.results import ERROR, RESULT, finished, predictions, study_auroc
from ctlib.training.run import (
    SETTINGS_FILE,
    Run,
    batches_an_epoch,
    clip_settings,
    clips_of_run,
    digest,
    fingerprint,
    read_table,
    splits_of,
    store_of,
)
from ctlib.training.step import Step, compute_of


def execute(work_dir: str, run: Run, loader_workers: int = 0, logger: str = CSV) -> dict[str, Any]:
    """Compute one run, or what is left of it. This is what a worker does.

    Args:
        work_dir: root of the workspace.
        run: the run.
        loader_workers: processes that read clips ahead; worth it on a GPU.
        logger: where curves are written while it computes, see `ctlib.training.loggers`.

    Returns:
        The content of `result.json`.

    Raises:
        GpuError: the GPU of this process cannot be used any more; the run goes on elsewhere.
        Exception: whatever else went wrong; `error.txt` has the traceback.
    """
    workspace = Workspace.at(work_dir)
    folder = workspace.runs / run.run_id
    try:
        with claimed(folder, lambda: finished(workspace, run)) as claim:
            if claim is not None:
                _compute(workspace, run, claim, loader_workers, logger)
    except ClaimLost as lost:  # this process was stopped for long, and another went on: the result is its
        raise Busy(str(lost)) from lost
    return read_json(folder / RESULT)


def _compute(workspace: Workspace, run: Run, claim: Claim, loader_workers: int, logger: str) -> None:
    """Compute a run whose folder is claimed, and write its result."""
    folder = workspace.runs / run.run_id
    write_json(folder / SETTINGS_FILE, {**dataclasses.asdict(run), "run_id": run.run_id})
    try:
        with watching_gpu():
            result = _finetune(workspace, run, claim, loader_workers, logger)
        claim.require()
    except (Busy, ClaimLost, GpuError):  # another computes it, or the features that it needs
        raise
    except Exception as error:
        # of a CPU's memory torch has no error of its own
        on_gpu, on_cpu = isinstance(error, torch.OutOfMemoryError), "DefaultCPUAllocator: " in str(error)
        if not on_gpu and not on_cpu:
            write_text(folder / ERROR, traceback.format_exc())
            raise
        told = _too_large(run, on_gpu)
        told.__cause__ = error
        write_text(folder / ERROR, "".join(traceback.format_exception(told)))
        raise told from error
    (folder / ERROR).unlink(missing_ok=True)
    write_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _too_large(run: Run, on_gpu: bool) -> FitError:
    """A run that does not fit on its GPU, or into the memory of this machine, in a sentence with what to do."""
    where = "in the memory of this machine"
    if on_gpu:
        free, held = (n / 1e9 for n in torch.cuda.mem_get_info())
        share = float(os.environ.get(GPU_SHARE) or 0)
        where = f"on {torch.cuda.get_device_name()}: {free:.1f} of {held:.1f} GB are free"
        where += (
            f", and {share * held:.1f} GB are this run's part (fewer runs_a_gpu give more)" if share else ""
        )
    half, parts = max(1, run.batch_size // 2), run.accumulate * 2
    lines = f'"{run.backbone}.batch_size={half}", "{run.backbone}.accumulate={parts}"'
    return FitError(
        f"{run.backbone} ({run.size}) does not fit with batch_size {run.batch_size} {where}; "
        f"the same batch in parts: put {lines} into exceptions."
    )


def _finetune(
    workspace: Workspace, run: Run, claim: Claim, loader_workers: int, logger: str
) -> dict[str, Any]:
    """Train, predict, write the tables; returns the figures of the run."""
    rows, used, chosen_by = _clips(workspace, run)
    if headed(run.init)[0]:
        return _on_features(workspace, run, (rows, used, chosen_by), claim, loader_workers)
    folder, store, cut = workspace.runs / run.run_id, store_of(workspace, run), clip_settings(run)
    model, ledger, seen_before = _network(workspace, run, rows)
    memory = PeakMemory(compute := compute_of(workspace.root, Step.of(run)))
    n_drawn = batches_an_epoch(run, len(used)) * run.batch_size
    sampler = SAMPLERS[run.sampling](used["label"].tolist(), n_drawn, run.seed)
    fitted = fit(
        model,
        ClipDataset(store, used, cut, train=True, seed=run.seed),
        sampler,
        ClipDataset(store, chosen_by, cut, train=False),
        memory.watched(while_mine(study_auroc(chosen_by), claim)),
        FitSettings(**field_values(FitSettings, vars(run))),
        compute,
        folder,
        run.seed,
        loader_workers,
        loggers.of_run(logger, folder, workspace.root),
    )
    started = time.perf_counter()
    in_split = {name: rows[rows["split"] == name].reset_index(drop=True) for name in ("val", "test")}
    test = ClipDataset(store, in_split["test"], cut, train=False)
    logits = {"val": fitted.val_logits, "test": predict(model, test, run.batch_size, compute, loader_workers)}
    scored = pd.concat([predictions(run.run_id, in_split[name], logits[name]) for name in logits])
    curves = fitted.curves.rename(columns={"val_metric": "val_auroc"}).assign(run_id=run.run_id)
    claim.require()
    seen = _drawn(sampler, len(curves))
    _write(folder, curves=curves, predictions=scored, ledger=ledger)
    return {
        "run_id": run.run_id,
        "n_patients": int(used["patient_id"].nunique()),
        "n_studies": int(used["study"].iloc[seen].nunique()),
        "n_clips": len(seen),
        "n_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "epochs": len(curves),
        "best_epoch": fitted.best_epoch,
        "val_auroc": float(curves["val_auroc"][fitted.best_epoch - 1]),
        "seconds": fitted.seconds + time.perf_counter() - started,
        **memory.peaks(),
        "compute": str(compute),
        "torch": torch.__version__,
        "seen": seen_before,
    }


def _write(folder: Path, **made: pd.DataFrame) -> None:
    for name, table in made.items():
        tables.write(table, name, folder / f"{name}.parquet")


def _clips(workspace: Workspace, run: Run) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The clips of a run: all, those that it learns from, and those that choose."""
    if fingerprint(workspace, cohort := task(run.task).cohort, fold=run.fold) != run.data:
        raise FitError(f"cohort {cohort} has changed since this run was planned; run 03_finetune_grid again.")
    rows = clips_of_run(workspace, run)
    in_split = {name: part.reset_index(drop=True) for name, part in rows.groupby("split")}
    used, chosen_by = _learnt(workspace, run, in_split["train"]), in_split["val"]
    if run.control == PERMUTED_LABELS:
        used, chosen_by = (with_permuted_labels(part, run.seed) for part in (used, chosen_by))
    return rows, used, chosen_by


def _on_features(
    workspace: Workspace,
    run: Run,
    clips: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
    claim: Claim,
    loader_workers: int,
) -> dict[str, Any]:
    """Fit a head to features of the frozen network, predict, write the tables; returns the figures of the run.

    Clips are all, those whose labels are used, and those that choose.
    """
    (every, used, chosen_by), started, name = clips, time.perf_counter(), headed(run.init)[0]
    memory = PeakMemory(choose(run.precision, spec(run.backbone)))
    found = features(workspace, run, every, partial(_network, workspace, run, every), loader_workers)
    learnt, judging = (Sample(rows, found.of(rows)) for rows in (used, chosen_by))
    head = heads.fit(name, learnt, judging, run.seed)
    losses, scored = [], []
    for sample in (learnt, judging):
        logits = torch.from_numpy(head.logits(sample))
        labels = torch.tensor(heads.scored(name, sample.rows)["label"].to_numpy(np.float32))
        losses.append(float(LOSSES["bce"](logits, labels)))
    auroc = study_auroc(heads.scored(name, chosen_by))(head.logits(judging))
    for part in ("val", "test"):
        rows = every[every["split"] == part]
        of_part = head.logits(Sample(rows, found.of(rows)))
        scored.append(predictions(run.run_id, heads.scored(name, rows), of_part))
    curve = {"run_id": run.run_id, "epoch": 1, "train_loss": losses[0], "val_loss": losses[1]}
    claim.require()
    _write(
        workspace.runs / run.run_id,
        curves=pd.DataFrame([curve | {"val_auroc": auroc}]),
        predictions=pd.concat(scored),
        ledger=found.ledger.assign(init=run.init),
    )
    return {
        "run_id": run.run_id,
        "n_patients": int(used["patient_id"].nunique()),
        "n_studies": int(used["study"].nunique()),
        "n_clips": len(used),
        "n_parameters": head.n_parameters,
        "epochs": 1,
        "best_epoch": 1,
        "val_auroc": float(auroc),
        "seconds": time.perf_counter() - started,
        **memory.peaks(),
        "compute": found.record["compute"],
        "torch": found.record["torch"],
        "seen": found.record["seen"],
        "features": found.record["key"],
        "chosen": head.chosen,
    }


def _learnt(workspace: Workspace, run: Run, train: pd.DataFrame) -> pd.DataFrame:
    """Those of the training clips whose labels are used."""
    cohort = task(run.task).cohort
    series = read_table(workspace, "series", cohort)
    patients = fraction_patients(splits_of(workspace, cohort, run.fold), series, run.fraction, run.seed)
    if FRESH_FRACTION in run.flaws:
        return train
    return train[train["patient_id"].isin(patients)].reset_index(drop=True)


def _network(
    workspace: Workspace, run: Run, rows: pd.DataFrame
) -> tuple[Network, pd.DataFrame, list[dict[str, str]]]:
    """The network with its starting weights, their ledger, and what they were trained on before, in order."""
    store, cut, train = store_of(workspace, run), clip_settings(run), rows[rows["split"] == "train"]
    # of a cohort of hundreds of gigabytes it takes long, and other inits have their own
    is_needed = ONE_MEAN in run.flaws or needs_cohort(run.init, run.backbone, workspace)
    mean, std = _intensity(workspace, run, store, train.reset_index(drop=True)) if is_needed else NO_COHORT
    init = find(run.init, run.backbone, workspace, (mean, std), cut.n_channels)
    if init.contract != run.contract:
        raise FitError(
            f"the input contract of init {run.init} has changed since this run was planned; run 03_finetune_grid again."
        )
    model, ledger = build_network(run.backbone, run.size, init, run.seed)  # type: ignore[arg-type]
    model.dropout = run.dropout
    if ONE_MEAN in run.flaws:
        per_channel = model.mean.numel() // len(mean)
        model.normalize(tuple(mean) * per_channel, tuple(std) * per_channel)
    return model, ledger, [dataclasses.asdict(each) for each in init.seen]


def _intensity(
    workspace: Workspace, run: Run, store: Store, train: pd.DataFrame
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the training clips, kept by the cohort's fingerprint, the clips and how they are cut.

    All runs of a cohort share them, and on a real one they take minutes. Two runs at once may both measure: the figures
    are the same.
    """
    cut = clip_settings(run)
    key = digest({"data": run.data, "clips": train.to_csv(index=False), "cut": dataclasses.asdict(cut)})
    path = workspace.root / "intensity" / f"{key}.json"
    if not path.is_file():
        mean, std = intensity(store, train, cut)
        write_json(path, {"mean": mean, "std": std})
    kept = read_json(path)
    return tuple(kept["mean"]), tuple(kept["std"])


def drawn(workspace: Workspace, run: Run, seed: int | None = None) -> Network:
    """The network of a finished run with random weights: nothing is learnt, mean and std are the run's.

    Args:
        workspace: where the run lies.
        run: a finished run.
        seed: of backbone and head; the run's own where none is given.

    Raises:
        FileNotFoundError: its weights were deleted; `ctlib retry` lets it be computed again.
    """
    if head := headed(run.init)[0]:
        raise FileNotFoundError(
            f"run {run.run_id} is a head ({head}) on features of a frozen network and has no network of its own; "
            "take a finetuned run."
        )
    record_path = (workspace.runs / run.run_id / WEIGHTS).with_suffix(".json")
    if not record_path.is_file():
        raise FileNotFoundError(
            f"{display_path(record_path)} is missing: run {run.run_id} has no weights any more."
        )
    record = read_json(record_path)
    mean, std = tuple(record["mean"]), tuple(record["std"])
    init = Init("random", DRAWN, "none needed", mean, std, record["channels"])
    return build_network(run.backbone, run.size, init, run.seed if seed is None else seed)[0]  # type: ignore[arg-type]


def trained(workspace: Workspace, run: Run) -> Network:
    """The network of a finished run, as it predicted: with the weights of the epoch that is used.

    Raises:
        FileNotFoundError: see `drawn`.
        InitError: the file does not fit the network.
    """
    made = drawn(workspace, run)
    load_weights(made, workspace.runs / run.run_id / WEIGHTS)
    return made


def _drawn(sampler: EpochSampler, epochs: int) -> list[int]:
    """Rows of the distinct training clips that the epochs saw."""
    seen: set[int] = set()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        seen.update(map(int, sampler))
    return sorted(seen)
