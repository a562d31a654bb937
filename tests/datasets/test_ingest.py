"""From files to tables and volumes: what cannot be stored is named, and nothing is lost."""

import dataclasses

import pandas as pd
import pytest

from ctlib.core import tables
from ctlib.core.parallel import in_order
from ctlib.core.pseudonyms import Identity
from ctlib.core.workspace import Workspace
from ctlib.datasets.cohort import load_tables
from ctlib.datasets.prepare import ingest
from ctlib.datasets.splits import split_patients
from ctlib.datasets.store import Store
from ctlib.visualization import summary_tables

MATRIX_PX = 48


def source(tmp_path, name):
    """Parameters of `01_explore_data` for phantoms of a cohort."""
    root = tmp_path / name
    phantoms = {"phantom_patients": 6, "phantom_seed": 0, "min_readers": 3, "indeterminate": "drop"}
    annotations = {"lidc_archive": "", "lidc_annotations": str(root / "annotations.sqlite")}
    return {f"{name}_root": str(root), **annotations, **phantoms}


def stored(name, where, work):
    return ingest(name, where, work, Store(work.store(name), MATRIX_PX), Identity(b"key"), in_order)


def n_files_below(root) -> int:
    return sum(1 for path in root.rglob("*.dcm"))


@pytest.mark.parametrize("name", ["rspect", "lidc"])
def test_phantoms_become_tables_and_volumes(tmp_path, name):
    work = Workspace(tmp_path / "work")
    cohort = stored(name, source(tmp_path, name), work)
    refused = cohort.problems["n_files"].sum()
    assert cohort.series["n_files"].sum() + refused == n_files_below(tmp_path / name)
    assert sorted(cohort.series["label"]) in ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1])
    store = Store(work.store(name), MATRIX_PX)
    assert store.verify().empty
    for row in cohort.series.itertuples():
        assert store.read(row.series_uid).shape == (row.n_slices, MATRIX_PX, MATRIX_PX)
    written = load_tables(work, name)
    pd.testing.assert_frame_equal(written.series, cohort.series)
    pd.testing.assert_frame_equal(written.slices, cohort.slices)


def test_a_series_that_cannot_be_read_is_refused_and_named(tmp_path):
    work, where = Workspace(tmp_path / "work"), source(tmp_path, "lidc")
    whole = stored("lidc", where, work)
    uid = whole.series["series_uid"].iloc[0]
    damaged = whole.files[uid][3]
    damaged.write_bytes(damaged.read_bytes()[:-500])
    cohort = stored("lidc", where, work)
    assert uid not in set(cohort.series["series_uid"]) | set(cohort.slices["series_uid"]) | set(cohort.files)
    lost = cohort.problems["n_files"].sum() - whole.problems["n_files"].sum()
    assert lost == len(whole.files[uid])
    assert cohort.problems["reason"].str.contains("is truncated").any()
    pd.testing.assert_frame_equal(tables.read("problems", work.table("problems", "lidc")), cohort.problems)


def test_an_unknown_cohort_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'lola'; known are rspect, lidc"):
        stored("lola", {}, Workspace(tmp_path))


def test_summaries_count_what_there_is(tmp_path):
    work = Workspace(tmp_path / "work")
    cohort = stored("lidc", source(tmp_path, "lidc"), work)
    splits = split_patients(cohort.series, (), seed=0)
    (row,) = summary_tables.counts({"lidc": cohort}, {"lidc": splits}).to_dict("records")
    assert (row["split"], row["patients"], row["exams with disease"]) == ("test", 6, 3)
    assert row["slices"] == cohort.series["n_slices"].sum()
    assert row["slices with disease"] == cohort.slices["label"].sum() > 0
    label = cohort.slices["label"]
    unmarked = dataclasses.replace(cohort, slices=cohort.slices.assign(label=label.mask(label == 1)))
    assert "slices with disease" not in summary_tables.counts({"lidc": unmarked}, {"lidc": splits})
    assert "6 exams of 6 patients (6 test); 3 exams with disease" in summary_tables.cohort_sentence(
        cohort, splits
    )
    refused = summary_tables.refusals({"lidc": cohort})
    assert refused["files"].sum() == cohort.problems["n_files"].sum()


def test_cost_and_grid_sentence_leave_failed_runs_visible():
    rows = [
        {"run_id": "a", "status": "finished", "seconds": 4.0, "n_patients": 16, "error": None},
        {"run_id": "b", "status": "finished", "seconds": 8.0, "n_patients": 64, "error": None},
        {"run_id": "c", "status": "failed", "seconds": None, "n_patients": None, "error": "ValueError: x"},
    ]
    same = {"task": "lidc_nodule", "backbone": "slow_r50", "init": "video", "seed": 0, "fold": 0, "lr": 1e-3}
    same |= {
        "n_studies": 16,
        "n_clips": 40,
        "n_parameters": 1000,
        "epochs": 4,
        "best_epoch": 2,
        "val_auroc": 0.7,
    }
    fractions = {"a": 0.25, "b": 1.0, "c": 1.0}
    runs = pd.DataFrame([{**same, **row, "fraction": fractions[row["run_id"]]} for row in rows])
    runs = tables.check(runs, "runs")
    seen = summary_tables.exams_seen(runs).to_dict("records")
    assert [(row["fraction"], row["runs"], row["training patients"]) for row in seen] == [
        (0.25, 1, "16"),
        (1.0, 1, "64"),
    ]
    both = runs.assign(fraction=1.0, n_studies=[10, 1600, None])
    assert summary_tables.exams_seen(both).loc[0, ["runs", "exams seen"]].tolist() == [2, "10 to 1,600"]
    assert summary_tables.exams_seen(runs[runs["status"] == "failed"]).empty
    (cost,) = summary_tables.cost(runs).to_dict("records")
    assert (cost["runs"], cost["seconds a run"], cost["slowest run, s"]) == (2, 6.0, 8.0)
    sentence = summary_tables.grid_sentence(runs)
    assert (
        sentence
        == "3 runs: 2 finished, 1 failed. Training patients a run: 16 at fraction 0.25, 64 at fraction 1."
    )
