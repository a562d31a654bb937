import json
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import blosc2
import numpy as np
import pytest
import xxhash

from ctlib.datasets.store import CODECS, N_OPEN, Store, StoreError, shrink
from ctlib.datasets.volume_checks import examine
from ctlib.io.volume import Volume

ENDINGS = {"none": ".npy", "blosc2": ".blosc2"}
every_codec = pytest.mark.parametrize("codec", CODECS)


def volume(shape=(3, 12, 10), seed=0, uid="1.2.3"):
    hu = np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.int16)
    return Volume(hu, (2.5, 0.75, 0.5), uid, (0.0, 0.0, 0.0))


def flip(path, place):
    """Change one bit of a byte in place; the file keeps its size and inode."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def settle(folder, ns=1_000_000_000):
    """Give all files the same old time of change: only then is what was read remembered."""
    for path in folder.iterdir():
        os.utime(path, ns=(ns, ns))


def weights(n, m):
    """Share of each of n input pixels in each of m output pixels."""
    low, step = np.arange(n), n / m
    covered = [
        np.clip(np.minimum((i + 1) * step, low + 1) - np.maximum(i * step, low), 0, None) for i in range(m)
    ]
    return np.stack(covered) / step


# ---- shrink ----------------------------------------------------------------------------


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


def test_half_the_matrix_is_the_exact_mean_of_two_by_two_pixels():
    hu = volume((2, 64, 64)).hu
    fours = hu.astype(int).reshape(2, 32, 2, 32, 2).sum(axis=(2, 4))
    np.testing.assert_array_equal(shrink(hu, 32), (fours + 2) // 4)


def test_slices_that_do_not_lie_in_order_in_memory_are_shrunk_alike():
    hu = volume((3, 24, 16)).hu
    for view in (hu.transpose(0, 2, 1), hu[:, ::-1], hu[::-1, :, ::-1]):
        np.testing.assert_array_equal(shrink(view, 8), shrink(np.ascontiguousarray(view), 8))


@every_codec
def test_slices_are_never_enlarged(tmp_path, codec):
    with pytest.raises(StoreError, match="12 x 10 px are below matrix_px 16"):
        Store(tmp_path, 16, codec).put(volume())
    assert list(tmp_path.iterdir()) == []


# ---- put, read, has --------------------------------------------------------------------


@every_codec
def test_what_is_put_is_read(tmp_path, codec):
    store = Store(tmp_path / "store", 6, codec)
    assert not store.has("1.2.3")
    path = store.put(volume(), "from here")
    small = shrink(volume().hu, 6)
    read = store.read("1.2.3")
    np.testing.assert_array_equal(read, small)
    assert read.dtype == np.int16 and not read.flags.writeable
    assert isinstance(read, np.memmap) == (codec == "none")
    record = store.record("1.2.3")
    assert record["spacing_mm"] == pytest.approx([2.5, 1.5, 1.0]) and record["shape"] == [3, 6, 6]
    content = xxhash.xxh3_128_hexdigest(volume().hu.data)
    assert (record["source_checksum"], record["source_content"]) == ("from here", content)
    assert (record["codec"], record["n_bytes"]) == (codec, path.stat().st_size)
    assert record["checks"] == examine(small)
    assert store.has("1.2.3") and store.has("1.2.3", "from here") and not store.has("1.2.3", "from there")
    assert path.parent == tmp_path / "store" and path.suffix == ENDINGS[codec]
    assert len(list(path.parent.iterdir())) == 2 and store.verify().empty


def test_files_are_read_by_other_programs_too(tmp_path):
    plain, small = (Store(tmp_path / codec, 6, codec).put(volume()) for codec in CODECS)
    np.testing.assert_array_equal(np.load(plain), shrink(volume().hu, 6))
    chunk = np.empty((2, 6, 6), np.int16)  # the first; each is a buffer of c-blosc2
    blosc2.decompress2(small.read_bytes(), dst=chunk)
    np.testing.assert_array_equal(chunk, shrink(volume().hu, 6)[:2])


@every_codec
def test_runs_of_slices(tmp_path, codec):
    store, whole = Store(tmp_path, 6, codec), shrink(volume((7, 12, 10)).hu, 6)
    store.put(volume((7, 12, 10)))
    for start, stop in [(0, 7), (2, 5), (6, 7), (3, None), (0, 0), (7, 7)]:
        np.testing.assert_array_equal(store.read("1.2.3", start, stop), whole[start:stop])
    for start, stop in [(0, 8), (-1, 3), (5, 4), (8, None)]:
        with pytest.raises(StoreError, match=r"1\.2\.3 has 7 slices, not"):
            store.read("1.2.3", start, stop)


@every_codec
def test_even_slices_and_air_are_stored(tmp_path, codec):
    hu = volume((30, 6, 6)).hu
    hu[1], hu[2], hu[4], hu[8:16] = 0, -1024, 0, 0
    store = Store(tmp_path, 6, codec)
    store.put(Volume(hu, (1.0, 1.0, 1.0), "1.2.3", (0.0, 0.0, 0.0)))
    np.testing.assert_array_equal(store.read("1.2.3"), hu)
    assert store.verify().empty


@every_codec
def test_the_same_source_is_written_once_and_another_replaces_it(tmp_path, codec):
    store = Store(tmp_path, 6, codec)
    path = store.put(volume(seed=0), "a")
    before = path.stat().st_mtime_ns, store.checksum("1.2.3")
    store.put(volume(seed=1), "a")
    assert (path.stat().st_mtime_ns, store.checksum("1.2.3")) == before
    settle(tmp_path)
    store.read("1.2.3")  # what is remembered of it is forgotten with it
    store.put(volume(seed=1), "b")
    settle(tmp_path)
    np.testing.assert_array_equal(store.read("1.2.3"), shrink(volume(seed=1).hu, 6))
    assert store.checksum("1.2.3") != before[1] and store.verify().empty


def test_checksums_are_of_the_content(tmp_path):
    stores = [Store(tmp_path / codec, 6, codec) for codec in CODECS]
    for source, store in enumerate(stores):
        store.put(volume(), str(source))
    one, two = (store.checksum("1.2.3") for store in stores)
    assert one == two and len(one) == 32
    turned = Volume(volume((3, 6, 6)).hu.reshape(6, 3, 6)[:, :, :3].copy(), (1, 1, 1), "t", (0, 0, 0))
    flat = Volume(turned.hu.reshape(2, 9, 3)[:, :3].copy(), (1, 1, 1), "f", (0, 0, 0))
    store = Store(tmp_path / "shapes", 3)
    store.put(turned), store.put(flat)
    assert store.checksum("t") != store.checksum("f")
    hu = volume().hu.copy()
    hu[2, 3, 4] += 40  # ten HU in the mean of four pixels
    stores[0].put(Volume(hu, (2.5, 0.75, 0.5), "1.2.3", (0.0, 0.0, 0.0)))
    assert stores[0].checksum("1.2.3") != two


def test_the_shape_is_part_of_the_checksum(tmp_path):
    store = Store(tmp_path, 2)
    ones = [Volume(np.ones((n, 2, 2), np.int16), (1, 1, 1), str(n), (0, 0, 0)) for n in (1, 2)]
    for one in ones:
        store.put(one)
    wide = Store(tmp_path / "wide", 4)
    wide.put(Volume(np.ones((1, 4, 4), np.int16), (1, 1, 1), "16", (0, 0, 0)))
    store.put(Volume(np.ones((4, 2, 2), np.int16), (1, 1, 1), "16", (0, 0, 0)))
    assert store.checksum("16") != wide.checksum("16") and store.checksum("1") != store.checksum("2")


@every_codec
def test_another_matrix_is_another_store(tmp_path, codec):
    Store(tmp_path, 6, codec).put(volume(), "a")
    other = Store(tmp_path, 5, codec)
    assert not other.has("1.2.3", "a")
    with pytest.raises(StoreError, match="matrix_px is 5"):
        other.read("1.2.3")
    other.put(volume(), "a")
    assert other.read("1.2.3").shape == (3, 5, 5)


@pytest.mark.parametrize(("old", "new"), [("none", "blosc2"), ("blosc2", "none")])
def test_another_codec_is_read_all_the_same_and_replaced_when_put(tmp_path, old, new):
    Store(tmp_path, 6, old).put(volume(), "a")
    store = Store(tmp_path, 6, new)
    np.testing.assert_array_equal(store.read("1.2.3"), shrink(volume().hu, 6))
    assert not store.has("1.2.3", "a") and Store(tmp_path, 6, old).has("1.2.3", "a")
    store.put(volume(), "a")
    assert store.has("1.2.3", "a") and store.verify().empty
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["1.2.3.json", f"1.2.3{ENDINGS[new]}"])


def test_unknown_codecs_are_refused(tmp_path):
    with pytest.raises(StoreError, match="'zip'; known are none, blosc2"):
        Store(tmp_path, 6, "zip")


@every_codec
def test_the_estimate_holds_for_noise_at_most_by_what_is_said(tmp_path, codec):
    chest = volume((40, 64, 64))
    hu = (np.random.default_rng(0).normal(0, 25, chest.hu.shape)).astype(np.int16)  # noise of a thin slice
    store = Store(tmp_path, 64, codec)
    store.put(Volume(hu, (1.0, 1.0, 1.0), "1", (0.0, 0.0, 0.0)))
    taken = (tmp_path / f"1{ENDINGS[codec]}").stat().st_size
    assert taken <= store.estimate_bytes(40) <= 1.3 * taken
    assert Store(tmp_path, 256, "blosc2").estimate_bytes(1) < 0.6 * Store(tmp_path, 256).estimate_bytes(1)


# ---- damage ----------------------------------------------------------------------------


@every_codec
@pytest.mark.parametrize("ending", ["voxels", ".json"])
def test_each_flipped_byte_is_found(tmp_path, codec, ending):
    store = Store(tmp_path, 3, codec)
    hu = volume((17, 3, 3)).hu
    hu[8:16] = 0
    path = store.put(Volume(hu, (1.0, 1.0, 1.0), "1.2.3", (0.0, 0.0, 0.0)), "a")
    path = path if ending == "voxels" else path.with_suffix(ending)
    size = path.stat().st_size
    step = 1 if size < 2_000 else 7  # the record is long; 7 has no common factor with what repeats in it
    for place in [*range(0, size, step), *range(size - 60, size)]:
        flip(path, place)
        assert store.verify()["series_uid"].tolist() == ["1.2.3"], place
        with pytest.raises(StoreError, match=r"1\.2\.3"):
            store.read("1.2.3")
        flip(path, place)
    assert store.verify().empty


@pytest.mark.parametrize(
    ("codec", "what", "first", "last"), [("none", "slice 12", 12, 12), ("blosc2", "chunk 6", 12, 13)]
)
def test_the_reader_finds_damage_in_the_slices_it_reads(tmp_path, codec, what, first, last):
    store = Store(tmp_path, 16, codec)
    path = store.put(volume((25, 16, 16)))
    sizes = store.record("1.2.3").get("frame", {"sizes": [128]})["sizes"]
    n_before = sum(sizes[: first // 2]) if codec == "blosc2" else sizes[0] + first * 512
    flip(path, n_before + 40)
    settle(tmp_path)
    with pytest.raises(StoreError, match=rf"{path.name} is damaged \({what} has .* series 1\.2\.3 again"):
        store.read("1.2.3")
    assert len(store.read("1.2.3", 0, first)) == first and len(store.read("1.2.3", last + 1)) == 24 - last
    for _ in range(2):
        with pytest.raises(StoreError, match=what):
            store.read("1.2.3", last, last + 1)


@every_codec
@pytest.mark.parametrize("ending", ["voxels", ".json"])
def test_damage_after_a_read_is_found_by_the_next(tmp_path, codec, ending):
    store = Store(tmp_path, 6, codec)
    path = store.put(volume())
    store.read("1.2.3")  # fresh files are not remembered, whatever the clock of their folder says
    wanted = path if ending == "voxels" else path.with_suffix(ending)
    stamp = wanted.stat().st_mtime_ns
    flip(wanted, wanted.stat().st_size // 2)
    os.utime(wanted, ns=(stamp, stamp))
    with pytest.raises(StoreError, match="damaged"):
        store.read("1.2.3")
    flip(wanted, wanted.stat().st_size // 2)
    settle(tmp_path)
    store.read("1.2.3")  # old files are
    flip(wanted, wanted.stat().st_size // 2)
    with pytest.raises(StoreError, match="damaged"):
        store.read("1.2.3")


@pytest.mark.parametrize(
    ("codec", "checked"),
    [("none", ["slice 12", "slice 13"]), ("blosc2", ["chunk 5", "chunk 6"])],
)
def test_what_is_remembered_is_not_compared_again(tmp_path, codec, checked, monkeypatch):
    store, seen = Store(tmp_path, 6, codec), []
    store.put(volume((30, 12, 10)))
    settle(tmp_path)
    store.read("1.2.3", 8, 12)
    monkeypatch.setattr(
        "ctlib.datasets.store_codecs.check", lambda part, wanted, i, what="slice": seen.append(f"{what} {i}")
    )
    monkeypatch.setattr("ctlib.datasets.store.load", None)  # nor is the record
    store.read("1.2.3", 11, 14)
    assert seen == checked
    store.read("1.2.3", 16, 17)
    assert seen[len(checked) :] == {"none": ["slice 16"], "blosc2": ["chunk 8"]}[codec]


def test_few_files_are_kept_open_and_none_travels(tmp_path):
    store = Store(tmp_path, 6)
    for i in range(N_OPEN + 9):
        store.put(volume(uid=str(i)))
    settle(tmp_path)
    for i in range(N_OPEN + 9):
        store.read(str(i))
    assert len(store._opened) == N_OPEN and str(N_OPEN + 8) in store._opened and "0" not in store._opened
    small = Store(tmp_path, 6, "blosc2")
    assert pickle.loads(pickle.dumps(small)) == small != store
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store and not copy._opened and len(pickle.dumps(store)) < 1_000
    np.testing.assert_array_equal(copy.read("3"), store.read("3"))


@every_codec
def test_threads_and_processes_read_the_same(tmp_path, codec):
    store, whole = Store(tmp_path, 6, codec), shrink(volume((40, 12, 10)).hu, 6)
    store.put(volume((40, 12, 10)))
    settle(tmp_path)
    store.read("1.2.3")
    for pool in (ThreadPoolExecutor(4), ProcessPoolExecutor(2)):
        with pool:
            runs = list(pool.map(store.read, ["1.2.3"] * 40, range(40), range(1, 41)))
        np.testing.assert_array_equal(np.concatenate(runs), whole)


@every_codec
def test_a_changed_record_is_found(tmp_path, codec):
    store = Store(tmp_path, 6, codec)
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


@every_codec
def test_the_record_of_another_series_is_found(tmp_path, codec):
    store = Store(tmp_path, 6, codec)
    store.put(volume(uid="1"))
    store.put(volume(uid="2", seed=1))
    (tmp_path / "1.json").replace(tmp_path / "2.json")
    assert store.verify()["reason"].tolist() == ["2.json is the record of another series."]
    with pytest.raises(StoreError, match=r"2\.json is damaged: it is the record of another series"):
        store.read("2")
    assert not store.has("2") and not store.has("1")


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


@every_codec
def test_lost_voxels_are_missed(tmp_path, codec):
    store = Store(tmp_path, 6, codec)
    store.put(volume(), "a").unlink()
    assert not store.has("1.2.3") and len(store.verify()) == 1
    with pytest.raises(StoreError, match=r"is damaged \(it is gone\): store series 1\.2\.3 again"):
        store.read("1.2.3")


@every_codec
def test_verify_runs_on_workers(tmp_path, codec):
    store = Store(tmp_path, 6, codec)
    for i in range(4):
        path = store.put(volume(uid=str(i)))
    flip(path, path.stat().st_size // 2)
    with ProcessPoolExecutor(2) as pool:
        found = store.verify(lambda function, items: list(pool.map(function, items)))
    assert found["series_uid"].tolist() == ["3"] and "3" in found["reason"].item()
    assert str(tmp_path) not in found["reason"].item()


# ---- interrupted writes, names ---------------------------------------------------------


@every_codec
def test_an_unfinished_write_is_no_volume(tmp_path, codec):
    store = Store(tmp_path, 6, codec)
    path = store.put(volume(), "a")
    (tmp_path / "1.2.3.json").unlink()  # as after a kill between the two files
    (tmp_path / f".1.2.4{ENDINGS[codec]}.123").write_bytes(b"half")
    assert not store.has("1.2.3") and store.verify().empty
    with pytest.raises(StoreError, match="not in the store"):
        store.read("1.2.3")
    assert store.tidy() == 0 and store.tidy(0) == 2 and not list(tmp_path.iterdir())
    store.put(volume(), "a")
    assert store.has("1.2.3", "a") and store.tidy(0) == 0 and path.is_file()
    assert Store(tmp_path / "none", 6).tidy() == 0


@every_codec
@pytest.mark.parametrize("n_writes", [0, 1])
def test_a_failed_write_leaves_nothing_behind_but_voxels_without_a_record(
    tmp_path, monkeypatch, codec, n_writes
):
    store, replaced = Store(tmp_path, 6, codec), []
    store.put(volume(seed=1), "old")

    def replace(path, target):
        if len(replaced) == n_writes:
            raise OSError("disk full")
        replaced.append(target)
        path.rename(target)

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(OSError, match="disk full"):
        store.put(volume(), "a")
    assert list(tmp_path.iterdir()) == replaced and not store.has("1.2.3")


@every_codec
@pytest.mark.parametrize("uid", ["../../outside", "/etc/passwd", ".hidden", "", "a b", "x" * 300])
def test_a_series_uid_cannot_leave_the_store(tmp_path, uid, codec):
    store = Store(tmp_path / "store", 6, codec)
    path = store.put(volume(uid=uid), "a")
    assert path.resolve().parent == tmp_path / "store"
    assert store.has(uid, "a") and store.verify().empty and store.read(uid).shape == (3, 6, 6)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
