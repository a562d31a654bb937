"""The committed folds are what the code makes, and they are even."""

import pandas as pd
import pytest

from ctlib.core.workspace import PROJECT
from ctlib.datasets import lidc
from ctlib.datasets.splits import read_splits

pytestmark = pytest.mark.slow
COMMITTED = PROJECT / "params" / "lidc" / "folds.csv"


@pytest.fixture(scope="module")
def nodules():
    return lidc.nodules_of_patients()


def test_the_committed_folds_are_made_again_byte_for_byte(tmp_path, nodules, monkeypatch):
    monkeypatch.setattr(lidc, "nodules_of_patients", lambda: nodules)  # counted once, 10 s
    assert lidc.write_folds(tmp_path / "folds.csv").read_bytes() == COMMITTED.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["folds.csv"]


def test_each_patient_is_in_one_fold_and_folds_are_even(nodules):
    table = pd.read_csv(COMMITTED)
    assert list(table.columns) == ["patient_id", "fold"] and table["patient_id"].is_unique
    assert len(table) == 1010 and table["patient_id"].tolist() == nodules.index.tolist()
    found = table.assign(n=nodules.to_numpy()).groupby("fold")["n"]
    assert found.size().tolist() == [202] * 5
    assert found.agg(lambda n: (n > 0).sum()).tolist() == [139] * 5
    for strata in range(5):
        members = found.agg(lambda n, k=strata: (n.clip(upper=4) == k).sum())
        assert members.max() - members.min() <= 1


def test_the_folds_are_read_as_splits():
    tests = [read_splits(COMMITTED, fold) for fold in range(lidc.N_FOLDS)]
    everyone = [p for splits in tests for p in splits.loc[splits["split"] == "test", "patient_id"]]
    assert len(everyone) == len(set(everyone)) == 1010


def test_of_two_scans_the_one_with_more_nodules_counts(monkeypatch):
    scans = pd.DataFrame({"series_uid": ["a", "b", "c"], "patient_id": ["q", "q", "p"]})
    found = pd.DataFrame({"series_uid": ["a", "b", "b", "b"], "n_readers": [4, 3, 5, 2]})
    monkeypatch.setattr(lidc, "labels", lambda annotations, min_readers: (scans, None, found))
    assert lidc.nodules_of_patients().to_dict() == {"p": 0, "q": 2}


def test_folds_depend_on_patients_and_seed_only(nodules):
    assert lidc.deal_folds(nodules.sample(frac=1, random_state=1)).equals(lidc.deal_folds(nodules))
    assert not lidc.deal_folds(nodules, seed=1).equals(lidc.deal_folds(nodules))
