"""Networks by the libraries that publish them: their files load, compute the same, or are refused in a sentence."""

import importlib.util
import json
from dataclasses import replace

import pytest
import timm
import torch
import transformers
from huggingface_hub import errors
from monai.networks.nets import resnet
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.vista3d import vista3d132
from safetensors.torch import save_file

from ctlib.core.workspace import Workspace
from ctlib.models import check, foundation
from ctlib.models.lrcn import NAMED
from ctlib.models.registry import build, file_name, spec
from ctlib.models.weights import catalog
from ctlib.models.weights.ablations import ControlError
from ctlib.models.weights.load import InitError, build_network, find
from ctlib.models.weights.read import _renamed

pytestmark = pytest.mark.usefixtures("one_thread")

RECORDS = [(init, key) for init, records in catalog.PUBLIC.items() for key in records if records[key].hub]
COHORT = ((0.3,), (0.2,))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_WEIGHTS", str(tmp_path / "public"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CTLIB_LICENCES", ",".join(init for init, _ in RECORDS))
    return Workspace(tmp_path / "work")


def published(key, size):
    """The publisher's own network, and its tensors under the names of its file."""
    if key in NAMED:
        known = NAMED[key]
        structure = {k: v for k, v in known.get("any", {}).items() if k != "dynamic_img_size"}
        structure |= {"dynamic_img_size": True} if "any" in known else {}
        net = timm.create_model(known["name"], **structure, **(known["tiny"] if size == "tiny" else {}))
        return net, net.state_dict()
    if key.startswith("medicalnet"):
        block, layers = ("basic", [2] * 4) if key.endswith("18") else ("bottleneck", [3, 4, 6, 3])
        biased, shortcut = resnet.get_medicalnet_pretrained_resnet_args(int(key[-2:]))
        widths = [64, 128, 256, 512] if size == "full" else [8, 16, 32, 64]
        made = {"n_input_channels": 1, "conv1_t_stride": 2, "feed_forward": False}
        made |= {"shortcut_type": shortcut, "bias_downsample": biased}
        net = resnet.ResNet(block, layers if size == "full" else [1] * 4, widths, **made)
        return net, {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    if key == "segresnet_vista3d" and size == "full":
        net = vista3d132()
        return net, {f"network.{name}": tensor for name, tensor in net.state_dict().items()}
    if key.startswith("segresnet"):
        norm = "instance" if key.endswith("vista3d") else "batch"
        made = {"init_filters": 32, "blocks_down": (1, 2, 2, 4, 4)}
        made = made if size == "full" else {"init_filters": 4, "blocks_down": (1,) * 5}
        net = SegResEncoder(norm=norm, **made)
        prefix = "image_encoder.encoder." if key.endswith("vista3d") else ""
        return net, {prefix + name: tensor for name, tensor in net.state_dict().items()}
    family, kind = {
        "vjepa2_l": ("vjepa2", transformers.VJEPA2Model),
        "timesformer_b": ("timesformer", transformers.TimesformerForVideoClassification),
    }.get(key, ("videomae", transformers.VideoMAEForVideoClassification))
    known = foundation.FAMILIES[family]
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    asked = {**(small if key == "videomae_s" else {}), **(known.tiny if size == "tiny" else {})}
    net = kind(getattr(transformers, known.config)(**asked))
    old = ("query.bias", "q_bias"), ("value.bias", "v_bias")
    names = {name: name for name in net.state_dict()}
    for new, before in old if family == "videomae" else ():
        names = {
            name: said.replace(f"attention.attention.{new}", f"attention.attention.{before}")
            for name, said in names.items()
        }
    return net, {names[name]: tensor for name, tensor in net.state_dict().items()}


@torch.no_grad()
def expected(key, net, clip):
    """The features that the publisher's network computes of a normalized clip at the size it was made for."""
    if key in NAMED:
        net.reset_classifier(0)
        return net(clip.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(clip), -1))
    if key.startswith("medicalnet"):
        return net(clip)
    if key.startswith("segresnet"):
        return net(clip)[-1].mean(dim=(2, 3, 4))
    frames = clip.transpose(1, 2)
    if key == "vjepa2_l":
        return net(pixel_values_videos=frames, skip_predictor=True).last_hidden_state.mean(dim=1)
    if key == "timesformer_b":
        return net.timesformer(pixel_values=frames).last_hidden_state[:, 0]
    return net.fc_norm(net.videomae(pixel_values=frames).last_hidden_state.mean(dim=1))


def put(init, key, workspace, state):
    """A file in the publisher's layout, where one that was fetched by hand lies."""
    record = catalog.PUBLIC[init][key]
    path = catalog.folder(workspace) / record.hub / record.file
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({record.entry: state} if record.entry else state, path)


@pytest.mark.parametrize(("init", "key"), RECORDS)
def test_full_size_has_the_tensors_of_the_publishers_file(init, key):
    record = catalog.PUBLIC[init][key]
    with torch.device("meta"):
        ours = build(key, "full", record.channels)
        _, state = published(key, "full")
    begin = f"backbone.{getattr(ours, 'over_slices', '-')}"
    wanted = {f"backbone.{name}": tensor.shape for name, tensor in ours.state_dict().items()}
    given = {
        _renamed(name, record.names): (
            tensor.sum(1, keepdim=True).shape
            if name in record.stem and record.channels == 1
            else tensor.shape
        )
        for name, tensor in state.items()
        if not (record.head and name.startswith(record.head))
    }
    assert given == {name: shape for name, shape in wanted.items() if not name.startswith(begin)}


@pytest.mark.parametrize(("init", "key"), RECORDS)
def test_a_file_of_the_publishers_gives_the_publishers_features(init, key, workspace, monkeypatch):
    record = replace(catalog.PUBLIC[init][key], size="tiny")
    monkeypatch.setitem(catalog.PUBLIC[init], key, record)
    torch.manual_seed(0)
    net, state = published(key, "tiny")
    put(init, key, workspace, state)
    made, ledger = build_network(key, "tiny", find(init, key, workspace, COHORT), seed=0)
    side = 56 if key == "mst_dinov2_s" else 48
    depth = {"vjepa2_l": 64, "timesformer_b": 8}.get(key, 16)
    clip = torch.rand(1, 1, depth, side, side)
    mean, std = (
        torch.tensor(v or c).view(-1, 1, 1, 1) for v, c in zip((record.mean, record.std), COHORT, strict=True)
    )
    channels = 1 if key.startswith(("medicalnet", "segresnet")) else 3
    wanted = expected(key, net.eval(), ((clip - mean) / std).expand(-1, channels, -1, -1, -1))
    backbone = made.backbone.eval()
    with torch.no_grad():
        normal = (clip - made.mean.view(-1, 1, 1, 1)) / made.std.view(-1, 1, 1, 1)
        found = backbone.slice_features(normal) if key in NAMED else backbone(normal)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    status = ledger.set_index("tensor")["status"]
    over = status[status.index.str.startswith(f"backbone.{getattr(backbone, 'over_slices', '-')}")]
    assert set(over) == ({"random"} if key in NAMED else set())
    assert set(status.drop(over.index)) <= {"loaded", "adapted", "head"} and status["head.weight"] == "head"


def test_weights_of_another_layout_are_refused_by_tensor(workspace, monkeypatch):
    monkeypatch.setitem(
        catalog.PUBLIC["videomae"],
        "videomae_s",
        replace(catalog.PUBLIC["videomae"]["videomae_s"], size="tiny"),
    )
    state = published("videomae_s", "tiny")[1]
    for change, message in (
        (
            {"videomae.encoder.layer.0.attention.attention.q_bias": None},
            "1 missing: backbone.net.*query.bias",
        ),
        (
            {"videomae.embeddings.patch_embeddings.projection.weight": torch.zeros(48, 3, 4, 8, 8)},
            "48x3x4x8x8",
        ),
        ({"videomae.extra": torch.zeros(1)}, "1 unexpected: backbone.net.extra"),
    ):
        put(
            "videomae",
            "videomae_s",
            workspace,
            {k: v for k, v in {**state, **change}.items() if v is not None},
        )
        with pytest.raises(InitError, match=message):
            build_network("videomae_s", "tiny", find("videomae", "videomae_s", workspace, COHORT), seed=0)


def gone(kind):
    response = type("Response", (), {"headers": {}, "request": None, "status_code": 403, "text": ""})()
    return kind("no", response=response) if issubclass(kind, errors.HfHubHTTPError) else kind("no")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "facebook/vjepa2-vitl-fpc64-256 is gated: accept its terms"),
        (
            errors.EntryNotFoundError,
            r"vjepa2-vitl-fpc64-256 has no file pytorch_model\.bin; correct the record",
        ),
        (ConnectionError, r"was not downloaded .*elsewhere and put it there"),
        (errors.RepositoryNotFoundError, "is no repository of the hub that you may see"),
        (
            errors.LocalEntryNotFoundError,
            r"was not downloaded .*fetch .*put it there as .*vjepa2-vitl-fpc64-256",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_said_in_a_sentence(kind, message, workspace, monkeypatch):
    def refused(*_):
        raise gone(kind)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    with pytest.raises(InitError, match=message):
        find("vjepa2", "vjepa2_l", workspace, COHORT)


def test_a_file_of_the_hubs_cache_is_compared_with_the_hubs_own_checksum(workspace, monkeypatch, tmp_path):
    blob = tmp_path / ("0" * 64)
    blob.write_bytes(b"damaged")
    (tmp_path / "model.safetensors").symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / "model.safetensors"))
    with pytest.raises(InitError, match=f"is damaged: delete .*{'0' * 64}"):
        find("vjepa2", "vjepa2_l", workspace, COHORT)


def test_a_licence_that_forbids_something_is_asked_about_once(workspace, monkeypatch):
    put("ct_vista3d", "segresnet_vista3d", workspace, {"a": torch.zeros(1)})
    monkeypatch.setenv("CTLIB_LICENCES", "videomae")
    with pytest.raises(
        InitError, match=r"Noncommercial License, which forbids commercial use\. .*CTLIB_LICENCES=ct_vista3d"
    ):
        find("ct_vista3d", "segresnet_vista3d", workspace, COHORT)
    monkeypatch.setenv("CTLIB_LICENCES", "videomae, ct_vista3d")
    found = find("ct_vista3d", "segresnet_vista3d", workspace, COHORT)
    monkeypatch.delenv("CTLIB_LICENCES")
    assert find("ct_vista3d", "segresnet_vista3d", workspace, COHORT) == found
    assert found.contract.startswith("axes=RAS spacing_mm=1.5,1.5,1.5 hu=-963.8")


def test_weights_without_mean_and_std_take_the_cohorts(workspace, monkeypatch):
    put("ct_medicalnet", "medicalnet_r18", workspace, {"a": torch.zeros(1)})
    found = find("ct_medicalnet", "medicalnet_r18", workspace, COHORT)
    assert (found.mean, found.std, found.contract) == (*COHORT, "")


def test_a_model_of_the_hub_is_a_network_by_its_name(workspace, tmp_path):
    family = foundation.FAMILIES["vjepa2"]
    net = transformers.VJEPA2Model(transformers.VJEPA2Config(**family.tiny, frames_per_clip=8))
    net.save_pretrained(folder := tmp_path / "mine")
    key = f"hf:{folder}"
    record = spec(key)
    assert (record.clip, record.extra) == ((8, 48, 48), "foundation") and "/" not in file_name(key)
    made, ledger = build_network(key, "full", find("hf", key, workspace, COHORT), seed=0)
    clip = torch.rand(1, 3, 8, 48, 48)
    with torch.no_grad():
        wanted = net.eval()(pixel_values_videos=clip.transpose(1, 2), skip_predictor=True).last_hidden_state
        torch.testing.assert_close(made.backbone.eval()(clip), wanted.mean(dim=1), rtol=1e-5, atol=1e-6)
    assert set(ledger["status"]) == {"loaded", "head"}
    torch.save(net.state_dict(), folder / "pytorch_model.bin")  # as older models have it
    (folder / "model.safetensors").unlink()
    assert find("hf", key, workspace, COHORT).path == folder / "pytorch_model.bin"
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    foundation.opened.cache_clear()
    with pytest.raises(ValueError, match="a vit; known are vjepa2, videomae, timesformer"):
        spec(key)
    with pytest.raises(
        ValueError, match=r"its config\.json was not read .*give owner/name of a model of the hub"
    ):
        spec("hf:no-such/model")


def test_the_extra_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for key in ("videomae_s", "hf:facebook/vjepa2-vith-fpc64-256"):
        with pytest.raises(
            ValueError, match=f"{key} needs the package transformers: pip install -e '.\\[foundation"
        ):
            build(key)
    assert spec("medicalnet_r18").extra == "" and "videomae_s" in check.uninstalled()


def test_controls_along_the_slices_need_them_first(workspace):
    with pytest.raises(
        ControlError, match=r"the slices are not the first axis .*axes RAS.*along which flat works"
    ):
        find("flat:ct_vista3d", "segresnet_vista3d", workspace, COHORT)
