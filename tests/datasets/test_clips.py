"""Every slice in one clip, air where there is nothing, and crops and turns that are where they should be."""

import dataclasses
import pickle
import time

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch.utils.data import DataLoader

from ctlib.core import hu, tables
from ctlib.datasets.clips import (
    BalancedSampler,
    ClipDataset,
    ClipSettings,
    Draw,
    clip_table,
    cut,
    intensity,
    tile,
)
from ctlib.datasets.transforms import change_of

PE = ClipSettings(length=16, crop_px=48, hu_window="pe", rotation_deg=20)
LUNG = ClipSettings(length=16, crop_px=48, hu_window="lung", rotation_deg=20)


class MemoryStore:
    """Volumes in memory, with the interface of the store."""

    def __init__(self, volumes):
        self.volumes = volumes

    def read(self, series_uid, start=0, stop=None):
        n_slices = len(self.volumes[series_uid])
        assert 0 <= start <= (n_slices if stop is None else stop) <= n_slices  # as the store insists
        return self.volumes[series_uid][start:stop]

    def record(self, series_uid):
        return {"shape": list(self.volumes[series_uid].shape)}


def random_volume(n_slices=40, matrix_px=56, seed=0):
    return np.random.default_rng(seed).integers(-1024, 1500, (n_slices, matrix_px, matrix_px), dtype=np.int16)


def plain(*arguments):
    """The one channel of a clip."""
    (channel,) = cut(*arguments)
    return channel


def slice_rows(n_slices, series_uid="1.2.3", label=0):
    return pd.DataFrame(
        {
            "series_uid": series_uid,
            "slice": range(n_slices),
            "z_mm": np.arange(n_slices) * 2.5,
            "label": label,
        }
    )


def dataset(settings=PE, train=True, seed=5):
    store = MemoryStore({"a": random_volume(40), "b": random_volume(29, seed=1)})
    slices = pd.concat([slice_rows(40, "a"), slice_rows(29, "b", label=1)])
    return ClipDataset(store, clip_table(slices, settings.length, 4), settings, train, seed)


@pytest.mark.parametrize("n_slices", [1, 15, 16, 17, 31, 32, 46])
def test_each_slice_is_in_exactly_one_clip(n_slices):
    covered = [i for start, stop in tile(n_slices, 16) for i in range(start, stop)]
    assert covered == list(range(n_slices))
    assert all(stop - start <= 16 for start, stop in tile(n_slices, 16))


def test_tile_refuses_an_empty_series():
    with pytest.raises(ValueError, match="0 slices"):
        tile(0, 16)


def test_clip_labels_count_positive_slices():
    slices = slice_rows(40)
    slices.loc[13:18, "label"] = 1  # 3 in the first clip, 3 in the second
    slices.loc[35:38, "label"] = 1  # 4 in the third, which has 8 slices
    clips = clip_table(slices.sample(frac=1, random_state=0), 16, min_positive=4)
    assert clips["n_positive"].tolist() == [3, 3, 4]
    assert clips["label"].tolist() == [0, 0, 1]
    assert clip_table(slices, 16, min_positive=3)["label"].tolist() == [1, 1, 1]
    tables.check(clips, "clips")


def test_clips_with_a_slice_of_unknown_label_have_no_label():
    slices = slice_rows(32)
    slices["label"] = slices["label"].astype("Int64")
    slices.loc[3, "label"] = pd.NA
    clips = clip_table(slices, 16, 4)
    assert clips["label"].isna().tolist() == [True, False]
    assert clips["n_positive"].isna().tolist() == [True, False]


def test_no_slices_give_no_clips():
    pd.testing.assert_frame_equal(clip_table(tables.empty("slices"), 16, 4), tables.empty("clips"))


def test_a_gap_in_the_slices_is_refused_by_series():
    with pytest.raises(ValueError, match=r"series 1\.2\.3: its 39 rows"):
        clip_table(slice_rows(40).drop(index=7), 16, 4)


@pytest.mark.parametrize("settings", [PE, LUNG])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("matrix_px", [56, 40])  # 40: the crop reaches beyond the slice on all sides
def test_a_volume_of_air_is_air_everywhere(settings, train, matrix_px):
    air = np.full((5, matrix_px, matrix_px), hu.HU_MIN, np.int16)
    for seed in range(10 if train else 1):
        clip = plain(air, 0, 5, settings, np.random.default_rng(seed) if train else None)
        assert clip.shape == (16, 48, 48)
        expected = 0.0 if settings is PE else (-1024 + 1350) / 1500
        np.testing.assert_allclose(clip, expected, atol=1e-6)


@pytest.mark.parametrize("settings", [PE, LUNG])
def test_corners_that_a_rotation_uncovers_are_air(settings):
    full = np.full((16, 48, 48), 3071, np.int16)  # maps to 1; the crop is the whole slice
    turned = ClipSettings(16, 48, settings.hu_window, rotation_deg=45)
    clip = plain(full, 0, 16, turned, np.random.default_rng(3))
    assert abs(change_of(48, turned, np.random.default_rng(3)).matrix[0, 1]) > 0.2, (
        "the seed turns by too little"
    )
    np.testing.assert_allclose(clip[:, [0, 0, -1, -1], [0, -1, 0, -1]], settings.air, atol=1e-6)
    assert clip[:, 24, 24].min() == 1.0
    # nothing darker than air and nothing brighter than the volume at the edge between them
    assert clip.min() >= settings.air - 1e-6 and clip.max() <= 1.0 + 1e-6


@pytest.mark.parametrize("train", [False, True])
def test_slices_that_a_short_clip_lacks_are_air(train):
    volume = np.full((20, 56, 56), 1000, np.int16)
    clip = plain(volume, 16, 20, LUNG, np.random.default_rng(0) if train else None)
    assert clip[:4, 24, 24].min() == 1.0
    np.testing.assert_allclose(clip[4:], LUNG.air, atol=1e-7)


def test_evaluation_is_the_plain_centre_crop():
    volume = random_volume()
    clip = plain(volume, 16, 32, LUNG)
    np.testing.assert_array_equal(clip, hu.to_unit(volume[16:32, 4:52, 4:52], hu.HuWindow.named("lung")))


def test_a_slice_smaller_than_the_crop_lies_in_its_centre():
    volume = random_volume(16, matrix_px=40)
    clip = plain(volume, 0, 16, LUNG)
    np.testing.assert_array_equal(clip[:, 4:44, 4:44], hu.to_unit(volume, hu.HuWindow.named("lung")))
    np.testing.assert_allclose(clip[:, :4], LUNG.air, atol=1e-7)
    np.testing.assert_allclose(clip[:, :, 44:], LUNG.air, atol=1e-7)


@pytest.mark.parametrize("matrix_px", [56, 40])
@pytest.mark.parametrize("seed", range(4))
def test_crop_and_rotation_equal_scipys_bilinear_interpolation(matrix_px, seed):
    volume = random_volume(16, matrix_px)
    clip = plain(volume, 0, 16, LUNG, np.random.default_rng(seed))
    # the same draws, the geometry written anew: turn about the crop's centre, then move to its corner
    rng = np.random.default_rng(seed)
    low, high = min(0, matrix_px - 48), max(0, matrix_px - 48)
    left, top = rng.integers(low, high + 1), rng.integers(low, high + 1)
    angle = np.radians(rng.uniform(-20, 20))
    y, x = np.mgrid[:48, :48] - 23.5
    rows = np.sin(angle) * x + np.cos(angle) * y + 23.5 + top
    columns = np.cos(angle) * x - np.sin(angle) * y + 23.5 + left
    unit = hu.to_unit(volume, hu.HuWindow.named("lung")).astype(np.float64)
    for plane, cut_plane in zip(unit, clip, strict=True):
        expected = map_coordinates(plane, [rows, columns], order=1, mode="grid-constant", cval=LUNG.air)
        np.testing.assert_allclose(cut_plane, expected, atol=1e-4)


def exact(volume, settings, seed, hu_window="lung"):
    """A training clip in float64, from the definition: jitter, HU window, flip, turn, crop; air outside."""
    rng = np.random.default_rng(seed)
    size, matrix_px = settings.crop_px, volume.shape[1]
    spare = matrix_px - size
    left, top = rng.integers(min(spare, 0), max(spare, 0) + 1, 2)
    angle = np.radians(rng.uniform(-settings.rotation_deg, settings.rotation_deg))
    is_flipped, offset, contrast = rng.uniform(-1, 1, 3)
    window = hu.HuWindow.named(hu_window)

    def unit(values):
        jittered = values * (1 + settings.jitter_scale * contrast) + settings.jitter_hu * offset
        return np.clip((jittered - window.low) / window.width, 0, 1)

    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    if settings.flip and is_flipped < 0:
        x = -x
    rows = np.sin(angle) * x + np.cos(angle) * y + (size - 1) / 2 + top
    columns = np.cos(angle) * x - np.sin(angle) * y + (size - 1) / 2 + left
    air = unit(np.float64(hu.HU_MIN))
    planes = [
        map_coordinates(unit(p.astype(np.float64)), [rows, columns], order=1, mode="grid-constant", cval=air)
        for p in volume
    ]
    return np.stack(planes)


@pytest.mark.parametrize(("n_slices", "matrix_px"), [(32, 256), (29, 256), (2, 200)])
def test_a_clip_of_full_size_equals_the_exact_bilinear_result(n_slices, matrix_px):
    settings = ClipSettings(32, 224, "lung", rotation_deg=20)
    volume = random_volume(n_slices, matrix_px)
    clip = plain(volume, 0, n_slices, settings, np.random.default_rng(4))
    np.testing.assert_allclose(clip[:n_slices], exact(volume, settings, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [{"flip": True}, {"jitter_hu": 40.0}, {"jitter_scale": 0.1}, {}])
@pytest.mark.parametrize("seed", range(3))
def test_flip_and_jitter_are_what_they_say(change, seed):
    every = {"flip": True, "jitter_hu": 40.0, "jitter_scale": 0.1}
    settings = ClipSettings(16, 48, "lung", rotation_deg=20, **change or every)
    volume = random_volume(16)
    clip = plain(volume, 0, 16, settings, np.random.default_rng(seed))
    np.testing.assert_allclose(clip, exact(volume, settings, seed), rtol=0, atol=1e-4)


def test_a_flip_exchanges_left_and_right_of_the_same_crop():
    volume = random_volume(16)
    still, mirror = ClipSettings(16, 48, "lung"), ClipSettings(16, 48, "lung", flip=True)
    flipped = []
    for seed in range(200):
        draws = [np.random.default_rng(seed) for _ in range(2)]
        one, other = plain(volume, 0, 16, still, draws[0]), plain(volume, 0, 16, mirror, draws[1])
        flipped.append(bool((one != other).any()))
        np.testing.assert_array_equal(other, one[:, :, ::-1] if flipped[-1] else one)
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.14)  # four standard errors


@pytest.mark.parametrize("seed", range(5))
def test_jittered_padding_is_jittered_air(seed):
    settings = ClipSettings(16, 48, "lung", rotation_deg=45, jitter_hu=100.0, jitter_scale=0.2)
    for matrix_px in (56, 40):
        air = np.full((5, matrix_px, matrix_px), hu.HU_MIN, np.int16)
        clip = plain(air, 0, 5, settings, np.random.default_rng(seed))
        np.testing.assert_allclose(clip, clip[0, 24, 24], rtol=0, atol=1e-6)
        assert abs(clip[0, 0, 0] - settings.air) > 1e-3


def test_jitter_reaches_both_ends_of_its_range():
    water = np.zeros((1, 48, 48), np.int16)
    bone = np.full((1, 48, 48), 1000, np.int16)
    offset, scale = [], []
    for seed in range(300):
        brighter = ClipSettings(1, 48, "bone", jitter_hu=50.0, jitter_scale=0.0)
        higher = ClipSettings(1, 48, "bone", jitter_hu=0.0, jitter_scale=0.1)
        offset.append(plain(water, 0, 1, brighter, np.random.default_rng(seed))[0, 24, 24])
        scale.append(plain(bone, 0, 1, higher, np.random.default_rng(seed))[0, 24, 24])
        unchanged = plain(water, 0, 1, higher, np.random.default_rng(seed))[0, 24, 24]
        assert unchanged == pytest.approx(500 / 1800)  # contrast turns about 0 HU
    assert [min(offset), max(offset)] == pytest.approx([450 / 1800, 550 / 1800], abs=2e-3)
    assert [min(scale), max(scale)] == pytest.approx([1400 / 1800, 1600 / 1800], abs=4e-3)


def test_what_is_left_out_moves_no_other_draw():
    volume, tiny, effects = random_volume(16), 1e-4, []
    every = {"rotation_deg": 20, "flip": True, "jitter_hu": 30.0, "jitter_scale": 0.1}
    for seed in range(8):
        clip = plain(volume, 0, 16, ClipSettings(16, 48, "lung", **every), np.random.default_rng(seed))
        for name in ("rotation_deg", "jitter_hu", "jitter_scale"):
            # all but without one: as if that one were drawn, and did next to nothing
            off, hardly = (ClipSettings(16, 48, "lung", **every | {name: value}) for value in (0.0, tiny))
            without, with_it = (plain(volume, 0, 16, s, np.random.default_rng(seed)) for s in (off, hardly))
            np.testing.assert_allclose(without, with_it, atol=1e-3)
            effects.append(abs(without - clip).max())
    assert np.reshape(effects, (8, 3)).max(axis=0).min() > 1e-2  # each does something


@pytest.mark.parametrize("channels", ["repeat", "hu_windows", "neighbours"])
def test_autoaugment_changes_all_slices_alike_and_leaves_the_padding_air(channels):
    """Of equal slices every one is changed to the same picture; what the clip lacks stays air."""
    volume = np.repeat(random_volume(1), 6, axis=0)
    changed = 0
    for seed in range(20):
        settings = ClipSettings(8, 48, "lung", channels=channels)
        before, after, again = (
            cut(volume, 0, 6, dataclasses.replace(settings, autoaugment=on), np.random.default_rng(seed))
            for on in (False, True, True)
        )
        np.testing.assert_array_equal(after, again)
        inner = after[:, 1:5]  # neighbours look beyond the ends
        np.testing.assert_allclose(inner, inner[:, :1].repeat(4, axis=1), atol=1e-6)
        assert after.min() >= 0 and after.max() <= 1
        np.testing.assert_array_equal(after[:, 7], before[:, 7])
        changed += bool(np.abs(after[:, :6] - before[:, :6]).max() > 0.02)
    assert changed >= 12  # some policies do nothing to grey pictures, or leave a clip out by chance


def test_hu_windows_are_the_clip_under_each():
    settings = ClipSettings(16, 48, "pe", rotation_deg=20, channels="hu_windows")
    volume = random_volume(13)
    for rng in (None, 3):
        clip = cut(volume, 0, 13, settings, rng and np.random.default_rng(rng))
        assert clip.shape == (3, 16, 48, 48)
        for channel, name in zip(clip, ("lung", "pe", "mediastinum"), strict=True):
            one = ClipSettings(16, 48, name, rotation_deg=20)
            alone = plain(volume, 0, 13, one, rng and np.random.default_rng(rng))
            np.testing.assert_array_equal(channel, alone)


@pytest.mark.parametrize("train", [True, False])
def test_neighbours_are_the_slices_before_and_after_and_air_beyond_the_volume(train):
    settings = ClipSettings(16, 48, "lung", rotation_deg=20, channels="neighbours")
    data, alone = dataset(settings, train), dataset(LUNG, train)
    whole = ClipSettings(46, 48, "lung", rotation_deg=20)  # the whole volume in the geometry of the clip
    for row, (series, start, stop) in enumerate(
        data.table[["series_uid", "start", "stop"]].itertuples(index=False, name=None)
    ):
        clip = data[row]["clip"]
        assert clip.shape == (3, 16, 48, 48)
        assert torch.equal(clip[1], alone[row]["clip"][0])
        volume, n_slices = data.store.read(series), stop - start
        rng = np.random.default_rng([5, 0, 0, row]) if train else None
        padded = np.full((48, 48, 48), LUNG.air, np.float32)
        padded[1 : 1 + len(volume)] = plain(volume, 0, len(volume), whole, rng)[: len(volume)]
        for channel, shift in ((0, 0), (1, 1), (2, 2)):
            expected = padded[start + shift : stop + shift]
            np.testing.assert_array_equal(clip[channel, :n_slices], expected)
        np.testing.assert_allclose(clip[2, n_slices:], LUNG.air, atol=1e-7)
        np.testing.assert_allclose(clip[1, n_slices:], LUNG.air, atol=1e-7)


@pytest.mark.parametrize("channels", ["hu_windows", "neighbours"])
def test_channels_do_not_depend_on_the_number_of_workers(channels):
    data = dataset(ClipSettings(16, 48, "pe", rotation_deg=20, channels=channels, flip=True, jitter_hu=20.0))
    sampler = BalancedSampler(data.table["label"], n=8, seed=5)
    alone = items(data, sampler=sampler)
    assert alone.shape == (8, 3, 16, 48, 48)
    assert torch.equal(alone, items(data, workers=2, sampler=sampler))


def test_intensity_is_one_a_channel():
    settings = ClipSettings(16, 48, "pe", channels="hu_windows")
    data = dataset(settings, train=False)
    means, stds = intensity(data.store, data.table, settings)
    for mean, std, name in zip(means, stds, ("lung", "pe", "mediastinum"), strict=True):
        (alone_mean,), (alone_std,) = intensity(data.store, data.table, ClipSettings(16, 48, name))
        assert (mean, std) == pytest.approx((alone_mean, alone_std), abs=1e-12)
    assert len({round(mean, 3) for mean in means}) == 3


def test_voxels_of_another_type_are_refused():
    with pytest.raises(ValueError, match="int16; this volume is float32"):
        cut(np.zeros((4, 56, 56), np.float32), 0, 4, PE)


def test_random_crops_reach_every_place_and_both_directions():
    def drawn(settings):
        return [change_of(56, settings, np.random.default_rng(seed)).matrix for seed in range(400)]

    draws, still = drawn(LUNG), drawn(ClipSettings(16, 48, "lung"))
    assert {tuple(m[:, 2]) for m in still} == {(x, y) for x in range(9) for y in range(9)}
    angles = np.degrees([np.arctan2(m[1, 0], m[0, 0]) for m in draws])
    assert -20 <= angles.min() < -18 and 18 < angles.max() <= 20


def test_all_slices_of_a_clip_share_one_geometry():
    plane = random_volume(1)[0]
    clip = plain(np.stack([plane] * 16), 0, 16, LUNG, np.random.default_rng(1))
    assert (clip == clip[0]).all()


def items(data, workers=0, **loader):
    batches = DataLoader(data, batch_size=2, num_workers=workers, **loader)
    return torch.cat([batch["clip"] for batch in batches])


def test_items_do_not_depend_on_the_number_of_workers():
    data = dataset()
    sampler = BalancedSampler(data.table["label"], n=8, seed=5)
    alone = items(data, sampler=sampler)
    assert torch.equal(alone, items(data, workers=2, sampler=sampler))
    again = dataset()
    assert torch.equal(alone, items(again, sampler=BalancedSampler(again.table["label"], n=8, seed=5)))


def test_items_do_not_depend_on_the_order_in_which_they_are_read():
    data = dataset()
    forwards = [data[i]["clip"] for i in range(len(data))]
    backwards = [data[i]["clip"] for i in reversed(range(len(data)))]
    assert all(map(torch.equal, forwards, reversed(backwards)))


def test_epochs_differ_also_in_workers_that_outlive_them():
    data = dataset()
    loader = DataLoader(data, batch_size=5, num_workers=1, persistent_workers=True)
    seen = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        seen.append(next(iter(loader))["clip"])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_seeds_and_positions_differ():
    data = dataset()
    assert not torch.equal(data[0]["clip"], dataset(seed=6)[0]["clip"])
    assert not torch.equal(data[Draw(0, 1)]["clip"], data[Draw(0, 2)]["clip"])
    assert torch.equal(data[Draw(0, 0)]["clip"], data[0]["clip"])


def test_evaluation_items_do_not_change():
    data = dataset(train=False)
    first = data[1]["clip"]
    data.set_epoch(3)
    assert torch.equal(first, data[1]["clip"])


def test_an_item_says_what_it_is():
    data = dataset()
    item = data[Draw(4, 9)]
    assert item["clip"].shape == (1, 16, 48, 48) and item["clip"].dtype == torch.float32
    assert item["label"].dtype == torch.float32 and item["label"] == 1
    assert item["index"] == 4 and type(item["index"]) is int
    series = data.table.loc[4, "series_uid"]
    still = dataset(train=False)
    expected = hu.to_unit(still.store.read(series)[16:29, 4:52, 4:52], hu.HuWindow.named("pe"))
    np.testing.assert_array_equal(still[4]["clip"][0, :13], expected)


@pytest.mark.parametrize("train", [True, False])
def test_an_item_reads_its_own_slices_only(train, monkeypatch):
    data, read = dataset(train=train), []
    monkeypatch.setattr(
        data.store, "read", lambda *run: read.append(run) or MemoryStore.read(data.store, *run)
    )
    clips = [data[i] for i in range(len(data))]
    assert read == list(data.table[["series_uid", "start", "stop"]].itertuples(index=False, name=None))
    assert [clip["index"] for clip in clips] == list(range(len(data)))


def test_clips_without_label_are_for_prediction_only():
    slices = slice_rows(16)
    slices["label"] = pd.array([pd.NA] * 16, dtype="Int64")
    clips, store = clip_table(slices, 16, 4), MemoryStore({"1.2.3": random_volume(16)})
    assert ClipDataset(store, clips, PE, train=False)[0]["label"].isnan()
    with pytest.raises(ValueError, match=r"series 1\.2\.3, clip 0 has no label"):
        ClipDataset(store, clips, PE, train=True)


def test_clips_longer_than_the_settings_are_refused():
    clips = clip_table(slice_rows(40), 32, 4)
    with pytest.raises(ValueError, match="clip 0 is longer than 16 slices"):
        ClipDataset(MemoryStore({}), clips, PE, train=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hu_window": "lungs"}, "lungs"),
        ({"crop_px": 0}, "0 px"),
        ({"rotation_deg": -1}, "-1"),
        ({"channels": "rgb"}, "channels is 'rgb'; known are repeat, hu_windows, neighbours"),
        ({"jitter_hu": -5.0}, "jitter_hu is -5.0; give 0 HU or more"),
        ({"jitter_hu": float("nan")}, "jitter_hu is nan"),
        ({"jitter_scale": 1.0}, "jitter_scale is 1.0; give a share from 0 to below 1"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ClipSettings(**{"length": 16, "crop_px": 48, "hu_window": "pe", **change})


def test_intensity_is_that_of_the_voxels_a_network_sees():
    data = dataset(LUNG, train=False)
    voxels = np.stack([data[i]["clip"] for i in range(len(data))]).astype(np.float64)
    (mean,), (std,) = intensity(data.store, data.table, LUNG)
    assert mean == pytest.approx(voxels.mean(), abs=1e-6)
    assert std == pytest.approx(voxels.std(), abs=1e-6)


def test_intensity_of_nothing_or_of_one_value_is_refused():
    store = MemoryStore({"1.2.3": np.full((16, 56, 56), -1024, np.int16)})
    clips = clip_table(slice_rows(16), 16, 4)
    with pytest.raises(ValueError, match=r"all voxels of 1 clips are 0\.000"):
        intensity(store, clips, PE)
    with pytest.raises(ValueError, match="no clips"):
        intensity(store, clips.iloc[:0], PE)


def test_classes_are_drawn_with_equal_weight():
    labels = [0] * 95 + [1] * 5
    drawn = [labels[row] for row in BalancedSampler(labels, n=4000, seed=0)]
    assert len(drawn) == 4000
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)  # four standard errors


def test_draws_are_a_function_of_seed_and_epoch():
    def draws(seed, epoch):
        sampler = BalancedSampler([0, 0, 0, 1, 1], n=20, seed=seed)
        sampler.set_epoch(epoch)
        return [(int(d), d.position) for d in sampler]

    assert draws(1, 2) == draws(1, 2)
    assert draws(1, 2) != draws(1, 3) and draws(1, 2) != draws(2, 2)
    assert [position for _, position in draws(1, 2)] == list(range(20))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1], [0, 1, 2], []])
def test_an_absent_or_unknown_class_is_refused(labels):
    with pytest.raises(ValueError, match=rf"labels of {len(labels)} clips"):
        BalancedSampler(labels, n=4, seed=0)


def test_draws_survive_the_way_to_another_process():
    draw = pickle.loads(pickle.dumps(Draw(3, 8)))
    assert (draw, draw.position) == (3, 8)


def test_an_item_takes_less_than_a_millisecond_at_demo_size():
    data = dataset(LUNG)
    taken = []
    for position in range(60):
        start = time.perf_counter()
        data[Draw(position % 5, position)]
        taken.append(time.perf_counter() - start)
    assert min(taken) < 1e-3  # the best of many: other processes may be busy
