"""A user's own network by one string: found wherever it lies, checked, and known by its code."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctlib.core.workspace import PROJECT
from ctlib.models import custom
from ctlib.models.registry import BACKBONES, OwnNetworkError, build, code_of, file_name, spec
from ctlib.models.weights.load import Init, build_network

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, in_channels, n_features):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, n_features, 3, padding=1)
        self.norm = nn.BatchNorm3d(n_features)
        self.drop = nn.Dropout(0.5)

    def forward(self, clip):
        return self.drop(self.norm(self.conv(clip)).mean(dim=(2, 3, 4)))


class Maps(Net):
    def forward(self, clip):
        return self.conv(clip)


def unet(size, in_channels):
    '''A U-Net of ours.

    Unpublished.
    '''
    return Net(in_channels, {"tiny": 5, "full": 7}[size])


def told(size, in_channels):
    network = Net(in_channels, 5)
    network.n_features = 5
    return network


def wrong(size, in_channels):
    network = told(size, in_channels)
    network.n_features = 6
    return network


def word(size, in_channels):
    network = told(size, in_channels)
    network.n_features = "5"
    return network


def maps(size, in_channels):
    return Maps(in_channels, 5)


def pair(size, in_channels):
    class Pair(Net):
        def forward(self, clip):
            return super().forward(clip), 0

    return Pair(in_channels, 5)


def nothing(size, in_channels):
    pass


number = 3
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """A working directory with a module of a name of its own, that is not yet in sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(PROJECT))])
    custom._loaded.cache_clear()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    custom._loaded.cache_clear()


@pytest.fixture
def nets(folder):
    (folder / "my_nets.py").write_text(NETS)
    return folder


def test_it_is_a_backbone_as_any_other(nets):
    made = build("my_nets:unet", "tiny")
    features = made(torch.rand(3, 1, 4, 16, 16))
    assert features.shape == (3, 5) and made.n_features == 5
    assert build("my_nets:unet", "full", in_channels=3).n_features == 7
    with pytest.raises(ValueError, match="size of my_nets:unet is 'small'"):
        build("my_nets:unet", "small")


def test_its_record(nets):
    record = spec("my_nets:unet")
    assert (record.key, record.title, record.dims) == ("my_nets:unet", "unet of my_nets", 3)
    assert (record.licence, record.cpu_precision) == ("its author's", "fp32")
    assert record.citation == "A U-Net of ours." and record.sees_order is None
    assert spec("my_nets:told").citation == "its author's own network"
    assert record.build("tiny", 1).n_features == 5


def test_counting_its_features_leaves_it_as_it_is(nets):
    torch.manual_seed(0)
    made = build("my_nets:unet", "tiny")
    drawn = torch.rand(1)
    assert made.training and made.drop.training and made.norm.num_batches_tracked == 0
    torch.manual_seed(0)
    build("my_nets:told", "tiny")
    assert torch.equal(torch.rand(1), drawn)


def test_it_takes_a_head_and_a_ledger(nets):
    init = Init("random", "drawn", "none", (0.4,), (0.2,))
    made, ledger = build_network("my_nets:unet", "tiny", init, seed=0)
    assert made(torch.rand(2, 1, 4, 16, 16)).shape == (2, 1)
    assert set(ledger["backbone"]) == {"my_nets:unet"} and "backbone.conv.weight" in set(ledger["tensor"])


def test_a_package_and_its_neighbours_are_found(folder):
    (folder / "nets" / "deep").mkdir(parents=True)
    (folder / "layers.py").write_text("width = 4")
    (folder / "nets" / "deep" / "own.py").write_text(
        "import layers\nfrom torch import nn\n"
        "def make(size, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(1, 3), nn.AdaptiveAvgPool2d((layers.width, 1)), nn.Flatten())"
    )
    assert build("nets.deep.own:make")(torch.rand(2, 1, 3, 5, 6)).shape == (2, 4)
    assert spec("nets.deep.own:make").title == "make of nets.deep.own"


def test_the_folder_is_the_last_of_the_path_and_hides_nothing(nets):
    (nets / "yaml.py").write_text("raise RuntimeError('hides the installed one')")
    spec("my_nets:unet")
    assert sys.path[-1] == str(nets) and sys.path.count(str(nets)) == 1
    with pytest.raises(
        OwnNetworkError, match=r"backbone yaml:unet: unet is not there in .*yaml/__init__\.py\.$"
    ):
        spec("yaml:unet")


def test_the_projects_folder_is_looked_in_too(nets, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(custom, "PROJECT", nets)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert spec("my_nets:unet").title == "unet of my_nets"


@pytest.mark.slow
def test_a_process_that_does_not_hold_the_folder_finds_it(nets):
    """As a notebook's kernel or a worker: the path of the process is only what is installed."""
    code = (
        "import sys; sys.path = [p for p in sys.path if p not in ('', sys.argv[1])] + [sys.argv[2]];"
        "from ctlib.models.registry import build; print(build('my_nets:unet').n_features)"
    )
    arguments = [sys.executable, "-c", code, str(nets), str(PROJECT)]
    done = subprocess.run(arguments, cwd=nets, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "5"


# ---- what is wrong is said -------------------------------------------------------------

WRONG = {
    "my_nets:": "backbone is 'my_nets:'; a network of your own is named as module:function.",
    ":unet": "backbone is ':unet'; a network of your own is named as module:function.",
    "my nets:unet": "backbone is 'my nets:unet'; a network of your own is named as module:function.",
    "my_nets:unett": "backbone my_nets:unett: unett is not there in {folder}/my_nets.py.",
    "my_nets:number": "backbone my_nets:number: number is no function in {folder}/my_nets.py.",
    "no_nets:unet": (
        "backbone no_nets:...: there is no module no_nets: not installed, not in PYTHONPATH, "
        "not in the working directory ({folder}) and not in the project's folder."
    ),
    "sys:exit": "backbone sys: module sys has no source file.",
}


@pytest.mark.parametrize("key", WRONG)
def test_what_is_missing_is_named(nets, key):
    with pytest.raises(OwnNetworkError) as error:
        spec(key)
    assert str(error.value) == WRONG[key].format(folder=nets)


MADE = {
    "maps": "backbone my_nets:maps made 1 x 5 x 16 x 48 x 48 of 1 clips; it must make 1 x F.",
    "pair": "backbone my_nets:pair made a tuple of 1 clips; it must make 1 x F.",
    "nothing": "backbone my_nets:nothing gave a NoneType; it must give an nn.Module.",
    "word": "backbone my_nets:word: n_features is '5'; give a number of features.",
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_no_backbone_is_refused(nets, name):
    with pytest.raises(OwnNetworkError) as error:
        build(f"my_nets:{name}")
    assert str(error.value) == MADE[name]


def test_features_that_are_others_than_told_are_refused_when_it_computes(nets):
    made = build("my_nets:wrong")
    with pytest.raises(OwnNetworkError, match=r"my_nets:wrong made 2 x 5 of 2 clips; it must make 2 x 6\.$"):
        made(torch.rand(2, 1, 4, 16, 16))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_layers", "ModuleNotFoundError: No module named 'no_such_layers'"),
        ("def unet(:", "SyntaxError: invalid syntax"),
        ("raise OSError('no\\nlicence')", "OSError: no licence"),
    ],
)
def test_a_module_that_does_not_import_says_why(folder, code, told):
    (folder / "broken_nets.py").write_text(code)
    with pytest.raises(OwnNetworkError) as error:
        spec("broken_nets:unet")
    said = str(error.value)
    assert said.startswith(f"backbone broken_nets:...: its module does not import ({told}")
    assert "\n" not in said and error.value.__cause__ is not None


# ---- code and file names ---------------------------------------------------------------


def test_the_code_is_that_of_the_file_as_it_was_imported(nets):
    file = nets / "my_nets.py"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    assert code_of("my_nets:unet") == code_of("my_nets:told") == before
    file.write_text(NETS + "\n# another")
    assert code_of("my_nets:unet") == before  # what is in memory is the old one
    custom._loaded.cache_clear()
    del sys.modules["my_nets"]
    assert code_of("my_nets:unet") == hashlib.sha256(file.read_bytes()).hexdigest() != before


def test_our_own_networks_have_no_code_and_keep_their_names():
    for key in BACKBONES:
        assert code_of(key) == "" and file_name(key) == key


def test_file_names_are_safe_and_never_shared():
    keys = ["nets:unet", "nets:Unet", "Nets:unet", "nets.unet:a", "nets:unet_a", "con:nul", "a.b:c", "a_b:c"]
    names = [file_name(key) for key in keys]
    assert len({name.lower() for name in names}) == len(keys)
    for name in names:
        assert Path(name).name == name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        assert Path(f"{name}.safetensors").with_suffix(".json").name == f"{name}.json"
    assert file_name("con:nul") == "con-nul"  # none of the names that Windows keeps for itself
