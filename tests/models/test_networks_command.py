"""`ctlib networks` prints one table of what was seen, and fails where a network does."""

import json

import pytest
from click.testing import CliRunner

from ctlib.cli.data import networks

NETS = """
from torch import nn


class Blind(nn.Module):
    n_features = 2

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)

    def forward(self, clip):
        return self.linear(clip.mean(dim=(2, 3, 4))) / {divisor}


def net(size, in_channels):
    return Blind()
"""

pytestmark = pytest.mark.usefixtures("one_thread")


def run(*arguments):
    return CliRunner().invoke(networks, arguments)


def test_the_table_is_markdown_with_a_line_a_network_and_size():
    made = run("slow_r50", "resnet18", "--size", "tiny")
    lines = made.output.splitlines()
    assert (
        made.exit_code == 0
        and lines[4:6] == ["", "Published weights"]
        and lines[0].startswith("| backbone | size |")
    )
    assert lines[2] == (
        "| `slow_r50` | tiny | whole clips (3D) | 16 x 48 x 48 | 0.15 M | 0.0407 G | 3.67 MB "
        "| finite | finite | seen |"
    )
    assert lines[3].startswith("| `resnet18` | tiny | slices (2D) |") and lines[3].endswith("| not seen |")


def test_json_holds_the_same():
    made = run("penet", "--size", "tiny", "--json")
    (seen,) = json.loads(made.output)
    assert made.exit_code == 0 and (seen["backbone"], seen["size"], seen["problem"]) == ("penet", "tiny", "")
    assert seen["cost"]["parameters"] == 195_958 and seen["order_changes"] is True


def test_both_sizes_unless_asked():
    made = run("x3d_m", "--json")
    assert [seen["size"] for seen in json.loads(made.output)] == ["full", "tiny"]


@pytest.mark.parametrize(("divisor", "code"), [(1, 0), (0, 1)])
def test_a_users_network_is_checked_too_and_one_that_fails_ends_in_1(tmp_path, monkeypatch, divisor, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"nets_by_{divisor}.py").write_text(NETS.replace("{divisor}", str(divisor)))
    key = f"nets_by_{divisor}:net"
    made = run("penet", key, "--size", "tiny")
    assert made.exit_code == code and f"| `{key}` | tiny |" in made.output
    failure = f"Error: 1 of 2 networks fail:\n  {key}, tiny: Features are not finite."
    assert (failure in made.output) == bool(code)


def test_an_unknown_network_is_refused_before_anything_is_computed():
    made = run("penet", "penett")
    assert made.exit_code == 2 and "'penett'; the nearest name is 'penet'; known are slow_r50" in made.output
    assert "| backbone" not in made.output


@pytest.mark.slow
def test_all_networks_pass():
    made = run("--size", "tiny")
    assert made.exit_code == 0, made.output
