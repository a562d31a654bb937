"""The small tables and sentences of notebook 02."""

import numpy as np
import pandas as pd

from ctlib.core import tables
from ctlib.core.workspace import Workspace
from ctlib.datasets.synthetic.video import write_video
from ctlib.datasets.video import FrameSettings, VideoClips, VideoFiles, prepare_videos
from ctlib.models import Init, TrainedOn, build_network, save_weights
from ctlib.visualization import summary_tables


def clips(tmp_path):
    """Four videos each of two classes; one of three frames, one that is broken, one that is none."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for k in range(4):
            write_video(
                tmp_path / "videos" / name / f"{k}.mkv", rng.integers(0, 255, (6, 14, 14)).astype(np.uint8)
            )
    write_video(tmp_path / "videos" / "a" / "short.mkv", np.zeros((3, 14, 14), np.uint8))
    whole = (tmp_path / "videos" / "b" / "0.mkv").read_bytes()
    (tmp_path / "videos" / "b" / "broken.mkv").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "videos" / "b" / "notes.txt").write_text("no video")
    index = prepare_videos(VideoFiles(tmp_path / "videos"), tmp_path / "frames", FrameSettings(14))
    shared = {"n_frames": 5, "crop_px": 12, "seed": 0, "heldout_share": 0.25}
    return [VideoClips(index, heldout=held, train=not held, **shared) for held in (False, True)]


def test_videos_are_counted_and_no_unusable_file_is_dropped_silently(tmp_path):
    train, heldout = clips(tmp_path)
    counted = summary_tables.videos(train, heldout).set_index("class")
    assert counted.loc["a"].tolist()[:2] == [3, 1] and counted.loc["b"].tolist()[:2] == [3, 1]
    assert counted["not usable"].tolist() == [1, 2]
    why = summary_tables.unusable(train, heldout).set_index("file")["why"]
    assert set(why.index) == {"a/short.mkv", "b/broken.mkv", "b/notes.txt"}
    assert why["a/short.mkv"] == "a/short.mkv has 3 frames, 5 are needed."
    shown = summary_tables.one_a_class(heldout)
    assert list(shown) == ["a", "b"] and shown["a"].shape == (5, 12, 12)
    assert list(summary_tables.one_a_class(heldout, most=1)) == ["a"]


def test_networks_state_what_they_see_and_cost():
    table = summary_tables.networks(["slow_r50", "resnet18", "lrcn_resnet18"], "tiny", (16, 48, 48))
    assert table["sees"].tolist() == ["whole clips (3D)", "slices (2D)", "slices in order (2D)"]
    whole, slices = (table.set_index("backbone")["multiply-adds, G"][k] for k in ("slow_r50", "resnet18"))
    twice = summary_tables.networks(["slow_r50", "resnet18"], "tiny", (32, 48, 48))["multiply-adds, G"]
    assert twice.tolist() == [2 * whole, 2 * slices]
    assert (table["kept, MB"] > 0).all()


def test_what_was_learnt_is_said_by_init_and_a_tensor_that_is_missing_is_not_hidden():
    curves = pd.DataFrame(
        {
            "init": ["video", "video", "ct_lidc"],
            "backbone": ["slow_r50", "slow_r50", "slow_r50"],
            "epoch": [1, 2, 1],
            "train_loss": 1.0,
            "heldout_loss": 1.0,
            "heldout_metric": [0.2, 0.75, 0.61],
            "metric": ["accuracy", "accuracy", "study AUROC"],
            "chance": [1 / 9, 1 / 9, 0.5],
        }
    )
    rows = {
        "backbone": "slow_r50",
        "init": ["video", "ct_lidc"],
        "tensor": "w",
        "shape": "2",
        "n_parameters": 2,
    }
    ledger = tables.check(
        pd.DataFrame(rows | {"status": ["loaded", "adapted"], "why": "a file", "checksum": "0"}), "ledger"
    )
    said = summary_tables.pretraining_sentences(tables.check(curves, "pretraining"), ledger)
    assert said == [
        "video: accuracy on held-out clips, best epoch: slow_r50 0.75 (chance 0.11).",
        "ct_lidc: study AUROC on held-out clips, best epoch: slow_r50 0.61 (chance 0.50).",
        "Of 2 networks built anew, every tensor but the head's was loaded into each.",
    ]
    assert (
        "1 tensor not loaded"
        in summary_tables.pretraining_sentences(curves, ledger.assign(status=["loaded", "random"]))[-1]
    )


def test_what_weights_have_seen_is_listed_once_for_networks_of_one_chain(tmp_path):
    work = Workspace(tmp_path)
    video = [{"what": "Kinetics-400", "kind": "video"}]
    photographs = [{"what": "ImageNet-1K", "kind": "photographs"}]
    for key, seen in (("resnet18", video), ("r3d_18", photographs + video), ("slow_r50", video)):
        made, _ = build_network(key, "tiny", Init("random", "", "", (0.4,), (0.2,)), seed=0)
        save_weights(made, work.weights("video", key), {"source": "", "licence": "", "seen": seen})
    table = summary_tables.pretraining_chains(work, ["random", "video"], ["resnet18", "r3d_18", "slow_r50"])
    both = str(TrainedOn("ImageNet-1K", "photographs")), str(TrainedOn("Kinetics-400", "video"))
    assert table.to_numpy().tolist() == [
        ["random", "resnet18, r3d_18, slow_r50", ""],
        ["video", "resnet18, slow_r50", both[1]],
        ["video", "r3d_18", ", then ".join(both)],
    ]
