"""Each choice of the published code that can be put back does what it says, and is part of the run id."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from noise_cohort import LENGTH, N_SLICES, SIDE, write_cohort
from noise_cohort import SETTINGS as SHORT
from protocol_choices import parameters_of

from ctlib.cli.grid import protocols
from ctlib.core import parameters, tables
from ctlib.core.workspace import HOME, PROJECT, Workspace
from ctlib.datasets.clips import ClipSettings, cut
from ctlib.grid.execute import expand
from ctlib.models.weights.load import Init, build_network, save_weights
from ctlib.training import finetune
from ctlib.training.finetune import execute
from ctlib.training.protocol import (
    CHOICES_OF_METHOD,
    FLAWS,
    PARTS,
    PROTOCOLS,
    differences,
    flaws_of,
    follows,
    without_tails,
)
from ctlib.training.run import Run, clip_settings, clips_of_run

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = SHORT | {"rotation_deg": 20.0, "epochs": 2, "steps_per_epoch": 4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("flaws"))
    write_cohort(workspace, "lidc")
    made, _ = build_network("resnet18", "tiny", Init("random", "drawn", "none", (0.4,), (0.2,)), seed=9)
    save_weights(made, workspace.weights("video", "resnet18"), {"source": "a test", "licence": "none"})
    return workspace.root


@pytest.fixture
def workspace(prepared, tmp_path) -> Workspace:
    shutil.copytree(prepared, tmp_path / "work")
    return Workspace(tmp_path / "work")


def run_of(workspace: Workspace, *flaws: str, init: str = "video", fraction: float = 0.5) -> Run:
    [run] = expand(
        workspace, ["lidc_nodule"], ["resnet18"], [init], [fraction], [0], 1e-3, flaws=flaws, **SETTINGS
    )
    return run


def drawn(workspace: Workspace, run: Run, monkeypatch) -> tuple[dict, set[str], list[int]]:
    """The result of a run, the patients it drew, and the number of clips of an epoch."""
    seen, lengths = set(), []
    fit = finetune.fit

    def spied(network, train, sampler, *rest):
        for epoch in range(run.epochs):
            sampler.set_epoch(epoch)
            rows = [int(row) for row in sampler]
            lengths.append(len(rows))
            seen.update(train.table["patient_id"].iloc[rows])
        return fit(network, train, sampler, *rest)

    monkeypatch.setattr(finetune, "fit", spied)
    return execute(str(workspace.root), run), seen, lengths


def test_a_protocol_is_a_list_of_flaws():
    assert flaws_of("corrected") == () and flaws_of("released") == tuple(FLAWS)
    assert flaws_of("corrected", ["one_mean", "fill"]) == ("fill", "one_mean")
    with pytest.raises(ValueError, match="protocol is 'draft'; known are corrected, released, paper"):
        flaws_of("draft")
    with pytest.raises(
        ValueError, match="protocol_overrides has typo; known are fresh_fraction, clip_labels"
    ):
        flaws_of("corrected", ["typo"])


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_changes_the_id_and_survives_being_written(workspace, flaw):
    plain, flawed = run_of(workspace), run_of(workspace, flaw)
    assert plain.run_id != flawed.run_id
    from dataclasses import asdict

    assert Run(**json.loads(json.dumps(asdict(flawed)))) == flawed


def test_a_fresh_fraction_sees_every_patient_in_fewer_batches(workspace, monkeypatch):
    result, corrected, lengths = drawn(workspace, run_of(workspace), monkeypatch)
    assert result["n_patients"] == len(corrected) == 4 and set(lengths) == {16}
    monkeypatch.undo()
    result, released, lengths = drawn(workspace, run_of(workspace, "fresh_fraction"), monkeypatch)
    assert set(lengths) == {8} and len(released) > 4 and result["n_patients"] == 8


def test_labels_of_clips_take_the_place_of_the_exams_own(workspace):
    series = tables.read("series", workspace.table("series", "lidc"))
    healthy = series[series["label"] == 0]["study_uid"].iloc[0]
    tables.write(
        series.assign(label=series["label"].mask(series["study_uid"] == healthy, 1)),
        "series",
        workspace.table("series", "lidc"),
    )
    own, by_clips = (
        clips_of_run(workspace, run_of(workspace, *flaws)).set_index("study")["study_label"]
        for flaws in ((), ("clip_labels",))
    )
    assert set(own[healthy]) == {1} and set(by_clips[healthy]) == {0}


def test_tails_and_short_exams_vanish(workspace):
    plain, flawed = (clips_of_run(workspace, run_of(workspace, *flaws)) for flaws in ((), ("dropped_tails",)))
    per_series = -(-N_SLICES // LENGTH)
    assert (plain.groupby("series_uid").size() == per_series).all()
    assert (flawed.groupby("series_uid").size() == (N_SLICES - LENGTH) // LENGTH).all()
    short = pd.DataFrame({"series_uid": "1", "start": [0], "stop": [7]})
    assert without_tails(short, 4).empty and len(without_tails(short.assign(stop=8), 4)) == 0


def test_what_a_rotation_uncovers_is_far_below_air(workspace):
    hu = np.zeros((LENGTH, SIDE, SIDE), np.int16)
    run = replace(run_of(workspace, "fill"), rotation_deg=90.0)
    clips = [cut(hu, 0, LENGTH, clip_settings(run), np.random.default_rng(seed)) for seed in range(8)]
    assert min(float(clip.min()) for clip in clips) == -1000
    plain = ClipSettings(LENGTH, SIDE - 2, "lung", rotation_deg=90.0)
    assert min(float(cut(hu, 0, LENGTH, plain, np.random.default_rng(s)).min()) for s in range(8)) > 0
    assert float(cut(hu, 0, LENGTH, clip_settings(run)).min()) > 0  # not in evaluation


def test_one_mean_is_the_cohorts_whatever_the_init(workspace):
    def mean(*flaws, init="video"):
        run = run_of(workspace, *flaws, init=init)
        execute(str(workspace.root), run)
        return json.loads((workspace.runs / run.run_id / "weights.json").read_text())["mean"]

    assert mean() == pytest.approx([0.4])
    assert mean("one_mean") == mean(init="random") != pytest.approx([0.4])


def test_dropout_is_before_the_head_in_training_alone(workspace):
    [run] = expand(
        workspace, ["lidc_nodule"], ["resnet18"], ["random"], [0.5], [0], 1e-3, dropout=0.5, **SETTINGS
    )
    network, *_ = finetune._network(workspace, run, clips_of_run(workspace, run))
    assert network.dropout == 0.5
    head_sees, clip = [], torch.rand(2, 1, LENGTH, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    network.head.register_forward_pre_hook(lambda _, inputs: head_sees.append(inputs[0]))
    with torch.no_grad():
        for training in (True, False):
            network.train(training)
            network(clip)
        mean, std = (values.view(-1, 1, 1, 1) for values in (network.mean, network.std))
        features = network.backbone((clip - mean) / std)
    kept = head_sees[0] != 0
    assert 0.3 < kept.float().mean() / (features != 0).float().mean() < 0.7
    torch.testing.assert_close(head_sees[1], features)
    with pytest.raises(ValueError, match=r"dropout is 1\.0; give a share"):
        replace(run, dropout=1.0)


# ---- the table of choices ----------------------------------------------------------------

NOTEBOOKS = ("02_pretrain", "03_finetune_grid", "04_analyze")


def loaded(protocol):
    """Parameters of a profile that makes every choice of a protocol."""
    made = {name: dict(values) for name, values in parameters.load_profile("paper").items()}
    for values in made.values():
        chosen = {**{name: [] for name in PARTS}, **parameters_of(protocol)}
        values |= {name: value for name, value in chosen.items() if name in values}
    made["03_finetune_grid"] |= {"protocol": protocol, "protocol_overrides": []}
    return made


def test_each_switch_is_a_parameter_of_a_notebook():
    known = {name for notebook in NOTEBOOKS for name in parameters.load_profile("paper")[notebook]}
    for choice in CHOICES_OF_METHOD:
        assert set(choice.switches) <= known, choice.name
        assert choice.source and choice.about and all(choice.of(name).text for name in PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_profile_that_makes_all_choices_of_a_protocol_follows_it(protocol):
    asked = loaded(protocol)
    assert [each.name for each in differences(protocol, asked) if each.switches] == []


@pytest.mark.parametrize("choice", [c for c in CHOICES_OF_METHOD if c.switches], ids=lambda c: c.name)
@pytest.mark.parametrize("other", ["released", "corrected"])
def test_each_choice_of_the_paper_can_be_made_otherwise_by_itself(choice, other):
    """Its parameters alone are those of another protocol: then this choice differs, and no other."""
    asked = loaded("paper")
    if choice.name in FLAWS:
        asked["03_finetune_grid"]["protocol_overrides"] = [choice.name] if other == "released" else []
    for values in asked.values():
        for name, value in choice.of(other).parameters.items():
            if name in PARTS and name in values:
                gone = set(choice.paper.parameters.get(name, ()))
                values[name] = [*(part for part in values[name] if part not in gone), *value]
            elif name in values:
                values[name] = value
    alike = "paper" in follows(choice, asked)
    same = dict(choice.of(other).parameters) == dict(choice.paper.parameters)
    assert alike == (same if choice.name not in FLAWS else other == "corrected")
    assert [each.name for each in differences("paper", asked) if each.switches and each is not choice] == []


def test_the_profile_paper_follows_the_paper_but_for_what_its_head_says():
    found = differences("paper", parameters.load_profile("paper"))
    assert [choice.name for choice in found] == ["seeds", "folds", "intervals", "clip_of_penet", "lrcn"]
    head = (PROJECT / "params" / "paper" / "03_finetune_grid.yaml").read_text().split("\n\n")[0]
    for said in ("five folds and three seeds", "PENet takes 32 slices", "LRCN learns as a"):
        assert said in head


def test_the_table_is_told_in_the_docs():
    text = (PROJECT / "docs" / "protocol.md").read_text()
    for choice in CHOICES_OF_METHOD:
        cells = (choice.name, *(choice.of(name).text for name in ("paper", "released", "corrected")))
        assert "| `{}` | {} | {} | {} |".format(*cells) in text, choice.name


def test_the_command_prints_each_choice_and_what_a_profile_follows():
    asked = CliRunner().invoke(protocols, ["paper"], obj=HOME)
    assert asked.exit_code == 0, asked.output
    last = asked.output.strip().splitlines()[-1]
    assert (
        last == "Profile paper follows protocol paper, but for seeds, folds, intervals, clip_of_penet, lrcn."
    )
    assert "batch_size: clips a batch\n" in asked.output and "  profile paper  as paper\n" in asked.output
    rows = json.loads(CliRunner().invoke(protocols, ["--json"], obj=HOME).output)
    assert [row["choice"] for row in rows] == [choice.name for choice in CHOICES_OF_METHOD]
    assert all(row["paper"] and row["released"] and row["corrected"] and row["source"] for row in rows)
