"""Every tensor is accounted for; the head and random weights are a function of the seed alone."""

import copy
import hashlib
import math

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ctlib.core import tables
from ctlib.core.workspace import MissingInput, Workspace, read_json, write_json
from ctlib.models import registry
from ctlib.models.weights import catalog, forward_check
from ctlib.models.weights.load import (
    Init,
    InitError,
    Origin,
    build_network,
    checksum,
    find,
    forward_checks,
    forward_difference,
    load_weights,
    loaded_ledger,
    origin,
    save_weights,
)
from ctlib.models.weights.record import chain_by_name

KEY = "slow_r50"
COHORT = ((0.3,), (0.2,))
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
    trained, _ = build_network(KEY, "tiny", Init("random", "", "", (0.45,), (0.225,)), seed=77, n_outputs=9)
    trained.train()(torch.rand(2, 1, 4, 32, 32))  # moves the batch-norm statistics
    save_weights(trained, workspace.weights("video", KEY), RECORD)
    return trained, find("video", KEY, workspace, COHORT)


def rewrite(init, change):
    """The weights of an init, changed on disk behind its back."""
    tensors = load_file(init.path)
    change(tensors)
    save_file(tensors, init.path)


def state(seed=0, init=RANDOM, key=KEY, n_outputs=1):
    return build_network(key, "tiny", init, seed, n_outputs)[0].state_dict()


def test_all_tensors_of_the_backbone_are_loaded_and_the_head_is_new(video):
    trained, init = video
    made, ledger = build_network(KEY, "tiny", init, seed=0)
    source = trained.state_dict()
    for name, tensor in made.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, source[name]), name
    assert made.state_dict()["backbone.blocks.0.norm.num_batches_tracked"] == 1
    assert torch.equal(made.head.weight, build_network(KEY, "tiny", RANDOM, seed=0)[0].head.weight)
    status = ledger.set_index("tensor")["status"]
    assert set(status[status == "head"].index) == {"head.weight", "head.bias"}
    assert set(status.drop(["head.weight", "head.bias"])) == {"loaded"}
    assert ledger.set_index("tensor").loc["head.weight", "why"].endswith("the file's own head is not used")


def test_the_ledger_has_one_row_a_tensor_as_it_is_in_memory(video):
    for init in (RANDOM, video[1]):
        made, ledger = build_network(KEY, "tiny", init, seed=0)
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
    made, ledger = build_network(KEY, "tiny", video[1], seed=0)
    assert (made.mean.item(), made.std.item()) == pytest.approx((0.45, 0.225))
    assert not {"mean", "std"} & set(made.state_dict()) and not {"mean", "std"} & set(ledger["tensor"])
    clip = torch.rand(2, 1, 4, 32, 32)
    made.eval()
    with torch.no_grad():
        expected = made.head(made.backbone((clip - 0.45) / 0.225))
        torch.testing.assert_close(made(clip), expected)
    assert made(clip).shape == (2, 1)


@pytest.mark.parametrize("key", list(registry.BACKBONES))
def test_networks_take_the_memory_format_of_their_record(key):
    made = build_network(key, "tiny", RANDOM, seed=0)[0].eval()
    clip = torch.rand(1, 1, 16, 48, 48)
    with torch.no_grad():
        expected = made(clip)
        moved = made.to(memory_format=registry.spec(key).channels_last)
        torch.testing.assert_close(moved(clip), expected, rtol=1e-4, atol=1e-5)


def test_a_clip_of_one_channel_is_repeated_where_the_network_takes_three():
    init = Init("kinetics400", "", "", (0.45, 0.4, 0.5), (0.225, 0.2, 0.25), channels=3)
    made = build_network("resnet18", "tiny", init, seed=0)[0].eval()
    clip = torch.rand(1, 1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(made(clip), made(clip.expand(-1, 3, -1, -1, -1)))
    same = Init("kinetics400", "", "", (0.45,), (0.225,), channels=3)
    assert build_network("resnet18", "tiny", same, seed=0)[0].mean.tolist() == pytest.approx([0.45] * 3)


@pytest.mark.parametrize("key", list(registry.BACKBONES))
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
    build_network(KEY, "tiny", RANDOM, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_the_head_does_not_depend_on_what_the_backbone_draws(monkeypatch):
    expected = state(2)["head.weight"]

    def thirsty(*args):
        torch.rand(1000)
        return registry.build(*args)

    monkeypatch.setattr("ctlib.models.weights.load.build", thirsty)
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
        build_network(KEY, "tiny", video[1], seed=0)


def test_weights_of_another_network_are_refused_with_the_first_names(video):
    with pytest.raises(InitError, match=r"init video for r2plus1d_r50 \(tiny\).* and \d+ more"):
        build_network("r2plus1d_r50", "tiny", video[1], seed=0)


def test_a_file_that_is_no_safetensors_is_refused(video):
    video[1].path.write_bytes(b"not weights")
    with pytest.raises(InitError, match="no safetensors file"):
        build_network(KEY, "tiny", video[1], seed=0)


def test_saved_weights_come_back_with_their_head(video, workspace):
    trained, init = video
    other, _ = build_network(KEY, "tiny", RANDOM, seed=1, n_outputs=9)
    load_weights(other, init.path)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    with pytest.raises(InitError, match=r"head\.bias \(9 .* for 1 .*head\.weight"):
        load_weights(build_network(KEY, "tiny", RANDOM, seed=1)[0], init.path)
    with pytest.raises(InitError, match="is missing"):
        load_weights(other, workspace.weights("video", "x3d_m"))


def test_weights_are_saved_with_channels_last_too(video, workspace):
    trained, init = video
    before = init.checksum
    trained.to(memory_format=torch.channels_last_3d)
    save_weights(trained, init.path, RECORD)
    assert find("video", KEY, workspace, COHORT).checksum == before


def test_the_record_states_what_was_saved(video):
    trained, init = video
    record = read_json(init.path.with_suffix(".json"))
    assert record["source"] == RECORD["source"] and record["classes"] == RECORD["classes"]
    assert record["sha256"] == hashlib.sha256(init.path.read_bytes()).hexdigest() == init.checksum
    assert record["n_tensors"] == len(trained.state_dict())
    assert (init.name, init.source, init.licence, init.channels) == ("video", *list(RECORD.values())[:2], 1)
    assert (init.mean, init.std) == (pytest.approx((0.45,)), pytest.approx((0.225,)))
    assert not list(init.path.parent.glob(".*")), "a temporary file is left"


def test_what_weights_have_seen_is_that_of_their_record_or_of_their_name(video, workspace):
    trained, init = video
    assert list(map(str, init.seen)) == ["nine motions of two photographs (video)"]  # of an older record
    assert find("shuffled:video", KEY, workspace, COHORT).seen == init.seen
    before = {"what": "Kinetics-400", "kind": "video"}
    seen = [before, {"what": "40 patients", "kind": "CT"}]
    name = "kinetics400+ct_lidc"
    for record, last in ((RECORD | {"seen": seen}, "40 patients (CT)"), (RECORD, f"{RECORD['source']} (CT)")):
        save_weights(trained, workspace.weights(name, KEY), record)
        found = find(name, KEY, workspace, COHORT)
        assert list(map(str, found.seen)) == ["Kinetics-400 (video)", last]
    assert list(map(str, chain_by_name("ours+video", KEY))) == ["ours (kind not stated)", "video (video)"]


def test_random_takes_mean_and_std_of_the_cohort(workspace):
    init = find("random", KEY, workspace, ((0.31,), (0.27,)))
    assert init.seen == ()
    assert (init.mean, init.std, init.path, init.checksum, init.channels) == ((0.31,), (0.27,), None, "", 1)
    three = ((0.3, 0.4, 0.5), (0.1, 0.2, 0.25))
    init = find("random", KEY, workspace, three, channels=3)
    assert (init.mean, init.std, init.channels) == (*three, 3)
    assert build_network(KEY, "tiny", init, seed=0)[0](torch.rand(1, 3, 4, 32, 32)).shape == (1, 1)
    with pytest.raises(InitError, match=r"init random: mean is \(0\.3, 0\.4, 0\.5\); give 1 finite"):
        find("random", KEY, workspace, three)
    with pytest.raises(ValueError, match="clips of 2 channels; they have 1 or 3"):
        find("random", KEY, workspace, three, channels=2)


def test_weights_that_were_not_made_are_named_with_their_notebook(workspace):
    with pytest.raises(MissingInput, match=r"video/slow_r50\.safetensors is missing; notebook 02_pretrain"):
        find("video", KEY, workspace, COHORT)


def test_weights_of_a_users_own_network_have_a_name_that_any_system_takes(workspace):
    with pytest.raises(MissingInput, match=r"weights/video/nets-unet\.safetensors is missing"):
        find("video", "nets:unet", workspace, COHORT)


def test_an_unknown_init_is_refused(workspace):
    with pytest.raises(ValueError, match="'vdieo'; known are random, video"):
        find("vdieo", KEY, workspace, COHORT)


def test_a_file_that_is_not_the_recorded_one_is_refused(video, workspace):
    rewrite(video[1], lambda tensors: tensors[NAME].mul_(2))
    with pytest.raises(InitError, match="not the file of its record"):
        find("video", KEY, workspace, COHORT)


def test_a_record_without_a_field_is_refused(video, workspace):
    path = video[1].path.with_suffix(".json")
    write_json(path, {key: value for key, value in read_json(path).items() if key != "licence"})
    with pytest.raises(InitError, match="lacks licence"):
        find("video", KEY, workspace, COHORT)


@pytest.mark.parametrize(("mean", "std"), [((0.4, 0.4), (0.2,)), ((0.4,), (0.0,)), ((float("nan"),), (0.2,))])
def test_a_mean_or_std_that_cannot_be_is_refused(mean, std):
    with pytest.raises(InitError, match="init random"):
        Init("random", "", "", mean, std)


def test_the_ledger_of_what_a_run_would_load(video, workspace):
    ledger = loaded_ledger(workspace, ["video"], [KEY], "tiny")
    pd.testing.assert_frame_equal(ledger, build_network(KEY, "tiny", video[1], seed=0)[1])
    with pytest.raises(MissingInput, match="x3d_m"):
        loaded_ledger(workspace, ["video"], [KEY, "x3d_m"], "tiny")


def test_checksums_do_not_depend_on_the_memory_format():
    tensor = torch.rand(2, 3, 4, 5, 6)
    assert checksum(tensor) == checksum(tensor.to(memory_format=torch.channels_last_3d))
    changed = tensor.clone()
    changed[0, 0, 0, 0, 0] += 1e-6
    assert checksum(tensor) != checksum(changed)


# ---- names of what is made here --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("video", Origin("random", "video", False)),
        ("video_ssl", Origin("random", "video", True)),
        ("ct_lidc", Origin("random", "ct_lidc", False)),
        ("ct_rspect_ssl", Origin("random", "ct_rspect", True)),
        ("kinetics400+ct_rspect", Origin("kinetics400", "ct_rspect", False)),
        ("video+ct_lidc_ssl", Origin("video", "ct_lidc", True)),
        ("ct_astra+video", Origin("ct_astra", "video", False)),
        ("kinetics400+ct_lidc+video", Origin("kinetics400+ct_lidc", "video", False)),
        ("hospital.v2+video", Origin("hospital.v2", "video", False)),
        ("video_placebo", Origin("random", "video", False, "placebo")),
        ("video_part", Origin("random", "video", False, "part")),
        ("video_ssl_b", Origin("random", "video", True, "b")),
        ("ct_lidc_placebo", Origin("random", "ct_lidc", False, "placebo")),
        ("kinetics400+ct_big_b", Origin("kinetics400", "ct_big", False, "b")),
        ("ct_part", Origin("random", "ct_part", False)),
        ("video_part+ct_lidc_b", Origin("video_part", "ct_lidc", False, "b")),
        *((name, None) for name in ("random", "ct_astra", "imagenet", "hospital", "shuffled:video", "ct_")),
        *((name, None) for name in ("videos", "hospital_ssl", "frozen:video+ct_lidc", "", "..")),
        *((name, None) for name in ("video_c", "video_placebo_b", "video_b_ssl", "videob", "hospital_b")),
    ],
)
def test_a_name_says_how_its_weights_are_made(name, expected):
    assert origin(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("video+kinetics400", "behind the plus stands 'kinetics400'; it must be what is pretrained on here"),
        ("kinetics400+ct_astra", "behind the plus stands 'ct_astra'"),
        ("video+", "behind the plus stands ''"),
        ("+video", "without another start its name is video"),
        ("random+ct_lidc", "without another start its name is ct_lidc"),
        ("../x+video", "'../x' before the plus is no name"),
        ("video+imagenet+video", "behind the plus stands 'imagenet'"),
        ("video+video_c", "behind the plus stands 'video_c'; .* each also with _ssl, _placebo, _part or _b"),
        ("video_ssl_placebo", r"without labels \(_ssl\) there are none to exchange"),
        ("kinetics400+ct_lidc_ssl_placebo", r"without labels \(_ssl\) there are none to exchange"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name, message, workspace):
    for ask in (origin, lambda name: find(name, KEY, workspace, COHORT)):
        with pytest.raises(ValueError, match=message):
            ask(name)


@pytest.mark.parametrize("name", ["ct_lidc_ssl", "kinetics400+ct_rspect"])
def test_weights_made_here_are_found_under_all_such_names(name, workspace):
    with pytest.raises(
        MissingInput, match=rf"{name.replace('+', '.')}/slow_r50\.saf.* 02_pretrain writes it"
    ):
        find(name, KEY, workspace, COHORT)
    trained, _ = build_network(KEY, "tiny", RANDOM, seed=77, n_outputs=2)
    save_weights(trained, workspace.weights(name, KEY), RECORD)
    made, ledger = build_network(KEY, "tiny", find(f"frozen:{name}", KEY, workspace, COHORT), seed=0)
    assert torch.equal(made.backbone.blocks[0].conv.weight, trained.backbone.blocks[0].conv.weight)
    assert set(ledger["init"]) == {f"frozen:{name}"} and made.is_frozen


@pytest.mark.parametrize("name", ["video", "ct_lidc", "kinetics400"])
def test_a_record_under_a_taken_name_is_refused_and_not_passed_over(name, video, workspace):
    own = catalog.folder(workspace) / name
    own.mkdir(parents=True)
    (own / "other.yaml").write_text("")  # of another network: nothing is in doubt
    if name == "video":
        find(name, KEY, workspace, COHORT)
    (own / f"{KEY}.yaml").write_text("")
    with pytest.raises(InitError, match=rf"{name}/slow_r50\.yaml: {name} is the name of weights .* rename"):
        find(name, KEY, workspace, COHORT)


def test_a_head_of_any_names_is_the_files_own(video):
    init = video[1]

    def selfsupervised(tensors):
        del tensors["head.weight"], tensors["head.bias"]
        tensors |= {"head.layers.0.weight": torch.ones(3, 3), "head.layers.2.bias": torch.ones(3)}

    rewrite(init, selfsupervised)
    made, ledger = build_network(KEY, "tiny", init, seed=0)
    rows = ledger.set_index("tensor")
    assert rows.loc["head.bias", "why"].endswith("the file's own head is not used")
    assert torch.equal(made.head.weight, build_network(KEY, "tiny", RANDOM, seed=0)[0].head.weight)
    rewrite(init, lambda tensors: tensors.update({"heads.weight": torch.ones(1)}))
    with pytest.raises(InitError, match=r"1 unexpected: heads\.weight\."):
        build_network(KEY, "tiny", init, seed=0)


# ---- channels --------------------------------------------------------------------------


def saved(key, workspace, channels=1):
    """A network with batch-norm statistics of its own, and its init for clips of three channels."""
    mean = tuple(0.4 + 0.05 * c for c in range(channels))
    trained, _ = build_network(
        key, "tiny", Init("random", "", "", mean, (0.2,) * channels, channels), seed=77
    )
    trained.train()(torch.rand(2, channels, 8, 64, 64))
    save_weights(trained, workspace.weights("video", key), RECORD)
    return trained.eval(), find("video", key, workspace, COHORT, channels=3)


@pytest.mark.parametrize("key", ["slow_r50", "slowfast_r50", "mvit_b", "penet", "resnet18"])
def test_weights_of_one_channel_see_three_equal_ones_as_they_saw_one(key, workspace):
    trained, init = saved(key, workspace)
    made, ledger = build_network(key, "tiny", init, seed=0)
    clip = torch.rand(2, 1, 8, 64, 64)
    with torch.no_grad():
        expected = trained.backbone((clip - 0.4) / 0.2)
        three = clip.expand(-1, 3, -1, -1, -1)
        found = made.eval().backbone((three - made.mean.view(-1, 1, 1, 1)) / made.std.view(-1, 1, 1, 1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    adapted = ledger[ledger["status"] == "adapted"]
    assert len(adapted) == (2 if key == "slowfast_r50" else 1)
    assert adapted["why"].str.startswith("repeated over 3 input channels, a third each: ").all()
    assert set(ledger["status"]) == {"loaded", "adapted", "head"}
    assert made.mean.tolist() == pytest.approx([0.4] * 3)
    assert forward_difference(made, init) < 1e-5
    assert build_network(key, "tiny", find("video", key, workspace, COHORT), 0)[0].mean.numel() == 1


def test_weights_of_three_channels_keep_them_for_clips_of_one(workspace):
    _, init = saved(KEY, workspace, channels=3)
    one = find("video", KEY, workspace, COHORT, channels=1)
    assert one == init and (one.channels, len(one.mean)) == (3, 3)
    made, ledger = build_network(KEY, "tiny", one, seed=0)
    assert "adapted" not in set(ledger["status"])
    assert forward_difference(made, one) < 1e-6
    pd.testing.assert_frame_equal(loaded_ledger(workspace, ["video"], [KEY], "tiny", channels=3), ledger)


# ---- the forward check -----------------------------------------------------------------


def test_the_features_of_what_was_saved_stand_in_its_record(video, workspace):
    trained, init = video
    with torch.no_grad():
        expected = trained.eval().backbone((forward_check.clip(1) - 0.45) / 0.225)[0]
    assert read_json(init.path.with_suffix(".json"))["features"] == pytest.approx(expected.tolist())
    made, _ = build_network(KEY, "tiny", init, seed=0)
    assert forward_difference(made, init) < 1e-6
    [row] = forward_checks(workspace, ["shuffled:video"], [KEY], "tiny").itertuples()
    assert (row.backbone, row.init, row.n_features) == (KEY, "video", len(expected))
    assert row.difference < 1e-6 < row.tolerance == forward_check.TOLERANCE


def faulty_epsilon(net):
    net.blocks[1].res_blocks[0].branch2.norm_b.eps = 0.1


def faulty_stride(net):
    net.blocks[2].res_blocks[0].branch2.conv_b.padding_mode = "replicate"
    net.blocks[2].res_blocks[0].branch2.conv_b._reversed_padding_repeated_twice = [1, 1, 1, 1, 0, 0]


def faulty_activation(net):
    net.blocks[3].res_blocks[0].activation = nn.LeakyReLU(0.1)


@pytest.mark.parametrize("fault", [faulty_epsilon, faulty_stride, faulty_activation])
def test_a_network_of_the_same_tensors_that_computes_something_else_is_refused(fault, video, monkeypatch):
    def changed(*args):
        net = registry.build(*args)
        fault(net)
        return net

    monkeypatch.setattr("ctlib.models.weights.load.build", changed)
    with pytest.raises(
        InitError, match=r"init video for slow_r50 \(tiny\).*: every tensor fits, but the feat"
    ):
        build_network(KEY, "tiny", video[1], seed=0)


def test_a_mean_that_was_changed_behind_its_back_is_noticed(video, workspace):
    path = video[1].path.with_suffix(".json")
    write_json(path, read_json(path) | {"mean": [0.5]})
    with pytest.raises(InitError, match="the features of the stored clip differ"):
        build_network(KEY, "tiny", find("video", KEY, workspace, COHORT), seed=0)


def test_controls_change_features_on_purpose(video, workspace):
    init = find("first_2:video", KEY, workspace, COHORT)
    made, _ = build_network(KEY, "tiny", init, seed=0)
    assert forward_difference(made, init) > 0.01
    drawn = build_network(KEY, "tiny", RANDOM, seed=0)[0].state_dict()
    name = "backbone.blocks.3.res_blocks.0.branch2.conv_b.weight"
    assert torch.equal(made.state_dict()[name], drawn[name]), "what a control leaves out stays as drawn"


def test_a_record_without_features_is_taken_and_told(video, workspace):
    path = video[1].path.with_suffix(".json")
    write_json(path, {key: value for key, value in read_json(path).items() if "features" not in key})
    init = find("video", KEY, workspace, COHORT)
    made, _ = build_network(KEY, "tiny", init, seed=0)
    assert math.isnan(forward_difference(made, init))
    assert forward_checks(workspace, ["video"], [KEY], "tiny")["difference"].isna().all()
    assert math.isnan(forward_difference(build_network(KEY, "tiny", RANDOM, seed=0)[0], RANDOM))


def test_saving_leaves_the_network_and_torchs_generator_as_they_were(video, workspace):
    trained = video[0].train().to(memory_format=torch.channels_last_3d)
    trained.backbone.blocks[2].eval()
    modes = [module.training for module in trained.modules()]
    before = copy.deepcopy(trained.state_dict())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        save_weights(trained, workspace.weights("video", "again"), RECORD)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in trained.modules()] == modes
    weight = trained.backbone.blocks[0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) and weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    known = [read_json(workspace.weights("video", key).with_suffix(".json")) for key in (KEY, "again")]
    assert known[1]["features"] == pytest.approx(known[0]["features"], rel=1e-4, abs=1e-5)


def test_a_network_that_does_not_take_the_clip_is_saved_with_the_reason(workspace, video):
    trained = video[0]
    trained.backbone.blocks[0] = nn.Conv3d(1, 8, (9, 1, 1))
    path = save_weights(trained, workspace.weights("video", "other"), RECORD)
    record = read_json(path.with_suffix(".json"))
    assert record["features"] == []
    assert record["features_why"].startswith("the network does not take a clip of 1 x 1 x 8 x 64 x 64: ")


KINDS = ["slow_r50", "csn_r101", "mvit_b", "penet", "resnet18"]


@pytest.mark.parametrize("key", KINDS)
def test_rounding_passes_the_forward_check_and_a_tensor_that_was_not_loaded_does_not(key):
    net = build_network(key, "tiny", Init("random", "", "", (0.45,), (0.225,)), seed=1)[0].backbone
    other = build_network(key, "tiny", Init("random", "", "", (0.45,), (0.225,)), seed=2)[0].state_dict()
    net.train()(torch.rand(2, 1, 8, 64, 64) * 4 - 2)  # moves the batch-norm statistics
    stored = forward_check.features(net, [0.45], [0.225], 1)
    moved = copy.deepcopy(net).eval().to(memory_format=registry.spec(key).channels_last)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        found = moved((forward_check.clip(1) - 0.45) / 0.225)[0]
    assert forward_check.difference(found, stored.tolist()) < forward_check.TOLERANCE / 10
    kernels = [name for name, value in net.state_dict().items() if value.ndim > 1]
    for name in kernels[:: max(1, len(kernels) // 5)]:
        state = net.state_dict() | {name: other[f"backbone.{name}"]}
        half = copy.deepcopy(net)
        half.load_state_dict(state)
        assert forward_check.difference(forward_check.features(half, [0.45], [0.225], 1), stored.tolist()) > (
            forward_check.TOLERANCE
        ), name


def test_the_stored_clip_is_asymmetric_and_within_its_range():
    clip = forward_check.clip(3)
    assert clip.dtype == torch.float32 and 0 <= clip.min() < 0.1 and 0.9 < clip.max() <= 1
    for axis in (1, 2, 3, 4):
        assert (clip - clip.flip(axis)).abs().max() > 0.3, axis
    assert (clip - clip.transpose(3, 4)).abs().max() > 0.3
    assert torch.equal(clip, forward_check.clip(3)) and torch.equal(clip[:, :1], forward_check.clip(1))


# ---- random weights --------------------------------------------------------------------

HE = ["slow_r50", "slowfast_r50", "r2plus1d_r50", "csn_r101", "x3d_m", "r3d_18", "penet", "resnet18"]


@pytest.mark.parametrize("key", [*HE, "resnext101", "efficientnet_lite0"])
def test_random_convolutions_are_drawn_as_stated(key):
    """He-normal by fan-out: std of sqrt(2 / (channels out * voxels of the kernel)).

    Torch counts all channels that go out of grouped kernels; EfficientNet-Lite's publishers those of a group.
    """
    drawn = []
    for name, kernel in state(key=key).items():
        if kernel.ndim > 3:
            n_out = 1 if "conv_dw" in name else len(kernel)
            drawn.append(kernel.flatten() * (n_out * kernel[0, 0].numel() / 2) ** 0.5)
    assert torch.cat(drawn).std().item() == pytest.approx(1, abs=0.03)
    assert torch.cat(drawn).abs().max() > 3.5, "not uniform"


def test_random_weights_of_the_others_are_drawn_as_stated():
    s3d = [v for v in state(key="s3d").values() if v.ndim == 5]
    spread = torch.cat([v.flatten() * v[0].numel() ** 0.5 for v in s3d])
    assert spread.abs().max() <= 1 and spread.std().item() == pytest.approx(3**-0.5, abs=0.01)
    for key in ("mvit_b", "mvit_v2_s", "swin3d_t"):
        linear = [v.flatten() for n, v in state(key=key).items() if v.ndim == 2 and "mlp" in n]
        assert torch.cat(linear).std().item() == pytest.approx(0.02, abs=0.001), key
