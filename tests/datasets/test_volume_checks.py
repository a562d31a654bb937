import json

import numpy as np
import pytest

from ctlib.datasets.synthetic import ct
from ctlib.datasets.volume_checks import COARSE, coarse, coarse_of, examine


def normal(shape, *parts, seed=0):
    """A volume whose voxels are drawn from (share, mean, standard deviation), in HU."""
    rng = np.random.default_rng([11, seed])
    n = int(np.prod(shape))
    sizes = [round(share * n) for share, _, _ in parts]
    sizes[0] += n - sum(sizes)
    drawn = [rng.normal(mean, sd, size) for size, (_, mean, sd) in zip(sizes, parts, strict=True)]
    values = rng.permutation(np.concatenate(drawn))
    return np.clip(np.rint(values), -1024, 3071).astype(np.int16).reshape(shape)


CHEST = ((0.2, -1000, 15), (0.3, -850, 40), (0.15, -100, 20), (0.3, 50, 20), (0.05, 600, 100))


def test_peaks_lie_where_air_and_tissue_were_put():
    found = examine(normal((20, 64, 64), *CHEST))
    assert found["air_hu"] == pytest.approx(-1000, abs=6)
    assert found["tissue_hu"] == found["body_hu"] == pytest.approx(50, abs=6)
    assert found["tissue_share"] == pytest.approx(0.3, abs=0.02)
    assert found["air_share"] == pytest.approx(0.2, abs=0.02)
    assert found["body_share"] == pytest.approx(0.5, abs=0.01)
    assert found["dense_share"] == pytest.approx(0.05, abs=0.005)
    assert json.loads(json.dumps(found)) == found


def test_air_is_the_lowest_peak_though_there_is_more_lung():
    assert examine(normal((20, 64, 64), (0.02, -1000, 10), (0.6, -850, 30), (0.38, 50, 20)))["air_hu"] < -990
    assert examine(normal((20, 64, 64), (0.6, -850, 30), (0.4, 50, 20)))["air_hu"] == pytest.approx(
        -850, abs=6
    )


def test_padding_is_no_air_and_no_air_is_none():
    hu = normal((20, 64, 64), *CHEST)
    hu[:, :32] = -1024
    found = examine(hu)
    assert found["padding_share"] == pytest.approx(0.5, abs=0.01)
    assert found["air_hu"] == pytest.approx(-1000, abs=6)
    empty = examine(np.full((3, 40, 40), -1024, np.int16))
    assert (empty["air_hu"], empty["tissue_hu"], empty["body_hu"]) == (None, None, None)
    assert (empty["air_share"], empty["padding_share"], empty["body_share"]) == (0.0, 1.0, 0.0)


def test_the_edge_of_a_range_is_no_peak():
    # a slope of voxels that only rises towards 400 HU has no peak in [-300, 300]
    assert examine(normal((20, 64, 64), (0.5, -1000, 10), (0.5, 400, 60)))["tissue_hu"] is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 300), (7, 96, 96), (8, 256, 256), (9, 100, 70)])
def test_any_size_has_a_coarse_copy_with_the_mean_of_the_whole(shape):
    hu = normal(shape, *CHEST)
    found = coarse_of(examine(hu)["coarse"])
    assert found.shape == COARSE and found.dtype == np.int16
    assert coarse(hu).mean() == pytest.approx(hu.mean(), abs=0.5)


def test_blocks_are_means_of_where_they_lie():
    hu = np.zeros((16, 32, 32), np.int16)
    hu[14:, :2, 30:] = 801  # the last block of z, the first of y, the last of x
    hu[0, 0, 0] = 8
    expected = np.zeros(COARSE, np.int16)
    expected[-1, 0, -1], expected[0, 0, 0] = 801, 1
    assert (coarse_of(examine(hu)["coarse"]) == expected).all()
    # borders inside a voxel: 3 slices in 8 blocks, 0.375 of a slice each
    thirds = coarse(np.array([0, 800, 1600], np.int16).reshape(3, 1, 1))[:, 0, 0]
    assert thirds.tolist() == [0, 0, 267, 800, 800, 1333, 1600, 1600]


def test_a_subsample_says_what_the_whole_says():
    small = ct.exam("rspect", 0, 0).hu
    large = small.repeat(3, axis=1).repeat(3, axis=2)
    one, other = examine(small), examine(large)
    difference = coarse_of(one.pop("coarse")) - coarse_of(other.pop("coarse")).astype(float)
    assert np.sqrt((difference**2).mean()) < 20
    assert one == pytest.approx(other, abs=6)


def test_what_is_no_volume_is_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        examine(np.zeros((4, 4), np.int16))
    with pytest.raises(ValueError, match="store its series again"):
        coarse_of(examine(np.zeros((1, 1, 1), np.int16))["coarse"][:-4])
