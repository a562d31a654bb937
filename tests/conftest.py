"""Real files, where they are present; they lie beside the project and are not part of it."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest
from chromium import opened

from ctlib.core.workspace import PROJECT

SHARED = PROJECT.parent / "shared" / "data"


def pytest_collection_modifyitems(items):
    """Whole studies first, then files with many tests: no process works alone on minutes that are left."""
    studies = {item.path for item in items if item.get_closest_marker("e2e")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in studies, -tests[item.path], str(item.path)))


def require(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real files are missing: {path}")
    return path


@pytest.fixture
def one_thread():
    """torch computes with one thread, as it does in a worker."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser():
    """Chromium, without JupyterLab; tests that need it are skipped, loudly, where there is none."""
    with opened() as found:
        yield found


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real files."""
    return require(SHARED)


@pytest.fixture(scope="session")
def lidc_sample(tmp_path_factory) -> Path:
    """Folder that holds the 275 slices of LIDC-IDRI-0314 and nothing else, unpacked once a session."""
    archive = require(SHARED / "lidc-idri-0314" / "series.tar.xz")
    folder = tmp_path_factory.mktemp("lidc") / "LIDC-IDRI-0314"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder
