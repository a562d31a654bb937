"""A cohort's size: counted where there are tables, else what is known, and said to be assumed."""

import pandas as pd
import pytest
from noise_cohort import write_cohort

from ctlib.core.workspace import MissingInput, Workspace
from ctlib.datasets.clips import clip_table
from ctlib.datasets.download import rspect as fetching
from ctlib.grid import estimate_profile
from ctlib.grid.estimate_profile import counted, size_of

VALUES = {"clip_length": 32, "split_shares": [0.7, 0.15, 0.15], "splits_file": "", "phantom_patients": 0}


def test_tables_are_counted(tmp_path):
    workspace = Workspace(tmp_path)
    write_cohort(workspace, "rspect")
    found = size_of(workspace, "rspect", VALUES)
    assert found == counted(workspace, "rspect") and found.assumed == ""
    assert found.patients == {"train": 8, "val": 6, "test": 6}
    assert found.positive == {"train": 4, "val": 3, "test": 3}
    assert found.n_slices == 300
    clips = pd.read_parquet(workspace.table("clips", "rspect"))
    series = pd.read_parquet(workspace.table("series", "rspect"))
    splits = pd.read_parquet(workspace.table("splits", "rspect"))
    rows = clips.merge(series, on="series_uid").merge(splits, on="patient_id")
    assert found.clips == rows["split"].value_counts().to_dict()


def test_rspect_is_known_before_it_is_here(tmp_path):
    found = size_of(Workspace(tmp_path), "rspect", VALUES)
    assert (found.patients["train"], found.patients["test"]) == (5095, 1092)  # docs/protocol.md
    assert found.positive["test"] == 328
    assert found.n_slices == 1_790_594
    assert sum(found.clips.values()) == pytest.approx(1_790_594 / 32 + 7279 / 2, abs=2)
    assert "as published" in found.assumed
    known = estimate_profile.RSPECT_STUDIES, estimate_profile.RSPECT_IMAGES
    assert known == (fetching.N_STUDIES, fetching.N_IMAGES)


def test_lidc_is_known_before_it_is_here(tmp_path):
    one = size_of(Workspace(tmp_path), "lidc", VALUES)
    assert one.patients["test"] == 152 and one.n_slices == 243_945  # 152: docs/protocol.md
    folds = size_of(Workspace(tmp_path), "lidc", VALUES | {"splits_file": "params/lidc/folds.csv"})
    assert folds.patients == {"train": 606, "val": 202, "test": 202}
    assert folds.positive["test"] == 139  # ctlib.datasets.lidc: of each fold
    assert "1,018 scans of 1,010 patients" in folds.assumed
    assert sum(folds.clips.values()) == pytest.approx(243_945 / 32 + 1018 / 2, rel=0.01)


@pytest.mark.slow
def test_lidcs_patients_are_those_of_the_database():
    from ctlib.datasets.lidc import nodules_of_patients

    nodules = nodules_of_patients()
    known = estimate_profile.LIDC_PATIENTS, estimate_profile.LIDC_POSITIVE
    assert (len(nodules), int((nodules > 0).sum())) == known


def test_phantoms_are_those_that_are_asked_for(tmp_path):
    values = VALUES | {"phantom_patients": 200, "split_shares": [0.4, 0.1, 0.5], "clip_length": 16}
    found = size_of(Workspace(tmp_path), "lidc", values)
    assert found.patients == {"train": 80, "val": 20, "test": 100} and found.positive["test"] == 50
    assert "200 phantoms" in found.assumed


def test_nothing_is_known_of_a_users_folder(tmp_path):
    with pytest.raises(MissingInput, match="notebook 01_explore_data writes it"):
        size_of(Workspace(tmp_path), "folder", VALUES)


def test_half_a_clip_more_a_series_is_what_series_of_all_lengths_have():
    empty = {"z_mm": 0.0, "label": 0}
    slices = [pd.DataFrame({"series_uid": f"s{n}", "slice": range(n), **empty}) for n in range(33, 65)]
    exact = len(clip_table(pd.concat(slices), 16, 4))
    assert estimate_profile._clips_of(32, sum(map(len, slices)), 16) == pytest.approx(exact, rel=0.02)
