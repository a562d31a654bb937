"""A planted truth is judged on the networks that learned what the videos teach."""

import dataclasses

import pandas as pd
import pytest
from made_up_results import NETWORKS, made_up, plain
from test_findings_claims import study_of

from ctlib import findings, tables
from ctlib.workspace import Workspace

PLANTED = {"lidc_nodule": "effect"}


@pytest.fixture(scope="module")
def study():
    """A gain of slow_r50 alone, the other networks as from random."""

    def auroc(task, backbone, init, fraction):
        return plain({"video": 0.15 if backbone == "slow_r50" else 0.0})(task, backbone, init, fraction)

    return study_of(made_up(auroc))


def pretrained(folder, study, metrics):
    work = Workspace.at(folder)
    rows = [
        {"init": "video", "backbone": name, "epoch": epoch, "train_loss": 1.0, "heldout_loss": 1.0}
        | {"heldout_metric": value, "metric": "accuracy", "chance": 0.11}
        for name, value in metrics.items()
        for epoch, value in ((1, 0.1), (2, value))
    ]
    tables.write(pd.DataFrame(rows), "pretraining", work.table("pretraining"))
    return dataclasses.replace(study, work=work)


def test_networks_that_learned_nothing_are_no_trial(tmp_path, study):
    found = findings.taught(
        pretrained(tmp_path, study, dict(zip(NETWORKS, (0.7, 0.49, 0.1), strict=True))), PLANTED
    )
    assert found.about == (
        "The planted truth is judged on the networks that reached a held-out accuracy of 0.5 (chance 0.11) "
        "in pretraining: slow_r50 0.70; not on r2plus1d_r50 0.49, swin3d_t 0.10."
    )
    rows = found.effects[found.effects["backbone"].str.startswith("mean of")]
    assert set(rows["n_networks"]) == {1} and (rows["effect"] > 0.1).all()
    everywhere = study.mean_gains
    assert set(everywhere["n_networks"]) == {3} and (everywhere["effect"] < 0.1).all(), (
        "claims keep all networks"
    )


def test_all_are_judged_where_none_learned(tmp_path, study):
    found = findings.taught(pretrained(tmp_path, study, dict.fromkeys(NETWORKS, 0.2)), PLANTED)
    assert found.about.startswith("No network reached") and found.effects.equals(study.effects)


def test_nothing_planted_or_nothing_pretrained_leaves_all(tmp_path, study):
    learned = pretrained(tmp_path / "a", study, dict.fromkeys(NETWORKS, 0.9))
    elsewhere = dataclasses.replace(study, work=Workspace.at(tmp_path / "b"))
    for asked, planted in ((learned, {}), (elsewhere, PLANTED), (study, PLANTED)):
        found = findings.taught(asked, planted)
        assert found.about == "" and found.effects.equals(study.effects)
