import base64

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ctlib.core import tables
from ctlib.datasets import quality
from ctlib.datasets.cohort import Cohort
from ctlib.datasets.metadata import ridge_logistic
from ctlib.datasets.store import shrink
from ctlib.datasets.synthetic import ct
from ctlib.datasets.volume_checks import COARSE, MOST_RMS_HU, coarse_of, examine
from ctlib.io.volume import read_series
from ctlib.visualization import summary_tables


def series(n, seed=0, **columns):
    """Table `series` of n patients, every second ill, whose files say nothing of it."""
    rng = np.random.default_rng([31, seed])
    names = [f"p{i:04d}" for i in range(n)]
    spacing = rng.choice([1.0, 1.25, 2.5, 5.0], n)
    table = pd.DataFrame({"cohort": "c", "patient_id": names, "study_uid": names})
    table["series_uid"] = [f"s{i:04d}" for i in range(n)]
    table = table.assign(n_files=30, n_slices=rng.integers(28, 46, n), rows_px=512, cols_px=512)
    table = table.assign(spacing_z_mm=spacing, spacing_y_mm=0.7, spacing_x_mm=rng.uniform(0.6, 0.9, n))
    table = table.assign(thickness_mm=spacing, kernel=rng.choice(["SOFT", "SHARP"], n), manufacturer="Alpha")
    return table.assign(label=pd.array(np.arange(n) % 2, "Int64")).assign(**columns)


def checks(volumes):
    """Table `checks` of volumes by series."""
    rows = [{"series_uid": uid, **examine(hu)} for uid, hu in volumes.items()]
    return tables.check(pd.DataFrame(rows), "checks")


def text_of(copy):
    return base64.b64encode(np.clip(np.rint(copy), -1024, 3071).astype("<i2").tobytes()).decode()


def whole(values):
    return np.clip(np.rint(values), -1024, 3071).astype(np.int16)


FAULTS = {
    "twice": lambda hu: whole(hu - 1024.0),
    "twice, intercept -1000": lambda hu: whole(hu - 1000.0),
    "not at all": lambda hu: whole(hu + 1024.0),
    "not at all, padding far below": lambda hu: whole(np.where(hu < -1000, -3024, hu + 1024.0)),
    "slope 2 for 1": lambda hu: whole((hu + 1024.0) * 2 - 1024),
    "slope 0.5 for 1": lambda hu: whole((hu + 1024.0) * 0.5 - 1024),
}
REASONS = {"twice": "applied twice", "not a": "were not applied", "slope": "slope"}


@pytest.fixture(scope="module")
def phantoms():
    return {f"{name}{i}": ct.exam(name, 3, i).hu for name in ("lidc", "rspect") for i in range(6)}


@pytest.fixture(scope="module")
def real(lidc_sample):
    return shrink(read_series(lidc_sample).hu, 256)


# ---- HU scale --------------------------------------------------------------------------


def test_right_phantoms_are_not_reported_and_each_fault_of_each_is(phantoms):
    assert quality.rescale_faults(checks(phantoms)).empty
    for name, fault in FAULTS.items():
        found = quality.rescale_faults(checks({uid: fault(hu) for uid, hu in phantoms.items()}))
        assert list(found["series_uid"]) == list(phantoms), name
        assert found["reason"].str.contains(REASONS[name[:5]]).all(), (name, list(found["reason"]))


def test_a_real_chest_is_not_reported_and_each_of_its_faults_is(real):
    assert quality.rescale_faults(checks({"s": real})).empty
    found = quality.rescale_faults(checks({name: fault(real) for name, fault in FAULTS.items()}))
    assert list(found["series_uid"]) == list(FAULTS)
    assert list(found.columns) == ["series_uid", "air_hu", "tissue_hu", "reason"]


def test_padding_hides_no_volume_that_was_not_rescaled(phantoms):
    hu = FAULTS["not at all"](phantoms["rspect0"])
    padded = np.full((len(hu), 192, 192), -1024, np.int16)
    padded[:, :96, :96] = hu
    found = checks({"s": padded})
    assert found["dense_share"][0] < 0.15 and found["padding_share"][0] > 0.7
    assert "were not applied" in quality.rescale_faults(found)["reason"][0]


def test_a_thin_patient_or_a_tight_field_of_view_is_no_fault(phantoms):
    hu = phantoms["rspect0"]
    wide = np.full((len(hu), 300, 300), -1000, np.int16)
    wide[:, :96, :96] = hu
    abdomen = hu.copy()
    abdomen[hu < -300] = 40
    found = checks({"wide": wide, "no air": abdomen})
    assert found["body_share"][0] < 0.1 and np.isnan(found["air_hu"][1])
    assert quality.rescale_faults(found).empty
    assert len(quality.rescale_faults(checks({"nothing": np.full((4, 64, 64), -1024, np.int16)}))) == 1


# ---- near duplicates -------------------------------------------------------------------


def splits_of(table, roles):
    return pd.DataFrame({"patient_id": table["patient_id"], "split": roles})


def test_copies_are_found_and_different_patients_are_not(phantoms):
    rng, volumes = np.random.default_rng(2), dict(phantoms)
    base = phantoms["rspect1"]
    volumes["noisy"] = whole(base + rng.normal(0, 30, base.shape))
    volumes["padded"] = np.where(base <= -1000, -1024, base).astype(np.int16)
    table = series(len(volumes), series_uid=list(volumes))
    found = quality.near_duplicates(checks(volumes), table, splits_of(table, ["train"] * 12 + ["test"] * 2))
    pairs = {frozenset(pair) for pair in zip(found["series_a"], found["series_b"], strict=True)}
    assert pairs == {frozenset(p) for p in (("rspect1", "noisy"), ("rspect1", "padded"), ("noisy", "padded"))}
    assert found["rms_hu"].is_monotonic_increasing and found["rms_hu"].max() < MOST_RMS_HU
    assert sorted(found["crosses_splits"]) == [False, True, True] and not found["same_patient"].any()
    crossing = found[found["crosses_splits"]].iloc[0]
    assert {crossing["split_a"], crossing["split_b"]} == {"train", "test"}


def test_copies_of_a_real_chest_are_found(real):
    rng = np.random.default_rng(3)
    circle = np.hypot(*(np.mgrid[:256, :256] - 127.5)) > 127
    volumes = {
        "itself": np.where(circle, -1000, real).astype(np.int16),
        "padding": np.where(circle, -1024, real).astype(np.int16),
        "noise": whole(np.where(circle, -1000, real) + rng.normal(0, 20, real.shape)),
        "cut": np.where(circle, -1000, real)[2:-2].astype(np.int16),
        "half": np.where(circle, -1000, real)[:140].astype(np.int16),
    }
    table = series(5, series_uid=list(volumes))
    found = quality.near_duplicates(checks(volumes), table, splits_of(table, "train"))
    assert len(found) == 6 and "half" not in set(found["series_a"]) | set(found["series_b"])


def test_padding_of_any_value_is_no_difference():
    one = np.full(COARSE, -1000)
    one[:2] = np.random.default_rng(9).integers(0, 900, (2, 16, 16))
    other = np.where(one == -1000, -1024, one)  # 24 HU in three of four blocks: 21 HU RMS
    table = series(2)
    frame = pd.DataFrame({"series_uid": table["series_uid"], "coarse": [text_of(one), text_of(other)]})
    assert list(quality.near_duplicates(frame, table, splits_of(table, "val"))["rms_hu"]) == [0.0]


def test_rms_is_that_of_the_coarse_copies_and_blocks_miss_no_pair():
    rng, n = np.random.default_rng(4), 1100
    copies = rng.integers(-900, 900, (n, *COARSE))  # well above the floor
    for a, b, by in ((0, 1099, 5), (3, 600, 19), (700, 701, 21), (510, 513, 0)):
        copies[b] = copies[a] + by  # a constant is its own RMS
    copies[20:23] = -1000  # flat: equal, but there is nothing to see
    table = series(n, patient_id=["same" if i in (510, 513) else f"p{i}" for i in range(n)])
    frame = pd.DataFrame({"series_uid": table["series_uid"], "coarse": [text_of(c) for c in copies]})
    found = quality.near_duplicates(frame, table, splits_of(table, "train").drop_duplicates())
    assert list(zip(found["series_a"], found["series_b"], strict=True)) == [
        ("s0510", "s0513"),
        ("s0000", "s1099"),
        ("s0003", "s0600"),
    ]
    first, last = (np.maximum(coarse_of(frame["coarse"][i]), -1000.0) for i in (3, 600))
    assert found["rms_hu"].iloc[2] == pytest.approx(np.sqrt(((first - last) ** 2).mean()), abs=1e-4)
    assert list(found["same_patient"]) == [True, False, False]
    assert len(quality.near_duplicates(frame, table, splits_of(table, "train"), most_rms_hu=21.5)) == 4


def test_no_volume_or_one_has_no_pair(phantoms):
    table = series(1, series_uid=["lidc0"])
    one = checks({"lidc0": phantoms["lidc0"]})
    for frame in (one, one.iloc[:0]):
        found = quality.near_duplicates(frame, table, splits_of(table, "train"))
        assert found.empty and found["crosses_splits"].dtype == bool


# ---- metadata --------------------------------------------------------------------------


def row(table, feature):
    return table.set_index("feature").loc[feature]


def test_a_kernel_that_tells_the_label_is_found_and_noise_is_not():
    rng, n = np.random.default_rng(5), 160
    label = np.arange(n) % 2
    kernel = np.where(rng.random(n) < np.where(label == 1, 0.8, 0.2), "SHARP", "SOFT")
    leaky = quality.metadata_baseline(series(n, kernel=kernel))
    for feature in ("kernel", "all together"):
        assert row(leaky, feature)["auroc"] > row(leaky, feature)["high"] + 0.05
        assert row(leaky, feature)["word"] == "different" and row(leaky, feature)["p_value"] == 0.01
    assert row(leaky, "kernel")["auroc"] == pytest.approx(0.8, abs=0.08)
    plain = quality.metadata_baseline(series(n))
    known = plain.dropna(subset="auroc")
    assert len(known) == 6 and (known["auroc"] < known["high"]).all()
    assert list(plain["n_exams"].unique()) == [n] and list(plain["n_positive"].unique()) == [n // 2]


def test_a_middle_spacing_that_tells_the_label_is_found():
    label = np.arange(120) % 2
    height = np.random.default_rng(6).uniform(0, 1, 120)
    spacing = np.where(label == 1, 2 + height, np.where(np.arange(120) % 4 == 0, 1 + height, 3 + height))
    found = row(quality.metadata_baseline(series(120, spacing_x_mm=spacing)), "pixel spacing")
    assert found["auroc"] > 0.75 > found["high"]


@pytest.mark.slow  # 30 cohorts, each fitted 200 times
def test_files_that_say_nothing_lie_outside_the_band_of_chance_in_five_percent():
    words = []
    for seed in range(30):
        rng = np.random.default_rng([31, seed])
        table = series(48, spacing_x_mm=rng.normal(0.7, 0.1, 48), kernel=rng.choice(["A", "B"], 48))
        table = table.assign(n_slices=200, spacing_z_mm=1.0, thickness_mm=1.0)
        words.append(row(quality.metadata_baseline(table, seed), "all together")["word"])
    assert words.count("different") <= 5  # of 30; expected are 1.5, and more than 5 in 0.3 %


def test_many_regressions_at_once_are_those_of_scikit_learn():
    rng = np.random.default_rng(12)
    designs, label = rng.normal(size=(5, 50, 4)), np.arange(50) % 3 == 0
    designs[1, :, 2] = 4.0 * label + 0.1 * designs[1, :, 2]  # one that separates the classes
    found = ridge_logistic(designs, label.astype(np.int64))
    wanted = [LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(x, label).coef_[0] for x in designs]
    assert found == pytest.approx(np.array(wanted), abs=1e-6)


def test_no_model_scores_a_patient_it_saw():
    # four exams a patient with one kernel of the patient's own: learned by heart it would be 1
    n = 160
    patient = [f"p{i // 4}" for i in range(n)]
    label = pd.array(np.random.default_rng(7).integers(0, 2, n // 4).repeat(4), "Int64")
    table = series(n, patient_id=patient, label=label, kernel=[f"K{p}" for p in patient])
    found = row(quality.metadata_baseline(table), "kernel")
    assert found["auroc"] < 0.6 and found["n_patients"] == 40


def test_the_same_seed_gives_the_same_values():
    table = series(60)
    shuffled = quality.metadata_baseline(table, seed=3)
    pd.testing.assert_frame_equal(shuffled, quality.metadata_baseline(table, seed=3))
    assert not shuffled["auroc"].equals(quality.metadata_baseline(table, seed=4)["auroc"])


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": pd.array([None] * 20, "Int64")}, "no exam has a label"),
        ({"label": 1}, "20 patients with disease and 0 without"),
        ({"patient_id": "one"}, "1 patients with disease and 1 without"),
        ({"label": [1] + [0] * 19}, "1 patients with disease and 19 without"),
    ],
)
def test_where_nothing_can_be_said_nothing_is(columns, reason):
    found = quality.metadata_baseline(series(20, **columns))
    assert found[["auroc", "low", "high"]].isna().all(axis=None)
    assert found["reason"].str.contains(reason).all()


def test_what_is_missing_or_constant_has_a_reason_and_the_rest_a_value():
    table = series(40, kernel=None, n_slices=30, thickness_mm=np.nan)
    found = quality.metadata_baseline(table)
    whys = found.set_index("feature")["reason"]
    assert whys["kernel"] == whys["slice thickness"] == "not in the files"
    assert whys["slice count"] == whys["maker"] == "the same in all exams"
    assert np.isfinite(row(found, "all together")["auroc"]) and np.isnan(row(found, "kernel")["auroc"])
    half = table.assign(thickness_mm=np.where(np.arange(40) % 2, 3.0, np.nan))  # missing tells the label
    assert row(quality.metadata_baseline(half), "slice thickness")["auroc"] == 1.0
    nothing = table.assign(spacing_z_mm=1.0, spacing_x_mm=0.7)
    assert row(quality.metadata_baseline(nothing), "all together")["reason"].startswith("no feature differs")


def test_two_patients_of_a_class_are_enough_for_folds():
    found = quality.metadata_baseline(series(6, label=[1, 1, 0, 0, 0, 0]))
    assert np.isfinite(row(found, "all together")["auroc"])


# ---- overview --------------------------------------------------------------------------


def test_scanners_count_exams_and_name_what_is_absent():
    table = series(6, manufacturer=["A", "A", "A", "", None, None], kernel=["x", "x", "y", "x", " ", None])
    found = quality.scanners(table.assign(label=pd.array([1, 0, None, 1, 0, None], "Int64")))
    first = found.iloc[0]
    assert (first["maker"], first["kernel"], first["exams"], first["prevalence"]) == ("A", "x", 2, 0.5)
    absent = found[(found["maker"] == "not in the files") & (found["kernel"] == "not in the files")].iloc[0]
    assert (absent["exams"], absent["exams with disease"], absent["prevalence"]) == (2, 0, 0.0)
    assert np.isnan(found.set_index(["maker", "kernel"]).loc[("A", "y"), "prevalence"])
    assert found["exams"].sum() == 6


def test_extremes_are_the_ends_of_each_measure():
    table = series(5, spacing_z_mm=[1.0, 2, 5, 2, 2], n_slices=[300, 100, 20, 90, 90], spacing_x_mm=0.7)
    table.loc[3, ["rows_px", "cols_px"]] = 700
    frame = pd.DataFrame({"series_uid": table["series_uid"], "air_hu": [-1000, -998, np.nan, -1000, -850.0]})
    found = {extreme.series_uid: extreme.reason for extreme in quality.extremes(table, frame)}
    assert found == {
        "s0000": "thinnest spacing, 1 mm\nmost slices, 300\nsmallest field of view, 358 mm",
        "s0002": "thickest spacing, 5 mm\nfewest slices, 20",
        "s0003": "largest field of view, 490 mm",
        "s0004": "air furthest off, -850 HU",
    }
    same = series(4, spacing_z_mm=1.0, n_slices=9, spacing_x_mm=0.7)
    assert quality.extremes(same, frame.iloc[:0]) == []


# ---- sentences -------------------------------------------------------------------------


def cohort(table, refused=2):
    problems = pd.DataFrame({"cohort": "c", "path": ["a"], "n_files": [refused], "reason": ["Refused."]})
    empty = pd.DataFrame()
    return Cohort("c", table, empty, problems, empty)


def made(n=60, **columns):
    """Table `series`, its splits and checks; nothing is wrong with them."""
    table = series(n, **columns)
    rng = np.random.default_rng(8)
    rows = pd.DataFrame({"series_uid": table["series_uid"], "air_hu": -1000.0, "tissue_hu": 40.0})
    rows = rows.assign(body_hu=40.0, air_share=0.3, tissue_share=0.2, padding_share=0.1, body_share=0.4)
    rows = rows.assign(dense_share=0.02, coarse=[text_of(rng.normal(-300, 300, COARSE)) for _ in range(n)])
    return table, splits_of(table, np.resize(["train", "train", "val", "val", "test", "test"], n)), rows


def sentences(table, splits, rows):
    found = quality.findings(quality.inspect(cohort(table), splits, rows), 4)
    assert len(found) == 5 and all(text.endswith(".") for text in found)
    return found


def test_findings_of_a_clean_cohort_find_nothing():
    prevalence, metadata, scale, twice, spacing = sentences(*made(spacing_z_mm=2.5, thickness_mm=2.5))
    assert prevalence == (
        "Prevalence by patient: train 0.50, val 0.50, test 0.50: alike (chi-square p = 1.00)."
    )
    assert (
        "nothing in them was seen to tell the classes apart" in metadata
        and "Above chance alone: none" in metadata
    )
    assert scale == "HU scale: none of 60 volumes is off."
    assert twice == "Near duplicates: none among 60 volumes."
    assert spacing == (
        "Slices lie 2.5 mm apart in all exams (thickness 2.5 mm): 4 positive slices are 10 mm."
    )


def test_findings_say_when_prevalence_differs():
    table, splits, rows = made()
    sick = splits.assign(split=np.where(table["label"] == 1, "test", splits["split"]))
    assert "not alike" in sentences(table, sick, rows)[0]
    assert "no two splits" in sentences(table, splits.assign(split="test"), rows)[0]
    ill = table.assign(label=pd.array([1] * 60, "Int64"))
    assert "all 60 patients have label 1" in sentences(ill, splits, rows)[0]
    unknown = sentences(table.assign(label=pd.array([None] * 60, "Int64")), splits, rows)
    assert unknown[0] == "Prevalence: no exam has a label." and "for no exam has a label" in unknown[1]


def test_findings_say_when_the_files_tell_the_label():
    label = np.arange(60) % 2
    kernel = np.where((label == 1) == (np.arange(60) % 10 > 0), "SHARP", "SOFT")
    text = sentences(*made(kernel=kernel))[1]
    assert "that is above chance" in text and "Above chance alone: kernel 0.8" in text


def test_findings_say_which_volume_is_off_the_scale():
    table, splits, rows = made()
    rows.loc[7, ["air_hu", "tissue_hu", "body_hu", "body_share"]] = [-975, np.nan, np.nan, 0.02]
    text = sentences(table, splits, rows)[2]
    assert text.startswith("HU scale: 1 of 60 volumes") and "series s0007: 2.0% of the voxels" in text


def test_findings_say_when_a_volume_is_in_two_splits():
    table, splits, rows = made()
    rows.loc[1, "coarse"] = rows.loc[0, "coarse"]  # both in train
    text = sentences(table, splits, rows)[3]
    assert "1 pair among 60 volumes, 1 of them of two patients, 0 across splits: none is learned" in text
    rows.loc[4, "coarse"] = rows.loc[0, "coarse"]  # in test
    text = sentences(table, splits, rows)[3]
    assert "3 pairs" in text and "2 across splits: what is tested was seen before" in text
    assert "s0000 (train) and s0004 (test), 0.0 HU apart" in text


def test_findings_say_what_four_slices_are_in_mm():
    text = sentences(*made())[4]
    assert text.startswith("Slices lie 1 to 5 mm apart (thickness 1 to 5 mm): 4 positive slices are 4 mm of")
    assert "20 mm of another" in text
    assert "thickness" not in sentences(*made(thickness_mm=np.nan))[4]


def test_the_checks_of_a_cohort_in_a_word_each_follow_its_sentences():
    clean, open_ = made(spacing_z_mm=2.5, thickness_mm=2.5), made()
    table, splits, rows = open_
    rows.loc[4, "coarse"] = rows.loc[0, "coarse"]
    rows.loc[7, ["air_hu", "tissue_hu", "body_hu", "body_share"]] = [-975, np.nan, np.nan, 0.02]
    sick = splits.assign(split=np.where(table["label"] == 1, "test", splits["split"]))
    found = {
        name: quality.inspect(cohort(one), by, of)
        for name, (one, by, of) in {"clean": clean, "open": (table, sick, rows)}.items()
    }
    checks = quality.checks(found).set_index("check")
    assert set(checks["clean"]) == {quality.PASSED}
    assert checks["open"].to_dict() == {
        "prevalence": "look at it", "metadata": "passed", "HU scale": "look at it", "duplicates": "look at it",
        "slice spacing": "look at it",
    }  # fmt: skip
    tile = summary_tables.checks_tile(checks.reset_index())["tiles"]
    word = "4 to look at: prevalence, HU scale, duplicates, slice spacing"
    assert tile == [{"name": "Data checks", "word": word, "good": False}]
    told = summary_tables.checks_tile(checks.reset_index()[["check", "clean"]])["tiles"]
    assert told == [{"name": "Data checks", "word": "passed", "good": True}]
