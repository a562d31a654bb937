"""Published cells: read or refused, and what they say, by hand and of the committed table."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from ctlib.analysis import published
from ctlib.analysis.published import Arms, Comparison, How, PublishedError, Reading
from ctlib.core.workspace import PROJECT

TABLE = PROJECT / "params" / "published" / "ke2023_table1.csv"
VIDEO = Comparison("3D", "video", "none")


@pytest.fixture(scope="module")
def ke2023():
    return Reading(published.read(TABLE), Arms(), How())


def cells(*rows, kind="3D"):
    """Cells of one task and fraction: network, arm, auc, half the width of the interval."""
    table = pd.DataFrame(rows, columns=["network", "arm", "auc", "half"])
    ends = {"low": table["auc"] - table["half"], "high": table["auc"] + table["half"]}
    return table.assign(kind=kind, chain="", task="PE", fraction=1.0, **ends)


def written(tmp_path, table):
    path = tmp_path / "cells.csv"
    table.to_csv(path, index=False)
    return path


# ---- the committed table --------------------------------------------------------------------


def test_the_effects_are_those_of_the_printed_cells(ke2023):
    """Means over networks and their intervals, as they come out by hand from the 70 cells."""
    wanted = {
        ("RSNA", 0.01): (0.006, -0.013, 0.025), ("RSNA", 0.1): (0.074, 0.026, 0.122),
        ("RSNA", 1.0): (0.146, 0.096, 0.196), ("LIDC", 0.1): (0.077, 0.008, 0.147),
        ("LIDC", 1.0): (0.124, 0.032, 0.216),
    }  # fmt: skip
    for row in ke2023.video.itertuples():
        assert (row.effect, row.low, row.high) == pytest.approx(wanted[row.task, row.fraction], abs=5e-4)
    assert list(ke2023.video["word"]) == ["equivalent", "gain", "gain", "not decided", "gain"]


def test_most_cells_did_not_show_that_they_learned(ke2023):
    assert [ke2023.at_chance(arm) for arm in ("none", "video", "ct")] == ["31 of 35", "16 of 35", "23 of 28"]
    both = ke2023.video_pairs.query("both_learned")["effect"]
    assert len(both) == 4 and (both.min(), both.max()) == pytest.approx((0.107, 0.155), abs=5e-4)


def test_3d_networks_lie_below_2d_ones_on_the_mean_and_one_network_carries_the_best(ke2023):
    assert (ke2023.against_2d()["effect"] < 0).all() and len(ke2023.against_2d()) == 5
    assert ke2023.impure == ["Swin-T"]
    assert (ke2023.against_2d()["advantage"] > 0).sum() == 3
    assert (ke2023.against_2d(ke2023.impure)["advantage"] > 0).sum() == 1


def test_ct_after_video_is_no_gain(ke2023):
    rsna = ke2023.sequential.query("task == 'RSNA'")["effect"].round(3).tolist()
    assert rsna == [-0.07, -0.112] and "gain" not in set(ke2023.sequential["word"])


def test_what_is_odd_is_found_by_rule(ke2023):
    found = published.oddities(ke2023.cells)
    assert len(found) == 18
    told = dict(zip(found["cell"], found["what"], strict=True))
    assert "outside its interval" in told["MViT, ct, RSNA 100%"]
    assert "PENet, ct, RSNA 10%; PENet, video+ct, RSNA 10%" in told
    assert "ResNet-18, none, RSNA 1%; ResNext-101, none, RSNA 1%" in told


def test_the_mean_stands_beside_the_smallest_and_the_largest_network(ke2023):
    row = published.means(ke2023.cells).query("kind == '3D' and arm == 'video' and task == 'RSNA'").iloc[-1]
    assert (row["auc"], row["low"], row["high"]) == pytest.approx((0.719, 0.637, 0.902), abs=5e-4)
    assert row["best"] == "Swin-T"


def test_the_sentences_state_what_the_tables_do(ke2023):
    one, two, three, four = ke2023.sentences()
    assert one.startswith("Claim 1") and "inconclusive" in one and "+0.146 (+0.096 to +0.196)" in one
    assert "5 of 5" in two and "without Swin-T" in two
    assert "supported" in three and "23 of 28" in three and "−0.112" in four


def test_the_committed_report_says_the_same(ke2023):
    page = (PROJECT / "reports" / "published" / "00_published.html").read_text(encoding="utf-8")
    plain = " ".join(re.sub(r"<[^>]+>", "", page).split())
    for sentence in ke2023.sentences():
        assert sentence in plain
    readme = " ".join((PROJECT / "README.md").read_text(encoding="utf-8").split())
    for row in ke2023.video.itertuples():
        assert f"{row.effect:+.3f} ({row.low:+.3f} to {row.high:+.3f})".replace("-", "−") in readme


# ---- by hand ----------------------------------------------------------------------------------


def test_an_effect_is_the_mean_of_pairs_with_students_interval():
    table = cells(
        ("a", "video", 0.7, 0.1), ("a", "none", 0.6, 0.1), ("b", "video", 0.8, 0.1), ("b", "none", 0.5, 0.1),
        ("c", "video", 0.9, 0.1),
    )  # fmt: skip
    [row] = published.effects(table, VIDEO, How()).to_dict("records")
    half = t.ppf(0.975, 1) * np.std([0.1, 0.3], ddof=1) / np.sqrt(2)
    assert (row["effect"], row["low"], row["networks"]) == pytest.approx((0.2, 0.2 - half, 2))
    assert published.unpaired(table, VIDEO) == ["c, video, PE 100%"]


def test_a_table_of_few_networks_and_arms_is_read_without_an_answer():
    """One network, equal differences, and arms that are not there: no interval, no word, no error."""
    one = cells(("a", "video", 0.7, 0.1), ("a", "none", 0.6, 0.1))
    alike = cells(*((n, arm, auc, 0.1) for n in "ab" for arm, auc in (("video", 0.75), ("none", 0.5))))
    for table, networks in ((one, 1), (alike, 2)):
        read = Reading(table, Arms(), How())
        [row] = read.video.to_dict("records")
        assert row["networks"] == networks and row["word"] == "no answer" and np.isnan(row["p_holm"])
        assert read.ct.empty and read.against_2d().empty and read.sequential.empty
        for shown in (published.effect_table, published.left_out_table):
            assert len(shown(published.leave_out(table, VIDEO, How()))) >= networks
        assert len(published.effect_table(read.ct)) == len(published.kinds_table(read.against_2d())) == 0
        assert "no comparison" in read.sentences()[2] and "no interval" in read.sentences()[0]


def test_random_effects_add_what_networks_share_and_never_take_away():
    """Equal differences leave the errors alone: 1'V1 / n^2 by hand; with spread, tau^2 / n comes on top."""
    first, second = np.full(4, 0.03), np.full(4, 0.04)
    shared = 0.5 * 0.01**2 + 0.5 * (0.03**2 + 0.04**2) / 4
    assert published.random_effects_se(np.full(4, 0.1), first, second, 0.5) == pytest.approx(np.sqrt(shared))
    values = np.array([-0.3, -0.1, 0.1, 0.3])
    beyond = np.var(values, ddof=1) - 0.5 * (0.03**2 + 0.04**2)
    wanted = np.sqrt(beyond / 4 + shared)
    assert published.random_effects_se(values, first, second, 0.5) == pytest.approx(wanted)


def test_the_best_of_many_beats_the_best_of_few_by_chance():
    """Equal networks with independent errors of 0.03: the gap of the largest of seven and of three normals."""
    half = 0.03 * 1.959964
    table = pd.concat([
        cells(*((f"n{i}", "video", 0.7, half) for i in range(7))),
        cells(*((f"m{i}", "imagenet", 0.7, half) for i in range(3)), kind="2D"),
    ])  # fmt: skip
    table.loc[table["network"] == "n0", "auc"] += 0.001
    [row] = published.between_kinds(
        table, ("3D", "video"), ("2D", "imagenet"), How(correlations=(0.0,), draws=100_000)
    ).to_dict("records")
    assert row["by_choice"] == pytest.approx(0.03 * (1.3522 - 0.8463), abs=5e-4)
    assert row["best_first"] == "n0" and row["p_choice"] > 0.5


def test_simulated_tables_without_an_effect_are_called_gains_as_often_as_asked():
    rng, named = np.random.default_rng(3), 0
    for _ in range(400):
        rows = [
            (f"n{i}", arm, 0.75 + 0.05 * rng.standard_normal(), 0.06)
            for i in range(7)
            for arm in ("video", "none")
        ]
        named += published.effects(cells(*rows), VIDEO, How(margin=0.0))["word"].iloc[0] in ("gain", "loss")
    assert 0.03 < named / 400 < 0.075


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="low"), "lacks the column low"),
        (lambda t: t.rename(columns={"network": "netwrok"}), "the nearest name is 'netwrok'"),
        (lambda t: t.assign(auc=[1.2, 0.6]), "row 2: auc is '1.2'; give a number from 0 to 1"),
        (lambda t: t.assign(high=["0.7", "n/a"]), "row 3: high is 'n/a'"),
        (lambda t: t.assign(fraction=[1, 0]), "row 3: fraction is 0"),
        (lambda t: t.assign(arm="video"), "row 3: a, video, PE 100% is there twice"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, change, said):
    good = cells(("a", "video", 0.7, 0.1), ("a", "none", 0.6, 0.1)).drop(columns="half")
    assert len(published.read(written(tmp_path, good))) == 2
    with pytest.raises(PublishedError, match=re.escape(said)) as refused:
        published.read(written(tmp_path, change(good)))
    assert "cells.csv" in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(
        PublishedError, match=r"none\.csv is missing; give a CSV with the columns network, kind"
    ):
        published.read(tmp_path / "none.csv")


def test_a_chain_need_not_be_known(tmp_path):
    good = cells(("a", "video", 0.7, 0.1), ("a", "none", 0.6, 0.1)).drop(columns=["half", "chain"])
    found = published.read(written(tmp_path, good))
    assert Reading(found, Arms(), How()).impure == []


def test_the_notebook_is_about_this_table():
    book = json.loads((PROJECT / "notebooks" / "00_published.ipynb").read_text())
    assert any(TABLE.name in "".join(cell["source"]) for cell in book["cells"])
