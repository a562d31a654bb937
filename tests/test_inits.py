"""Every tensor is accounted for; the head and random weights are a function of the seed alone."""

import hashlib

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ctlib import backbones, tables
from ctlib.inits import Init, InitError, checksum, find, load_weights, loaded_ledger, network, save_weights
from ctlib.workspace import MissingInput, Workspace, read_json, write_json

KEY = "slow_r50"
RANDOM = Init("random", "drawn from the seed", "none needed", (0.3,), (0.2,))
RECORD = {
    "source": "nine motions of two photographs",
    "licence": "BSD-3-Clause",
    "classes": ["left", "right"],
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "demo")


@pytest.fixture
def video(workspace):
    """A pretrained network of nine outputs, saved; its weights and its init."""
    trained, _ = network(KEY, "tiny", Init("random", "", "", (0.45,), (0.225,)), seed=77, n_outputs=9)
    trained.train()(torch.rand(2, 1, 4, 32, 32))  # moves the batch-norm statistics
    save_weights(trained, workspace.weights("video", KEY), RECORD)
    return trained, find("video", KEY, workspace, (0.1, 0.1))


def rewrite(init, change):
    """The weights of an init, changed on disk behind its back."""
    tensors = load_file(init.path)
    change(tensors)
    save_file(tensors, init.path)


def state(seed=0, init=RANDOM, key=KEY, n_outputs=1):
    return network(key, "tiny", init, seed, n_outputs)[0].state_dict()


def test_all_tensors_of_the_backbone_are_loaded_and_the_head_is_new(video):
    trained, init = video
    made, ledger = network(KEY, "tiny", init, seed=0)
    source = trained.state_dict()
    for name, tensor in made.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, source[name]), name
    assert made.state_dict()["backbone.blocks.0.norm.num_batches_tracked"] == 1
    assert torch.equal(made.head.weight, network(KEY, "tiny", RANDOM, seed=0)[0].head.weight)
    status = ledger.set_index("tensor")["status"]
    assert set(status[status == "head"].index) == {"head.weight", "head.bias"}
    assert set(status.drop(["head.weight", "head.bias"])) == {"loaded"}
    assert ledger.set_index("tensor").loc["head.weight", "why"].endswith("the file's own head is not used")


def test_the_ledger_has_one_row_a_tensor_as_it_is_in_memory(video):
    for init in (RANDOM, video[1]):
        made, ledger = network(KEY, "tiny", init, seed=0)
        tables.check(ledger, "ledger")
        held = made.state_dict()
        assert ledger["tensor"].tolist() == list(held)
        assert any("running_mean" in name for name in held) and "head.bias" in held
        assert ledger["n_parameters"].tolist() == [tensor.numel() for tensor in held.values()]
        for row in ledger.itertuples():
            values = held[row.tensor].numpy().tobytes()
            assert row.checksum == hashlib.sha256(values).hexdigest()[:16]
        expected = {"head", "random"} if init is RANDOM else {"head", "loaded"}
        assert set(ledger["status"]) == expected
        assert ledger["shape"].iloc[0] == "x".join(map(str, held[ledger["tensor"].iloc[0]].shape))


def test_mean_and_std_are_no_part_of_the_state_but_follow_the_init(video):
    made, ledger = network(KEY, "tiny", video[1], seed=0)
    assert (made.mean.item(), made.std.item()) == pytest.approx((0.45, 0.225))
    assert not {"mean", "std"} & set(made.state_dict()) and not {"mean", "std"} & set(ledger["tensor"])
    clip = torch.rand(2, 1, 4, 32, 32)
    made.eval()
    with torch.no_grad():
        expected = made.head(made.backbone((clip - 0.45) / 0.225))
        torch.testing.assert_close(made(clip), expected)
    assert made(clip).shape == (2, 1)


@pytest.mark.parametrize("key", list(backbones.REGISTRY))
def test_networks_take_the_memory_format_of_their_record(key):
    made = network(key, "tiny", RANDOM, seed=0)[0].eval()
    clip = torch.rand(1, 1, 16, 48, 48)
    with torch.no_grad():
        expected = made(clip)
        moved = made.to(memory_format=backbones.spec(key).channels_last)
        torch.testing.assert_close(moved(clip), expected, rtol=1e-4, atol=1e-5)


def test_a_clip_of_one_channel_is_repeated_where_the_network_takes_three():
    init = Init("kinetics400", "", "", (0.45, 0.4, 0.5), (0.225, 0.2, 0.25), channels=3)
    made = network("resnet18", "tiny", init, seed=0)[0].eval()
    clip = torch.rand(1, 1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(made(clip), made(clip.expand(-1, 3, -1, -1, -1)))
    same = Init("kinetics400", "", "", (0.45,), (0.225,), channels=3)
    assert network("resnet18", "tiny", same, seed=0)[0].mean.tolist() == pytest.approx([0.45] * 3)


@pytest.mark.parametrize("key", list(backbones.REGISTRY))
def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(key):
    first = state(3, key=key)
    torch.rand(17)
    second = state(3, key=key)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = state(4, key=key)
    for name in ("head.weight", next(name for name in first if name.endswith("weight"))):
        assert not torch.equal(first[name], other[name]), name


def test_torchs_own_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network(KEY, "tiny", RANDOM, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_the_head_does_not_depend_on_what_the_backbone_draws(monkeypatch):
    expected = state(2)["head.weight"]

    def thirsty(*args):
        torch.rand(1000)
        return backbones.build(*args)

    monkeypatch.setattr("ctlib.inits.build", thirsty)
    drawn = state(2)
    assert torch.equal(drawn["head.weight"], expected)


def test_the_head_is_drawn_as_stated():
    drawn = state(0, n_outputs=400)
    assert drawn["head.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    assert not drawn["head.bias"].any()


NAME = "backbone.blocks.0.conv.weight"


def remove(tensors):
    del tensors[NAME]


def rename(tensors):
    tensors["backbone.blocks.0.convolution.weight"] = tensors.pop(NAME)


def reshape(tensors):
    tensors[NAME] = tensors[NAME][:, :, :, :5].contiguous()


def retype(tensors):
    tensors[NAME] = tensors[NAME].half()


def drop_statistics(tensors):
    del tensors["backbone.blocks.0.norm.running_var"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, rf"1 missing: {NAME}\."),
        (rename, rf"1 missing: {NAME}; 1 unexpected: backbone\.blocks\.0\.convolution\.weight\."),
        (reshape, rf"1 of another shape or type: {NAME} \(8x1x5x5x7 .* for 8x1x5x7x7"),
        (retype, rf"{NAME} \(8x1x5x7x7 torch\.float16 for"),
        (drop_statistics, r"1 missing: backbone\.blocks\.0\.norm\.running_var\."),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(video, change, message):
    rewrite(video[1], change)
    with pytest.raises(InitError, match=message):
        network(KEY, "tiny", video[1], seed=0)


def test_weights_of_another_network_are_refused_with_the_first_names(video):
    with pytest.raises(InitError, match=r"init video for r2plus1d_r50 \(tiny\).* and \d+ more"):
        network("r2plus1d_r50", "tiny", video[1], seed=0)


def test_a_file_that_is_no_safetensors_is_refused(video):
    video[1].path.write_bytes(b"not weights")
    with pytest.raises(InitError, match="no safetensors file"):
        network(KEY, "tiny", video[1], seed=0)


def test_saved_weights_come_back_with_their_head(video, workspace):
    trained, init = video
    other, _ = network(KEY, "tiny", RANDOM, seed=1, n_outputs=9)
    load_weights(other, init.path)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    with pytest.raises(InitError, match=r"head\.bias \(9 .* for 1 .*head\.weight"):
        load_weights(network(KEY, "tiny", RANDOM, seed=1)[0], init.path)
    with pytest.raises(InitError, match="is missing"):
        load_weights(other, workspace.weights("video", "x3d_m"))


def test_weights_are_saved_with_channels_last_too(video, workspace):
    trained, init = video
    before = init.checksum
    trained.to(memory_format=torch.channels_last_3d)
    save_weights(trained, init.path, RECORD)
    assert find("video", KEY, workspace, (0, 1)).checksum == before


def test_the_record_states_what_was_saved(video):
    trained, init = video
    record = read_json(init.path.with_suffix(".json"))
    assert record["source"] == RECORD["source"] and record["classes"] == RECORD["classes"]
    assert record["sha256"] == hashlib.sha256(init.path.read_bytes()).hexdigest() == init.checksum
    assert record["n_tensors"] == len(trained.state_dict())
    assert (init.name, init.source, init.licence, init.channels) == ("video", *list(RECORD.values())[:2], 1)
    assert (init.mean, init.std) == (pytest.approx((0.45,)), pytest.approx((0.225,)))
    assert not list(init.path.parent.glob(".*")), "a temporary file is left"


def test_random_takes_mean_and_std_of_the_cohort(workspace):
    init = find("random", KEY, workspace, (0.31, 0.27))
    assert (init.mean, init.std, init.path, init.checksum) == ((0.31,), (0.27,), None, "")


def test_weights_that_were_not_made_are_named_with_their_notebook(workspace):
    with pytest.raises(MissingInput, match=r"video/slow_r50\.safetensors is missing; notebook 02_pretrain"):
        find("video", KEY, workspace, (0.3, 0.2))


def test_an_unknown_init_is_refused(workspace):
    with pytest.raises(ValueError, match="'vdieo'; known are random, video"):
        find("vdieo", KEY, workspace, (0.3, 0.2))


def test_a_file_that_is_not_the_recorded_one_is_refused(video, workspace):
    rewrite(video[1], lambda tensors: tensors[NAME].mul_(2))
    with pytest.raises(InitError, match="not the file of its record"):
        find("video", KEY, workspace, (0.3, 0.2))


def test_a_record_without_a_field_is_refused(video, workspace):
    path = video[1].path.with_suffix(".json")
    write_json(path, {key: value for key, value in read_json(path).items() if key != "licence"})
    with pytest.raises(InitError, match="lacks licence"):
        find("video", KEY, workspace, (0.3, 0.2))


@pytest.mark.parametrize(("mean", "std"), [((0.4, 0.4), (0.2,)), ((0.4,), (0.0,)), ((float("nan"),), (0.2,))])
def test_a_mean_or_std_that_cannot_be_is_refused(mean, std):
    with pytest.raises(InitError, match="init random"):
        Init("random", "", "", mean, std)


def test_the_ledger_of_what_a_run_would_load(video, workspace):
    ledger = loaded_ledger(workspace, "video", [KEY], "tiny")
    pd.testing.assert_frame_equal(ledger, network(KEY, "tiny", video[1], seed=0)[1])
    with pytest.raises(MissingInput, match="x3d_m"):
        loaded_ledger(workspace, "video", [KEY, "x3d_m"], "tiny")


def test_checksums_do_not_depend_on_the_memory_format():
    tensor = torch.rand(2, 3, 4, 5, 6)
    assert checksum(tensor) == checksum(tensor.to(memory_format=torch.channels_last_3d))
    changed = tensor.clone()
    changed[0, 0, 0, 0, 0] += 1e-6
    assert checksum(tensor) != checksum(changed)
