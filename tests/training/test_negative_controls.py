"""What must find nothing: labels that changed patients, slices that lost their order; each is its own run."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from noise_cohort import LENGTH, SETTINGS, write_cohort

from ctlib.core import tables
from ctlib.core.workspace import Workspace
from ctlib.datasets.clips import ClipDataset, slice_order
from ctlib.grid.execute import expand
from ctlib.training import finetune
from ctlib.training.finetune import execute
from ctlib.training.negative_controls import CONTROLS, with_permuted_labels
from ctlib.training.run import LATER, PROTOCOL_VERSION, Run, clip_settings, clips_of_run, digest, store_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("controls"))
    write_cohort(workspace, "lidc")
    return workspace.root


@pytest.fixture
def workspace(prepared, tmp_path) -> Workspace:
    shutil.copytree(prepared, tmp_path / "work")
    return Workspace(tmp_path / "work")


@pytest.fixture
def seen(monkeypatch) -> dict:
    """What the fit of a run is given."""
    found, fit = {}, finetune.fit

    def spied(network, train, sampler, val, metric, *rest):
        found.update(train=train.table, val=val.table, metric=metric)
        return fit(network, train, sampler, val, metric, *rest)

    monkeypatch.setattr(finetune, "fit", spied)
    return found


def run_of(workspace: Workspace, control: str = "none", **changes) -> Run:
    settings = SETTINGS | {"control": control} | changes
    [run] = expand(workspace, ["lidc_nodule"], ["resnet18"], ["random"], [1.0], [3], 1e-3, **settings)
    return run


def cohort_of(n_ill: int, n_well: int, rng: np.random.Generator) -> pd.DataFrame:
    """Patients of two to five clips; those with disease have one positive clip or more."""
    rows = []
    for i in range(n_ill + n_well):
        labels = np.zeros(rng.integers(2, 6), int)
        if i < n_ill:
            labels[rng.integers(len(labels))] = 1
        name = f"patient-{rng.integers(10**9)}"
        rows += [(name, name, k, label, int(i < n_ill)) for k, label in enumerate(labels)]
    return pd.DataFrame(rows, columns=["patient_id", "study", "clip", "label", "study_label"])


def exam_labels(clips: pd.DataFrame) -> pd.Series:
    return clips.groupby("study")["study_label"].max()


@pytest.mark.parametrize(("n_ill", "n_well"), [(10, 10), (3, 17), (1, 1), (0, 4), (5, 0)])
def test_labels_change_patients_and_tell_nothing_of_the_truth(n_ill, n_well):
    clips = cohort_of(n_ill, n_well, np.random.default_rng(0))
    for seed in range(20):
        permuted = with_permuted_labels(clips, seed)
        pd.testing.assert_frame_equal(
            permuted.drop(columns=["label", "study_label"]), clips.drop(columns=["label", "study_label"])
        )
        truth, given = exam_labels(clips), exam_labels(permuted)
        assert given.sum() == n_ill
        among = [given[truth == label].sum() for label in (1, 0)]
        expected = n_ill / (n_ill + n_well)
        assert abs(among[0] - expected * n_ill) <= 0.5 and abs(among[1] - expected * n_well) <= 0.5


def test_the_permutation_is_a_function_of_its_seed():
    clips = cohort_of(10, 10, np.random.default_rng(0))
    assert with_permuted_labels(clips, 1).equals(with_permuted_labels(clips, 1))
    seen = {tuple(exam_labels(with_permuted_labels(clips, seed))) for seed in range(20)}
    assert len(seen) == 20


def test_labels_keep_their_number_and_lose_their_height():
    """Where all disease is in one clip of four, a clip with disease is called positive as often as others."""
    rows = [
        (f"p{i:03}", f"p{i:03}", k, int(k == 2 and i < 100), int(i < 100))
        for i in range(200)
        for k in range(4)
    ]
    clips = pd.DataFrame(rows, columns=["patient_id", "study", "clip", "label", "study_label"])
    permuted = with_permuted_labels(clips, 0)
    assert permuted["label"].sum() == 100
    of_disease = np.mean(
        [with_permuted_labels(clips, seed)["label"][clips["label"] == 1].mean() for seed in range(20)]
    )
    assert of_disease == pytest.approx(
        1 / 8, abs=0.03
    )  # 3 standard errors; at the same height it would be 1 / 2


def test_a_control_is_part_of_the_id_and_none_changes_no_id(workspace):
    plain = run_of(workspace)
    controlled = [run_of(workspace, name) for name in CONTROLS if name != "none"]
    assert len({plain.run_id, *(run.run_id for run in controlled)}) == 3
    without = {k: v for k, v in dataclasses.asdict(plain).items() if k not in LATER}
    assert plain.run_id == digest({**without, "protocol": PROTOCOL_VERSION})[:12]
    assert Run(**json.loads(json.dumps(dataclasses.asdict(controlled[0])))) == controlled[0]
    assert "shuffled_slices" in str(controlled[1]) and "none" not in str(plain)


def test_a_control_that_cannot_be_is_refused(workspace):
    with pytest.raises(ValueError, match="control is 'typo'; known are none, permuted_labels"):
        run_of(workspace, "typo")
    with pytest.raises(ValueError, match="each slice brings its neighbours along"):
        run_of(workspace, "shuffled_slices", channels="neighbours")


def test_a_run_learns_from_permuted_labels_and_is_judged_by_true_ones(workspace, seen):
    run = run_of(workspace, "permuted_labels")
    execute(str(workspace.root), run)
    rows = clips_of_run(workspace, run)
    truth = {name: exam_labels(part) for name, part in rows.groupby("split")}
    for name in ("train", "val"):
        given, patients = exam_labels(seen[name]), seen[name].groupby("patient_id")["study_label"].max()
        assert patients.sum() == rows[rows["split"] == name].groupby("patient_id")["study_label"].max().sum()
        assert not given.equals(truth[name])
    written = tables.read("predictions", workspace.runs / run.run_id / "predictions.parquet")
    for name, part in written.groupby("split"):
        assert exam_labels(part).equals(truth[name])


def test_the_epoch_is_chosen_by_permuted_labels(workspace, seen, monkeypatch):
    """Scores that know the truth of the validation split get no AUROC for it."""
    monkeypatch.setattr(finetune, "while_mine", lambda metric, claim: metric)
    found = {}
    for control in ("none", "permuted_labels"):
        run = run_of(workspace, control)
        execute(str(workspace.root), run)
        rows = clips_of_run(workspace, run)
        val = rows[rows["split"] == "val"]
        known = np.where(val["study_label"] == 1, 3.0, -3.0).astype(np.float32)[:, None]
        found[control] = seen["metric"](known)
    assert found["none"] == 1 and found["permuted_labels"] < 1


def test_slices_are_shuffled_clip_by_clip_in_training_and_in_evaluation(workspace):
    plain, shuffled = run_of(workspace), run_of(workspace, "shuffled_slices")
    rows, store = clips_of_run(workspace, plain), store_of(workspace, plain)
    orders = []
    for train in (False, True):
        items = [
            ClipDataset(store, rows, clip_settings(run), train=train, seed=run.seed)
            for run in (plain, shuffled)
        ]
        for i in range(6):
            row = rows.iloc[i]
            order = slice_order(shuffled.seed, row["series_uid"], row["start"], LENGTH)
            before, after = (item[i]["clip"] for item in items)
            assert after.is_contiguous() and (after == before[:, order]).all()
            orders.append(tuple(order))
    assert len(set(orders[:6])) > 1 and orders[:6] == orders[6:]
    other = slice_order(shuffled.seed + 1, rows["series_uid"][0], rows["start"][0], 16)
    assert not np.array_equal(other, slice_order(shuffled.seed, rows["series_uid"][0], rows["start"][0], 16))
