import json

import numpy as np
import pytest

from ctlib.store import Store, StoreError, shrink
from ctlib.volumes import Volume


def volume(shape=(3, 12, 10), seed=0, uid="1.2.3"):
    hu = np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.int16)
    return Volume(hu, (2.5, 0.75, 0.5), uid, (0.0, 0.0, 0.0))


def weights(n, m):
    """Share of each of n input pixels in each of m output pixels."""
    low, step = np.arange(n), n / m
    covered = [
        np.clip(np.minimum((i + 1) * step, low + 1) - np.maximum(i * step, low), 0, None) for i in range(m)
    ]
    return np.stack(covered) / step


@pytest.mark.parametrize(
    ("shape", "matrix"), [((2, 96, 96), 56), ((2, 512, 512), 256), ((3, 12, 10), 6), ((2, 7, 9), 9)]
)
def test_pixels_are_means_of_the_area_they_cover(shape, matrix):
    hu = volume(shape).hu
    side = max(shape[1:])
    square = np.full((shape[0], side, side), -1024.0)
    top, left = (side - shape[1]) // 2, (side - shape[2]) // 2
    square[:, top : top + shape[1], left : left + shape[2]] = hu
    w = weights(side, matrix)
    wanted = w @ square @ w.T
    assert np.abs(shrink(hu, matrix) - wanted).max() < 0.51  # rounding to whole HU


def test_slices_are_never_enlarged(tmp_path):
    with pytest.raises(StoreError, match="12 x 10 px are below matrix_px 16"):
        Store(tmp_path, 16).put(volume())
    assert list(tmp_path.iterdir()) == []


def test_what_is_put_is_read(tmp_path):
    store = Store(tmp_path / "store", 6)
    assert not store.has("1.2.3")
    path = store.put(volume(), "from here")
    read = store.read("1.2.3")
    np.testing.assert_array_equal(read, shrink(volume().hu, 6))
    np.testing.assert_array_equal(read, np.load(path))
    assert read.dtype == np.int16 and isinstance(read, np.memmap) and not read.flags.writeable
    assert store.record("1.2.3")["spacing_mm"] == pytest.approx([2.5, 1.5, 1.0])
    assert store.has("1.2.3") and store.has("1.2.3", "from here") and not store.has("1.2.3", "from there")
    assert path.parent == tmp_path / "store" and len(list(path.parent.iterdir())) == 2
    assert store.verify().empty


def test_the_same_source_is_written_once_and_another_replaces_it(tmp_path):
    store = Store(tmp_path, 6)
    path = store.put(volume(seed=0), "a")
    before = path.stat().st_mtime_ns, store.checksum("1.2.3")
    store.put(volume(seed=1), "a")
    assert (path.stat().st_mtime_ns, store.checksum("1.2.3")) == before
    store.put(volume(seed=1), "b")
    np.testing.assert_array_equal(store.read("1.2.3"), shrink(volume(seed=1).hu, 6))
    assert store.checksum("1.2.3") != before[1] and store.verify().empty


def test_checksums_are_of_the_content(tmp_path):
    one, two = Store(tmp_path / "1", 6), Store(tmp_path / "2", 6)
    one.put(volume(), "a")
    two.put(volume(), "b")
    assert one.checksum("1.2.3") == two.checksum("1.2.3")


def test_another_matrix_is_another_store(tmp_path):
    Store(tmp_path, 6).put(volume(), "a")
    other = Store(tmp_path, 5)
    assert not other.has("1.2.3", "a")
    with pytest.raises(StoreError, match="matrix_px is 5"):
        other.read("1.2.3")
    other.put(volume(), "a")
    assert other.read("1.2.3").shape == (3, 5, 5)


def test_each_flipped_byte_is_found(tmp_path):
    store = Store(tmp_path, 5)
    path = store.put(volume((1, 5, 5)), "a")
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert store.verify()["series_uid"].tolist() == ["1.2.3"], place
    path.write_bytes(sound)
    assert store.verify().empty


def test_a_changed_record_is_found(tmp_path):
    store = Store(tmp_path, 6)
    store.put(volume(), "a")
    path = tmp_path / "1.2.3.json"
    record = json.loads(path.read_text())
    for key, value in {"spacing_mm": [1, 1, 1], "shape": [3, 6, 7], "series_uid": "9", "n_bytes": 1}.items():
        path.write_text(json.dumps(record | {key: value}))
        assert len(store.verify()) == 1, key
        assert not store.has("1.2.3")
        with pytest.raises(StoreError, match="damaged"):
            store.read("1.2.3")
    path.write_text("{")
    assert len(store.verify()) == 1
    with pytest.raises(StoreError, match="damaged"):
        store.checksum("1.2.3")


DAMAGE = {
    "cut": lambda data: data[:-1],
    "long": lambda data: data + b"0",
    "empty": lambda data: b"",
    "magic": lambda data: b"x" + data[1:],
    "shape": lambda data: data.replace(b"(3, 6, 6)", b"(6, 6, 3)"),
    "type": lambda data: data.replace(b"<i2", b"<u2"),
    "order": lambda data: data.replace(b"False", b"True ").replace(b"(3, 6, 6)", b"(3, 6, 6)"),
    "header": lambda data: data.replace(b"'descr'", b"'descR'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_header_or_size_is_refused_by_the_reader(tmp_path, case):
    store = Store(tmp_path, 6)
    path = store.put(volume(), "a")
    data = DAMAGE[case](path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"1\.2\.3"):
        store.read("1.2.3")
    assert len(store.verify()) == 1


def test_an_unfinished_write_is_no_volume(tmp_path):
    store = Store(tmp_path, 6)
    store.put(volume(), "a")
    (tmp_path / "1.2.3.json").unlink()  # as after a kill between the two files
    (tmp_path / ".1.2.4.npy.123").write_bytes(b"half")
    assert not store.has("1.2.3") and store.verify().empty
    with pytest.raises(StoreError, match="not in the store"):
        store.read("1.2.3")
    store.put(volume(), "a")
    assert store.has("1.2.3", "a")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    store = Store(tmp_path, 6)
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.put(volume(), "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uid", ["../../outside", "/etc/passwd", ".hidden", "", "a b", "x" * 300])
def test_a_series_uid_cannot_leave_the_store(tmp_path, uid):
    store = Store(tmp_path / "store", 6)
    path = store.put(volume(uid=uid), "a")
    assert path.resolve().parent == tmp_path / "store"
    assert store.has(uid, "a") and store.verify().empty
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
