"""Device, precision and memory format are decided in one place, by what the machine has."""

import copy
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.video.resnet import Conv3DSimple

from ctlib.core import GpuError
from ctlib.models.network import Network
from ctlib.models.registry import BACKBONES, spec
from ctlib.training import device
from ctlib.training.device import Compute, choose

BF16 = Compute("cpu", "bf16-mixed", torch.channels_last_3d)


@pytest.mark.parametrize(
    ("asked", "bf16", "expected"),
    [
        ("auto", True, "bf16-mixed"),
        ("auto", False, "16-mixed"),
        ("bf16", False, "bf16-mixed"),
        ("fp32", True, "32-true"),
    ],
)
def test_a_gpu_is_used_where_there_is_one(monkeypatch, asked, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    compute = choose(asked, spec("slow_r50"))
    assert (compute.accelerator, compute.precision) == ("gpu", expected)
    assert compute.device == torch.device("cuda")
    requested, flags = {}, []
    made = SimpleNamespace(launch=lambda: None)
    monkeypatch.setattr("lightning.fabric.Fabric", lambda **given: requested.update(given) or made)
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda *given, **named: flags.append((given, named))
    )
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    for place, name in (
        (torch.utils.deterministic, "fill_uninitialized_memory"),
        (torch.backends.cudnn, "allow_tf32"),
    ):
        monkeypatch.setattr(place, name, True)
    torch.backends.cuda.matmul.allow_tf32 = True  # torch's default is False, to which fabric() returns
    compute.fabric()
    assert not torch.utils.deterministic.fill_uninitialized_memory and not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    plugin, _ = requested.pop("plugins")
    assert requested == {"accelerator": "gpu", "devices": 1} and plugin.precision == expected
    assert flags == [((True,), {"warn_only": True})] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (getattr(plugin, "scaler", None) is not None) == (expected == "16-mixed")


def test_a_job_with_several_tasks_trains_on_one_device(monkeypatch):
    """Lightning's Trainer would take SLURM's tasks for its own processes, and refuse one device; Fabric does not."""
    for name, value in {
        "NTASKS": "8",
        "NTASKS_PER_NODE": "8",
        "JOB_NAME": "grid",
        "JOB_ID": "1",
        "PROCID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    fabric = Compute("cpu", "32-true").fabric()
    assert fabric.world_size == 1 and fabric.device == torch.device("cpu")


def test_a_gpu_that_torch_cannot_use_is_refused_not_replaced_by_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    with pytest.raises(GpuError, match="CUDA_VISIBLE_DEVICES is GPU-a, and torch can use no such GPU"):
        choose("auto", spec("resnet18"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose("auto", spec("resnet18")).accelerator == "cpu"


@pytest.mark.parametrize("share", ["", "0.25"])
def test_a_worker_that_shares_its_gpu_takes_its_part(monkeypatch, share):
    limits = []
    monkeypatch.setenv("CTLIB_GPU_SHARE", share)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setattr("lightning.fabric.Fabric", lambda **_: SimpleNamespace(launch=lambda: None))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Compute("gpu", "bf16-mixed").fabric()
    assert limits == ([0.25] if share else [])


@pytest.mark.parametrize("key", ["slow_r50", "resnet18"])
@pytest.mark.parametrize("bf16", [True, False])
def test_a_cpu_computes_as_was_measured_to_be_faster(monkeypatch, key, bf16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: bf16)
    backbone = spec(key)
    compute = choose("auto", backbone)
    assert compute.accelerator == "cpu"
    assert compute.precision == ("bf16-mixed" if bf16 and backbone.cpu_precision == "bf16" else "32-true")
    layout = {3: torch.channels_last_3d, 2: torch.channels_last}[backbone.dims]
    assert compute.memory_format == (layout if backbone.cpu_channels_last else torch.contiguous_format)
    assert choose("fp32", backbone).precision == "32-true"
    assert choose("bf16", backbone).precision == "bf16-mixed"
    assert compute.fabric().device == torch.device("cpu") and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("one_thread")
def test_gradients_of_a_weight_that_is_used_for_each_slice_are_summed_in_fp32():
    weight, slices = nn.Parameter(torch.rand(8, 8)), torch.rand(16, 4, 8)
    fabric = BF16.fabric()
    with fabric.autocast():
        loss = sum(functional.linear(each, weight).float().square().sum() for each in slices)
    fabric.backward(loss)
    alone = []
    for each in slices:
        copied = nn.Parameter(weight.detach().clone())
        with BF16.autocast():
            functional.linear(each, copied).float().square().sum().backward()
        alone.append(copied.grad)
    torch.testing.assert_close(weight.grad, torch.stack(alone).sum(0), rtol=1e-5, atol=0)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'fp8'; known are auto, fp32, bf16"):
        choose("fp8", spec("slow_r50"))


def poison():
    """Fill memory that is given back with NaN, so that a kernel that reads what it did not write shows it."""
    for n in (2**10, 2**14, 2**18, 2**20):
        blocks = [
            torch.full((n,), float("nan"), dtype=dtype) for dtype in (torch.bfloat16, torch.float32) * 4
        ]
        del blocks


def gradient(conv, clip, compute):
    conv.zero_grad()
    with compute.autocast():
        out = conv(clip)
    poison()
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return conv.weight.grad


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        ((3, 3, 3), (2, 16, 2, 6, 6)),
        ((3, 1, 1), (2, 48, 2, 3, 3)),
        ((5, 7, 7), (2, 1, 3, 32, 32)),
        ((5, 7, 7), (2, 3, 4, 32, 32)),
        ((7, 1, 1), (1, 16, 2, 8, 8)),
        ((2, 1, 1), (1, 16, 1, 8, 8)),
        ((1, 7, 7), (1, 16, 8, 2, 8)),
    ],
)
@pytest.mark.parametrize("kind", [nn.Conv3d, Conv3DSimple])
def test_a_kernel_too_large_for_its_clip_gets_its_true_gradient(kernel, shape, kind):
    torch.manual_seed(0)
    conv, clip = nn.Conv3d(shape[1], 16, kernel, padding=[k // 2 for k in kernel]), torch.rand(shape)
    conv.__class__ = kind
    expected = gradient(copy.deepcopy(conv), clip, Compute("cpu", "32-true"))
    prepared = BF16.prepare(nn.Sequential(conv))[0]
    assert isinstance(prepared, kind) and prepared is conv
    torch.testing.assert_close(gradient(prepared, clip, BF16), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(copy.deepcopy(prepared), clip, BF16), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [3, 7])
def test_a_strided_kernel_on_one_pixel_gets_its_true_gradient(side):
    torch.manual_seed(0)
    conv, clip = nn.Conv2d(16, 16, side, stride=2, padding=side // 2), torch.rand(32, 16, 1, 1)
    expected = gradient(copy.deepcopy(conv), clip, Compute("cpu", "32-true"))
    prepared = Compute("cpu", "bf16-mixed", torch.channels_last).prepare(nn.Sequential(conv))[0]
    for _ in range(5):
        torch.testing.assert_close(gradient(prepared, clip, BF16), expected, rtol=1e-4, atol=1e-4)


def test_a_strided_kernel_on_one_pixel_does_not_end_the_process():
    """In bf16 it does. In a process of its own, so that a failure does not end the tests."""
    code = (
        "import torch; from torch import nn; from ctlib.training.device import Compute; torch.set_num_threads(1);"
        "compute = Compute('cpu', 'bf16-mixed', torch.channels_last_3d);"
        "conv = nn.Conv3d(64, 64, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False);"
        "net = compute.prepare(nn.Sequential(conv))\n"
        "for _ in range(40):\n"
        "    with compute.autocast(): out = net(torch.rand(8, 64, 4, 1, 1))\n"
        "    out.float().sum().backward()\n"
    )
    checked = {**os.environ, "MALLOC_CHECK_": "3"}
    assert subprocess.run([sys.executable, "-c", code], env=checked, check=False).returncode == 0


def test_all_other_layers_stay_in_bf16_and_all_tensors_are_as_they_were():
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Linear(8, 2))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert BF16.prepare(BF16.prepare(net)) is net
    with BF16.autocast():
        assert net[0](torch.rand(1, 1, 3, 3, 3)).dtype == torch.bfloat16
        for small in ((2, 8, 8), (8, 2, 8), (8, 8, 2)):
            assert net[0](torch.rand(1, 1, *small)).dtype == torch.float32
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    plain = nn.Conv3d(1, 4, 3)
    for compute in (Compute("cpu", "32-true"), Compute("gpu", "bf16-mixed")):
        assert type(compute.prepare(plain)) is nn.Conv3d


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("key", BACKBONES)
def test_gradients_of_every_network_are_finite(key, monkeypatch):
    """Clips of 16 x 48 x 48 are two slices, or one, in the last stage of some networks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: True)
    ways = dict.fromkeys((choose("auto", spec(key)), choose("bf16", spec(key))))
    for compute in ways:
        torch.manual_seed(0)
        net = compute.prepare(spec(key).build("tiny", 1))
        for _ in range(2):
            net.zero_grad()
            poison()
            with compute.autocast():
                loss = net(torch.rand(2, 1, 16, 48, 48)).float().square().mean()
            poison()
            loss.backward()
            gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
            assert not [name for name, grad in gradients.items() if not grad.isfinite().all()]


def test_the_head_computes_in_fp32_so_that_no_two_clips_share_a_logit():
    """In bf16 a third of them would here, nine in ten of a real test set did."""

    class InBf16(nn.Module):  # as a backbone under autocast
        n_features = 64

        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            return clip.flatten(1).bfloat16()

    torch.manual_seed(0)
    network = Network(InBf16(), 1, [0.0], [1.0])
    clips = torch.rand(400, 1, 1, 8, 8)
    with torch.inference_mode(), BF16.autocast():
        logits = network(clips)
        rounded = functional.linear(clips.flatten(1), network.head.weight)
    assert logits.dtype == torch.float32 and len(logits.unique()) == 400
    assert rounded.dtype == torch.bfloat16 and len(rounded.unique()) < 300
