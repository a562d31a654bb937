"""Weights are pretrained once for the same settings and data, fit their init, and survive an interruption."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from noise_cohort import SIDE, write_cohort
from safetensors.torch import load_file

from ctlib.core import Busy, claimed, tables
from ctlib.core.workspace import Workspace
from ctlib.datasets.clips import BalancedSampler
from ctlib.datasets.store import Store
from ctlib.datasets.synthetic.video import write_video
from ctlib.datasets.video import VideoFiles
from ctlib.grid.engine import Engine
from ctlib.grid.execute import pretrain_all, waves
from ctlib.io.volume import Volume
from ctlib.models.weights import load
from ctlib.models.weights.init_names import Origin
from ctlib.models.weights.record import NO_COHORT
from ctlib.training import pretraining, run
from ctlib.training.device import Compute
from ctlib.training.loop import FitError
from ctlib.training.pretrain_ct import CtSource
from ctlib.training.pretrain_video import VideoSource
from ctlib.training.pretraining import Plan, PretrainSettings, job, made_here, pretrain
from ctlib.training.step import Step
from ctlib.training.vicreg import Paired, Views, expander, found_again

SETTINGS = PretrainSettings(
    size="tiny",
    clip_length=4,
    crop_px=12,
    epochs=2,
    steps_per_epoch=3,
    batch_size=4,
    lr=1e-3,
    weight_decay=1e-6,
    precision="fp32",
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """Eight videos of each of three classes, told apart by their brightness."""
    rng = np.random.default_rng(0)
    for low, name in ((0, "dark"), (60, "bright"), (120, "brighter")):
        folder = tmp_path / "videos" / name
        folder.mkdir(parents=True)
        for k in range(8):
            write_video(folder / f"{k}.mkv", rng.integers(low, low + 120, (4, 14, 14)).astype(np.uint8))
    return Workspace(tmp_path)


def videos(workspace: Workspace, **changes) -> VideoSource:
    how = {"source": "bright and dark noise", "licence": "none needed", "heldout_share": 0.25} | changes
    return VideoSource(VideoFiles(workspace.videos), **how)


def plan(workspace: Workspace, **changes) -> Plan:
    return Plan(dataclasses.replace(SETTINGS, **changes), videos(workspace))


def made(workspace: Workspace, how: Plan, init: str = "video", backbone: str = "resnet18") -> dict:
    """One network pretrained here, as a worker does it."""
    return pretrain(str(workspace.root), wanted(workspace, how, init, backbone), how)


def wanted(workspace: Workspace, how: Plan, init: str = "video", backbone: str = "resnet18"):
    return job(workspace, init, backbone, how, how.fingerprint(workspace, made_here(init)))


def weights(workspace: Workspace, init: str = "video") -> dict[str, torch.Tensor]:
    return load_file(workspace.weights(init, "resnet18"))


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_weights_are_an_init_with_the_mean_and_std_of_the_videos(workspace):
    record = made(workspace, plan(workspace))
    assert record["classes"] == ["bright", "brighter", "dark"]
    assert (record["n_train"], record["n_heldout"]) == (18, 6)
    assert (record["metric"], record["chance"]) == ("accuracy", 1 / 3)
    assert 0 <= record["heldout_metric"] <= 1 and len(record["curves"]) == 2
    assert record["settings"] == dataclasses.asdict(SETTINGS)
    init = load.find("video", "resnet18", workspace, NO_COHORT)
    assert init.source == "bright and dark noise" and init.licence == "none needed"
    assert init.mean[0] == pytest.approx((59.5 + 60) / 255, abs=0.02)  # the mean of the three classes
    network, ledger = load.build_network("resnet18", "tiny", init, seed=0)
    assert set(ledger["status"]) == {"loaded", "head"}
    assert torch.equal(network.backbone.conv1.weight, weights(workspace)["backbone.conv1.weight"])
    assert weights(workspace)["head.weight"].shape[0] == 3  # one logit a class
    assert [path.name for path in (workspace.root / "weights" / "video").iterdir() if path.is_dir()] == []


def test_it_computes_as_was_measured_for_its_network_and_batch(workspace, monkeypatch):
    asked = []
    here = Compute("cpu", "32-true")
    monkeypatch.setattr(pretraining, "compute_of", lambda *given: asked.append(given) or here)
    made(workspace, plan(workspace))
    assert asked == [(workspace.root, Step("resnet18", "", "tiny", (4, 1, 4, 12, 12), "adamw", "fp32"))]


def test_the_same_settings_and_videos_are_not_trained_on_again(workspace, monkeypatch):
    first = made(workspace, plan(workspace))
    fit = pretraining.fit
    monkeypatch.setattr(pretraining, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    assert made(workspace, plan(workspace)) == first
    monkeypatch.setattr(pretraining, "fit", fit)
    assert made(workspace, plan(workspace, lr=2e-3))["made_from"] != first["made_from"]


def test_all_that_changes_the_weights_changes_what_they_are_made_from(workspace):
    def of(how: Plan, init="video", backbone="resnet18"):
        return wanted(workspace, how, init, backbone).made_from

    how, path = plan(workspace), workspace.videos / "dark" / "0.mkv"
    found = [of(how), of(plan(workspace, weight_decay=0.1)), of(Plan(SETTINGS, videos(workspace, flip=True)))]
    found += [of(how, backbone="slow_r50"), of(how, init="video_ssl")]
    assert of(plan(workspace)) == found[0]
    write_video(path, np.random.default_rng(1).integers(0, 120, (4, 14, 14)).astype(np.uint8))
    found.append(of(plan(workspace)))
    path.rename(workspace.videos / "bright" / "moved.mkv")  # another class
    found.append(of(plan(workspace)))
    assert len(set(found)) == 7


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(workspace, monkeypatch):
    made(workspace, plan(workspace))
    expected = weights(workspace)
    workspace.weights("video", "resnet18").unlink()
    fit = pretraining.fit

    def killed(network, train, sampler, heldout, accuracy, *args):
        calls = []

        def metric(logits):
            calls.append(logits)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return accuracy(logits)

        return fit(network, train, sampler, heldout, metric, *args)

    monkeypatch.setattr(pretraining, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        made(workspace, plan(workspace))
    [left] = [path for path in (workspace.root / "weights" / "video").iterdir() if path.is_dir()]
    assert (left / "last.ckpt").is_file()
    monkeypatch.setattr(pretraining, "fit", fit)
    made(workspace, plan(workspace))
    assert_same(weights(workspace), expected)


def test_two_processes_do_not_pretrain_the_same_network(workspace):
    how = plan(workspace)
    folder = workspace.root / "weights" / "video" / f".resnet18-{wanted(workspace, how).made_from[:12]}"
    with claimed(folder, lambda: False), pytest.raises(Busy, match=r"is computed by process \d+ on "):
        made(workspace, how)
    assert made(workspace, how) and not folder.exists()


def test_the_table_holds_every_network_and_a_failure_is_said(workspace):
    lines: list[str] = []
    both = ["resnet18", "slow_r50"]
    table = pretrain_all(workspace, ["video"], both, plan(workspace), Engine(0), lines.append)
    assert table["backbone"].tolist() == ["resnet18"] * 2 + ["slow_r50"] * 2
    assert table["epoch"].tolist() == [1, 2] * 2 and set(table["metric"]) == {"accuracy"}
    stored = tables.read("pretraining", workspace.table("pretraining"))
    assert stored["heldout_loss"].tolist() == table["heldout_loss"].tolist()
    assert lines[0] == "video: 0 of 2 networks were pretrained before."
    assert lines[1].startswith("video resnet18: accuracy ") and "(chance 0.33) on held-out" in lines[1]
    again = pretrain_all(workspace, ["video"], both, plan(workspace), Engine(0), lines.append)
    assert again.equals(table)
    assert lines[3:] == ["video: 2 of 2 networks were pretrained before."]
    record = json.loads(workspace.weights("video", "slow_r50").with_suffix(".json").read_text())
    assert record["backbone"] == "slow_r50"
    bad = plan(workspace, lr=1e30)
    with pytest.raises(
        RuntimeError, match=r"2 of 2 networks failed; video resnet18: .*lower lr, which is 1e\+30"
    ):
        pretrain_all(workspace, ["video"], both, bad, Engine(0), lines.append)
    assert lines[5].startswith("video resnet18: failed: ctlib.training.loop.FitError: ")


def test_one_init_begins_from_another(workspace):
    """Whatever order they are asked for in; the ledger of the second names the first."""
    lines: list[str] = []
    names = ["video+video_ssl", "video"]
    assert waves(names) == [["video"], ["video+video_ssl"]]
    table = pretrain_all(workspace, names, ["resnet18"], plan(workspace), Engine(0), lines.append)
    assert table["init"].tolist() == ["video"] * 2 + ["video+video_ssl"] * 2
    record = json.loads(workspace.weights("video+video_ssl", "resnet18").with_suffix(".json").read_text())
    assert record["begins_from"] == "video"
    assert record["begins_from_sha256"] == load.find("video", "resnet18", workspace, NO_COHORT).checksum
    assert record["source"] == "bright and dark noise; then bright and dark noise, no labels"
    whats = ("bright and dark noise", "bright and dark noise, no labels")
    assert record["seen"] == [{"what": what, "kind": "video"} for what in whats]
    first, second = weights(workspace), weights(workspace, "video+video_ssl")
    backbone = [name for name in first if name.startswith("backbone") and first[name].is_floating_point()]
    moved = torch.cat([(second[name] - first[name]).flatten().abs() for name in backbone])
    fresh, _ = load.build_network("resnet18", "tiny", load.Init("random", "", "", (0.5,), (0.2,)), 0)
    away = fresh.state_dict()
    far = torch.cat([(away[name] - first[name]).flatten().abs() for name in backbone])
    assert 0 < moved.mean() < far.mean()  # begun from the first, not from random weights


def test_what_is_made_here_says_so_and_nothing_else_is_taken(workspace):
    assert made_here("kinetics400+ct_lidc_ssl") == Origin("kinetics400", "ct_lidc", True)
    with pytest.raises(ValueError, match=r"init is 'imagenet', which is not made here; known are video, ct_"):
        pretrain_all(workspace, ["imagenet"], ["resnet18"], plan(workspace), Engine(0))
    with pytest.raises(
        ValueError, match="pretrained has ct_lidc, which needs a source cohort; or leave it out"
    ):
        pretrain_all(workspace, ["ct_lidc"], ["resnet18"], plan(workspace), Engine(0))


# ---- arms of the control of the method ---------------------------------------------------


def test_a_variant_has_fewer_steps_or_the_second_seed_and_a_network_what_is_its_own(workspace):
    own = ("slow_r50.lr=0.5", "slow_r50.steps_per_epoch=30", "resnet18.epochs=7")
    how = Plan(SETTINGS, videos(workspace), exceptions=own)

    def of(init: str, backbone: str) -> dict[str, object]:
        settings = dataclasses.asdict(how.settings_of(made_here(init), backbone))
        return {name: value for name, value in settings.items() if value != getattr(SETTINGS, name)}

    assert of("video", "x3d_m") == of("video_placebo", "x3d_m") == {}
    assert of("video_part", "x3d_m") == {"steps_per_epoch": 1}
    assert of("video_b", "x3d_m") == {"seed": 1, "second_seed": 0}
    assert of("video", "slow_r50") == {"lr": 0.5, "steps_per_epoch": 30}
    assert of("video_part", "slow_r50") == {"lr": 0.5, "steps_per_epoch": 10}
    assert of("video_b", "resnet18") == {"epochs": 7, "seed": 1, "second_seed": 0}


@pytest.mark.parametrize(
    "text", ["slow_r50.crop_px=8", "slow_r50.batch_size=2", "slow_r50.seed=3", "slow_r50", "lr=1"]
)
def test_what_networks_share_is_no_exception(workspace, text):
    how = Plan(SETTINGS, videos(workspace), exceptions=(text,))
    with pytest.raises(ValueError, match=f"exceptions has '{text}'; give network.setting=value"):
        how.require(["resnet18", "slow_r50"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4, "second_seed": 4}, "pretrain_second_seed is 4, as the first; give another"),
        ({"part_share": 0.0}, "pretrain_part_share is 0; give a share between 0 and 1"),
        ({"part_share": 1.0}, "pretrain_part_share is 1; give"),
        ({"part_share": -0.5}, "pretrain_part_share is -0.5; give"),
        ({"part_share": float("nan")}, "pretrain_part_share is nan; give"),
    ],
)
def test_a_second_draw_that_is_the_first_and_a_share_that_is_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_a_placebo_learns_exchanged_labels_and_is_judged_by_true_ones(workspace):
    how = plan(workspace)
    true, exchanged = (how.pretrain_task(workspace, made_here(init)) for init in ("video", "video_placebo"))
    for pretrain_task, same in ((true, True), (exchanged, False)):
        taught = [pretrain_task.train[i]["label"] for i in range(len(pretrain_task.train))]
        of_videos = pretrain_task.train.table["label"].tolist()
        assert taught == pretrain_task.labels  # what the sampler balances is what is learnt
        assert sorted(taught) == sorted(of_videos) and (taught == of_videos) == same
        assert pretrain_task.heldout.labels == pretrain_task.heldout.table["label"].tolist()
        assert pretrain_task.metric(np.eye(3)[pretrain_task.heldout.table["label"]]) == 1.0
    assert exchanged.train.table.equals(true.train.table)
    assert exchanged.about == true.about | {"source": "bright and dark noise, labels exchanged"}


def test_a_second_draw_is_of_other_weights_and_of_other_held_out_videos(workspace):
    how = plan(workspace)
    first, second = (how.pretrain_task(workspace, made_here(init)) for init in ("video", "video_b"))
    assert first.heldout.table["path"].tolist() != second.heldout.table["path"].tolist()
    made(workspace, how)
    record = made(workspace, how, "video_b")
    assert record["settings"]["seed"] == how.settings.second_seed
    assert not torch.equal(
        *(weights(workspace, init)["backbone.conv1.weight"] for init in ("video", "video_b"))
    )
    same = dataclasses.replace(SETTINGS, seed=how.settings.second_seed, second_seed=5)
    made(workspace, Plan(same, videos(workspace)))
    assert_same(weights(workspace), weights(workspace, "video_b"))  # nothing else differs


def test_a_part_of_the_steps_is_all_that_a_part_differs_in(workspace):
    record = made(workspace, plan(workspace, steps_per_epoch=6, part_share=0.5), "video_part")
    made(workspace, plan(workspace, steps_per_epoch=3))
    assert record["settings"]["steps_per_epoch"] == 3
    assert_same(weights(workspace), weights(workspace, "video_part"))


# ---- without labels ----------------------------------------------------------------------


class Noise(torch.utils.data.Dataset):
    """Items that say which row, position and epoch they are of."""

    def __init__(self, n: int):
        self.n, self.epoch = n, 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index):
        return {"index": int(index), "position": getattr(index, "position", None), "epoch": self.epoch}


def test_each_draw_comes_twice_at_positions_of_its_own():
    plain = BalancedSampler([0, 0, 0], 4, seed=1, classes=[0])
    paired = Paired(plain)
    paired.set_epoch(3)
    rows = list(paired)
    assert len(paired) == len(rows) == 8 and [row.position for row in rows] == list(range(8))
    assert rows[0::2] == rows[1::2] == list(plain) and plain.epoch == 3


def test_held_out_clips_come_in_two_views_always_the_same():
    views = Views(Noise(2))
    assert [views[i]["index"] for i in range(len(views))] == [0, 0, 1, 1]
    assert [views[i]["position"] for i in range(4)] == [0, 1, 2, 3]


def test_a_collapsed_network_finds_nothing_again():
    assert found_again(np.ones((20, 4), np.float32)) == 0.0
    assert found_again(np.zeros((20, 4), np.float32)) == 0.0
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(10, 6)).repeat(2, axis=0).astype(np.float32)
    assert found_again(clips + rng.normal(0, 0.05, clips.shape).astype(np.float32)) == 1.0


def test_the_expander_takes_the_place_of_the_head_and_is_not_loaded(workspace):
    record = made(workspace, plan(workspace), "video_ssl")
    assert (record["metric"], record["chance"], record["classes"]) == ("clips found again", 1 / 6, [])
    assert record["source"] == "bright and dark noise, no labels"
    stored = weights(workspace, "video_ssl")
    n = stored["head.0.weight"].shape[1]
    assert stored["head.3.weight"].shape == expander(n, torch.Generator())[3].weight.shape
    init = load.find("video_ssl", "resnet18", workspace, NO_COHORT)
    network, ledger = load.build_network("resnet18", "tiny", init, seed=0)
    assert torch.equal(network.backbone.conv1.weight, stored["backbone.conv1.weight"])
    assert network.head.weight.shape == (1, n) and set(ledger["status"]) == {"loaded", "head"}


def test_views_teach_without_labels(workspace):
    """Sixty videos of one kind of picture each: after some epochs most are found again, few at first."""
    rng = np.random.default_rng(3)
    for name in ("one", "two"):
        (workspace.root / "pictures" / name).mkdir(parents=True)
        for k in range(30):
            coarse = rng.integers(0, 255, (4, 4)).astype(np.uint8)
            frame = coarse.repeat(5, axis=0).repeat(5, axis=1)[:14, :14]
            write_video(workspace.root / "pictures" / name / f"{k}.mkv", np.stack([frame] * 4))
    source = VideoSource(VideoFiles(workspace.root / "pictures"), "checks", "none needed", 0.5)
    settings = dataclasses.replace(SETTINGS, epochs=6, steps_per_epoch=10, batch_size=8, lr=0.01)
    record = made(workspace, Plan(settings, source), "video_ssl")
    metric = pd.DataFrame(record["curves"])["heldout_metric"]
    assert metric.max() > 3 * record["chance"]


# ---- a source cohort ---------------------------------------------------------------------


@pytest.fixture
def cohort(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_cohort(workspace, "lidc")
    return workspace


CT = CtSource(matrix_px=SIDE, rotation_deg=10.0)


def test_a_cohort_teaches_its_labels_and_shows_no_test_patient(cohort):
    how = Plan(dataclasses.replace(SETTINGS, epochs=3, lr=0.01), ct=CT)
    record = made(cohort, how, "ct_lidc")
    rows = run.labelled_clips(cohort, "lidc")
    n = rows["split"].value_counts()
    assert (record["n_train"], record["n_heldout"]) == (n["train"], n["val"])
    assert (record["metric"], record["chance"]) == ("study AUROC", 0.5)
    patients = rows[rows["split"] == "train"]["patient_id"].nunique()
    assert record["source"] == f"Lung nodule (LIDC-IDRI), {patients} training patients, labelled"
    assert record["seen"] == [{"what": record["source"], "kind": "CT"}]
    assert record["licence"] == "CC BY 3.0 (LIDC-IDRI, TCIA)"
    pretrain_task = how.pretrain_task(cohort, made_here("ct_lidc"))
    seen = {*pretrain_task.train.table["series_uid"], *pretrain_task.heldout.table["series_uid"]}
    assert not seen & set(rows[rows["split"] == "test"]["series_uid"])
    assert (
        pretrain_task.intensity()[0] == record_mean(cohort, "ct_lidc")
        and weights(cohort, "ct_lidc")["head.weight"].shape[0] == 1
    )


def test_a_cap_on_patients_holds_for_labels_alone(cohort):
    few = dataclasses.replace(CT, pretrain_patients=6)
    rows = run.labelled_clips(cohort, "lidc")
    every = set(rows.loc[rows["split"] == "train", "patient_id"])
    seen = {}
    for name, source in (("all", CT), ("few", few), ("again", few)):
        part = Plan(SETTINGS, ct=source).pretrain_task(cohort, made_here("ct_lidc"))
        seen[name] = set(part.train.table["patient_id"])
        assert f"{len(seen[name])} training patients" in part.about["source"]
    assert (
        seen["all"] == every and len(seen["few"]) == 6 < len(every) and seen["few"] == seen["again"] < every
    )
    assert rows[rows["patient_id"].isin(seen["few"])]["study_label"].nunique() == 2
    unlabelled = Plan(SETTINGS, ct=few).pretrain_task(cohort, made_here("ct_lidc_ssl"))
    assert set(unlabelled.train.table["patient_id"]) == every
    assert few.settings() == {**CT.settings(), "pretrain_patients": 6}  # 0 leaves old weights what they are
    with pytest.raises(ValueError, match="pretrain_patients is -1; give 0"):
        dataclasses.replace(CT, pretrain_patients=-1)


def record_mean(workspace: Workspace, init: str) -> tuple[float, ...]:
    """To seven digits, as float32 has them."""
    mean = json.loads(workspace.weights(init, "resnet18").with_suffix(".json").read_text())["mean"]
    return pytest.approx(tuple(mean), rel=1e-6)


def test_a_cohort_without_labels_teaches_by_views(cohort):
    for name in ("series", "clips"):
        table = tables.read(name, cohort.table(name, "lidc"))
        tables.write(
            table.assign(label=pd.array([pd.NA] * len(table), "Int64")), name, cohort.table(name, "lidc")
        )
    record = made(cohort, Plan(SETTINGS, ct=CT), "ct_lidc_ssl")
    assert record["metric"] == "clips found again" and record["source"].endswith(
        "training patients, no labels"
    )
    with pytest.raises(ValueError, match=r"cohort lidc: series lidc\.0\.0, clip 0 has no clip"):
        made(cohort, Plan(SETTINGS, ct=CT), "ct_lidc")


def test_a_placebo_of_a_cohort_exchanges_the_labels_of_training_patients_alone(cohort):
    how = Plan(SETTINGS, ct=CT)
    true, exchanged = (how.pretrain_task(cohort, made_here(init)) for init in ("ct_lidc", "ct_lidc_placebo"))
    assert exchanged.labels == exchanged.train.table["label"].tolist() != true.labels
    assert exchanged.train.table[["series_uid", "clip"]].equals(true.train.table[["series_uid", "clip"]])
    assert exchanged.heldout.table.equals(true.heldout.table)
    assert exchanged.about["source"] == true.about["source"].removesuffix("labelled") + "labels exchanged"
    ill = [
        pretrain_task.train.table.groupby("series_uid")["label"].max().sum()
        for pretrain_task in (true, exchanged)
    ]
    assert ill[0] == ill[1] > 0


def test_a_cohort_that_is_none_or_empty_is_named(cohort):
    with pytest.raises(
        ValueError, match="init ct_moon names no cohort; known are folder, lidc, luna16, nlst501"
    ):
        made(cohort, Plan(SETTINGS, ct=CT), "ct_moon")
    splits = tables.read("splits", cohort.table("splits", "lidc"))
    tables.write(splits.assign(split="test"), "splits", cohort.table("splits", "lidc"))
    with pytest.raises(FitError, match=r"cohort lidc has no clip in split train; give it patients"):
        made(cohort, Plan(SETTINGS, ct=CT), "ct_lidc")


def test_one_changed_voxel_or_label_is_another_source(cohort):
    how = Plan(SETTINGS, ct=CT)
    before = wanted(cohort, how, "ct_lidc").made_from
    assert (
        wanted(cohort, Plan(SETTINGS, ct=dataclasses.replace(CT, jitter_hu=5.0)), "ct_lidc").made_from
        != before
    )
    series = tables.read("series", cohort.table("series", "lidc"))
    store = Store(cohort.store("lidc"), SIDE)
    uid = series["series_uid"].iloc[0]
    hu = store.read(uid).copy()
    hu[0, 0, 0] += 1
    store.put(Volume(hu, (2.0, 1.0, 1.0), uid, (0.0, 0.0, 0.0)))
    assert wanted(cohort, how, "ct_lidc").made_from != before
