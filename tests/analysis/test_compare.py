"""Two prediction tables: the numbers of the study's own analysis, refusals, and how often it errs."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ctlib.analysis import compare
from ctlib.cli.__main__ import main
from ctlib.metrics import Bootstrap, Contrast, arms_of, contrasts

HOW = Bootstrap(400)


def exams(n=60, networks=("a",), seeds=(0,), gain=1.0, rng=None):
    """Predictions of `n` patients, a third of them with disease, one in five with two exams."""
    rng = rng or np.random.default_rng(0)
    patient = np.r_[np.arange(n), np.arange(0, n, 5)]
    label = (patient % 3 == 0).astype(int)
    rows = [
        pd.DataFrame({
            "patient": [f"p{i}" for i in patient], "study": [f"s{i}" for i in range(len(patient))], "label": label,
            "score": 1 / (1 + np.exp(-gain * label - rng.standard_normal(len(patient)))),
            "network": network, "seed": seed,
        })
        for network in networks for seed in seeds
    ]  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def written(folder, **tables):
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return [folder / f"{name}.csv" for name in tables]


def test_the_numbers_are_those_of_the_analysis(tmp_path):
    rng = np.random.default_rng(1)
    one, two = (exams(80, ("a", "b"), (0, 1, 2), gain, rng) for gain in (3.0, 0.2))
    found = compare.compare(*written(tmp_path, one=one, two=two), HOW, 0.05)
    runs, predictions = [], []
    for init, table in (("video", one), ("random", two)):
        for (network, seed), part in table.groupby(["network", "seed"]):
            run_id = f"{init}{network}{seed}"
            runs.append(
                {
                    "run_id": run_id,
                    "task": "t",
                    "backbone": network,
                    "init": init,
                    "fraction": 0.5,
                    "seed": seed,
                }
                | {"status": "finished", "error": None}
            )
            named = part.rename(columns={"patient": "patient_id"})
            predictions.append(named.assign(run_id=run_id, split="test", clip=0, study_label=part["label"]))
    names = ["a", "b"]
    wanted = [
        *(Contrast(n, ((n, "video"),), ((n, "random"),)) for n in names),
        Contrast("both", arms_of(names, "video"), arms_of(names, "random")),
    ]
    expected = contrasts(pd.DataFrame(runs), pd.concat(predictions), wanted, HOW, margin=0.05)
    for column in ("effect", "low", "high", "p_value", "p_holm"):
        assert found.differences[column].tolist() == expected[column].tolist()
    assert found.differences["network"].tolist() == ["a", "b", "mean of 2 networks"]
    assert found.differences["word"].iloc[-1] == "different" and "A − B is +0." in found.sentence()
    assert set(found.aurocs["table"]) == {"A", "B"} and (found.aurocs["ece"] > 0).all()


def test_a_table_of_this_study_and_one_of_a_single_score_are_read(tmp_path):
    plain = exams().drop(columns=["patient", "network", "seed"])
    ours = exams().rename(columns={"patient": "patient_id", "label": "study_label"})
    assert len(compare.read(*written(tmp_path, plain=plain))) == len(plain)
    assert compare.read(*written(tmp_path, ours=ours))["patient"].nunique() == 60


def test_scores_that_are_no_probabilities_are_compared_without_calibration(tmp_path):
    table = exams()
    logits = table.assign(score=np.log(table["score"] / (1 - table["score"])))
    found = compare.compare(*written(tmp_path, logits=logits, scores=table), HOW, 0.05)
    assert found.differences["effect"].tolist() == [0.0]
    assert np.isnan(found.aurocs["brier"].iloc[0]) and found.aurocs["brier"].iloc[1] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="score"), "lacks the column score"),
        (lambda t: t.drop(columns=["patient", "study"]), "has neither patient nor study"),
        (lambda t: t.assign(score=[np.nan, *t["score"][1:]]), "exam s0 has score ''; give a finite number"),
        (lambda t: t.assign(label=[2, *t["label"][1:]]), "exam s0 has label '2'; give 1 for disease"),
        (lambda t: t.assign(label=0), "all 72 rows have label 0"),
        (lambda t: t.assign(seed=0.5), "exam s0 has seed '0.5'; give a whole number"),
        (lambda t: pd.concat([t, t[:1]]), "exam s0 (network a, seed 0, fold 0) is there twice"),
        (lambda t: t[1:], "has 1 row that"),
        (
            lambda t: t.assign(study=["other", *t["study"][1:]]),
            "for example exam s0 (network a, seed 0, fold 0)",
        ),
        (lambda t: t.assign(network="b"), "has 72 rows that"),
        (lambda t: t.assign(label=[0, *t["label"][1:]]), "exam s0 has label"),
        (lambda t: t.assign(patient=["p1", *t["patient"][1:]]), "exam s0 has patient"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_first_example(tmp_path, capsys, change, said):
    paths = written(tmp_path, one=exams(), two=change(exams()))
    with pytest.raises(SystemExit) as left:
        main(["compare", *map(str, paths)])
    told = capsys.readouterr().err
    assert left.value.code == 2 and said in told and "Traceback" not in told
    assert len(re.findall(r"\.csv", told)) >= 1


def test_labels_that_differ_within_a_table_are_refused(tmp_path):
    table = exams(networks=("a", "b"))
    table.loc[0, "label"] = 1 - table.loc[0, "label"]
    with pytest.raises(compare.CompareError, match="exam s0 has label 0 and 1; an exam has one"):
        compare.read(*written(tmp_path, table=table))


def test_the_command_prints_a_table_json_and_a_figure(tmp_path, capsys):
    paths = [str(path) for path in written(tmp_path, one=exams(gain=2.0), two=exams(gain=0.5))]
    for ending in ("svg", "png"):
        figure = tmp_path / f"figure.{ending}"
        with pytest.raises(SystemExit) as left:
            main(["compare", *paths, "--replicates", "400", "--json", "--figure", str(figure)])
        found = json.loads(capsys.readouterr().out)
        assert left.value.code == 0 and figure.stat().st_size > 1000
    assert (
        found["differences"][0]["word"] in ("different", "not decided") and found["aurocs"][0]["table"] == "A"
    )
    with pytest.raises(SystemExit):
        main(["compare", *paths, "--replicates", "400"])
    assert "A − B is +" in capsys.readouterr().out


def test_tables_without_a_difference_are_called_different_as_often_as_asked(tmp_path):
    """Of 100 pairs of random tables at 95 %: 5 are wanted, up to 10 is what chance leaves."""
    rng, named = np.random.default_rng(7), 0
    for _ in range(100):
        paths = written(tmp_path, one=exams(90, rng=rng), two=exams(90, rng=rng))
        named += compare.compare(*paths, Bootstrap(200), 0.0).differences["word"].iloc[0] == "different"
    assert named / 100 < 0.11
