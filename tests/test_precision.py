"""Device, precision and memory format are decided in one place, by what the machine has."""

import lightning.pytorch as lightning
import pytest
import torch

from ctlib import precision
from ctlib.backbones import spec
from ctlib.precision import choose


@pytest.mark.parametrize(
    ("asked", "bf16", "expected"),
    [
        ("auto", True, "bf16-mixed"),
        ("auto", False, "16-mixed"),
        ("bf16", False, "bf16-mixed"),
        ("fp32", True, "32-true"),
    ],
)
def test_a_gpu_is_used_where_there_is_one(monkeypatch, tmp_path, asked, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    compute = choose(asked, spec("slow_r50"))
    assert (compute.accelerator, compute.precision) == ("gpu", expected)
    assert compute.device == torch.device("cuda")
    requested = {}
    monkeypatch.setattr(lightning, "Trainer", lambda **arguments: requested.update(arguments))
    with precision.trainer(compute, 3, tmp_path):
        pass
    wanted = {"accelerator": "gpu", "devices": 1, "precision": expected, "deterministic": "warn"}
    wanted |= {"benchmark": False, "logger": False, "enable_checkpointing": False, "max_epochs": 3}
    assert {name: requested[name] for name in wanted} == wanted


@pytest.mark.parametrize("key", ["slow_r50", "resnet18"])
@pytest.mark.parametrize("bf16", [True, False])
def test_a_cpu_computes_as_was_measured_to_be_faster(monkeypatch, key, bf16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: bf16)
    backbone = spec(key)
    compute = choose("auto", backbone)
    assert compute.accelerator == "cpu"
    assert compute.precision == ("bf16-mixed" if bf16 and backbone.cpu_precision == "bf16" else "32-true")
    layout = {3: torch.channels_last_3d, 2: torch.channels_last}[backbone.dims]
    assert compute.memory_format == (layout if backbone.cpu_channels_last else torch.contiguous_format)
    assert choose("fp32", backbone).precision == "32-true"
    assert choose("bf16", backbone).precision == "bf16-mixed"
    assert compute.trainer_arguments["deterministic"] is False


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'fp8'; known are auto, fp32, bf16"):
        choose("fp8", spec("slow_r50"))
