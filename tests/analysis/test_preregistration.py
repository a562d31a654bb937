"""The plan that is fixed beforehand: its hash, what is refused, and when a workspace met it."""

import json
import re
import shutil

import pytest
import yaml
from sample_project import project

from ctlib.analysis import preregistration
from ctlib.cli import notebooks
from ctlib.core.parameters import ParameterError, load_profile
from ctlib.core.workspace import HOME, PROJECT, Places, Workspace

PROFILES = sorted(path.parent.name for path in (PROJECT / "params").glob("*/04_analyze.yaml"))
TEXT = (PROJECT / "params" / "demo" / "plan.yaml").read_text()


def places_with(tmp_path, text):
    folder = tmp_path / "params" / "mine"
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text(text)
    return Places(params=tmp_path / "params")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_that_is_analyzed_has_a_plan_that_fits_its_parameters(profile):
    plan, values = preregistration.read(profile), load_profile(profile)
    assert plan is not None, f"params/{profile}/plan.yaml is missing"
    analyze = values["04_analyze"]
    for name in ("baseline_init", "compared_init", "averaged", "study_score_rule", "level"):
        assert getattr(plan, name) == analyze[name], name
    if "03_finetune_grid" in values:
        grid = values["03_finetune_grid"]
        assert set(plan.averaged) | set(plan.two_d) <= set(grid["backbones"])
        assert {plan.baseline_init, plan.compared_init} <= set(preregistration.inits_with_heads(grid))
        for name in ("tasks", "fractions", "seeds"):
            assert getattr(plan, name) == grid[name], name


def test_the_hash_is_of_what_is_said_not_of_how(tmp_path):
    first = preregistration.read("demo").hash
    reordered = dict(reversed(yaml.safe_load(TEXT).items()))
    other = "# another comment\n" + yaml.safe_dump(reordered, sort_keys=False)
    assert preregistration.read("mine", places_with(tmp_path / "a", other)).hash == first
    assert re.fullmatch("[0-9a-f]{12}", first)
    for old, new in (
        ("\nmargin: 0.05", "\nmargin: 0.06"),
        ("seeds: [70, 71, 72, 73, 74]", "seeds: [70, 71]"),
    ):
        changed = places_with(tmp_path / new.strip()[:5], TEXT.replace(old, new))
        assert preregistration.read("mine", changed).hash != first


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\nmargin: 0.05", "\nmargn: 0.05", "margn is not known; the nearest name is 'margin'"),
        ("\nmargin: 0.05", "", "margin is missing; give it a float"),
        ("\nmargin: 0.05", "\nmargin: 5.0", "margin is 5; give a number between 0 and 1"),
        ("level: 0.95", "level: high", "level: it is 'high', which is str, but must be float"),
        ('metric: "auroc"', 'metric: "f1"', "metric is 'f1'; known are auroc"),
        ("seeds: [70, 71, 72, 73, 74]", "seeds: []", "seeds is empty"),
        ("level: 0.95", "level: [", "is no YAML"),
        ('    rule: "trend"', "", "question 2: rule is missing; give it a str"),
        (
            '    rule: "trend"',
            '    rule: "slope"',
            "question more: rule is 'slope'; known are superiority, trend",
        ),
        ("    margin: 0.15", "", "question 3: margin is missing; give it a float"),
        ("    margin: 0.15", "    margin: 2.0", "question draws: margin is 2; give a number between 0 and 1"),
        ('    inits: ["video", "video_b"]', "", "question 3: inits is missing; give it a list[str]"),
        (
            '    wanted: "rising"',
            '    wanted: "shown"',
            "question more: wanted is 'shown'; rule trend gives rising",
        ),
        ("doses: [0.0, 0.333, 1.0]", "doses: [0.0, 1.0]", "rule trend needs three inits or more"),
        (
            'averaged: ["slow_r50", ',
            'averaged: ["slow_r50"] # ',
            "averaged names 1 networks; questions need 3",
        ),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path, old, new, said):
    with pytest.raises(ParameterError, match=re.escape(said)):
        preregistration.read("mine", places_with(tmp_path, TEXT.replace(old, new)))


def test_questions_are_a_list(tmp_path):
    text = yaml.safe_dump(yaml.safe_load(TEXT) | {"questions": "none"})
    with pytest.raises(ParameterError, match="questions is 'none'; give a list of questions"):
        preregistration.read("mine", places_with(tmp_path, text))


def test_a_profile_without_a_plan_says_so(tmp_path):
    assert preregistration.read("mine", Places(params=tmp_path)) is None
    assert preregistration.facts("mine", Places(params=tmp_path)).startswith("none: ")
    assert preregistration.facts("demo", HOME).startswith(preregistration.read("demo").hash)


def test_a_workspace_remembers_when_it_met_a_plan(tmp_path):
    work = Workspace(tmp_path)
    first = preregistration.read("demo")
    other = preregistration.read(
        "mine", places_with(tmp_path, TEXT.replace("\nmargin: 0.05", "\nmargin: 0.06"))
    )
    assert [e["n_finished"] for e in preregistration.remember(work, first)] == [0]
    (work.runs / "ab12").mkdir(parents=True)
    (work.runs / "ab12" / "result.json").write_text("{}")
    met = preregistration.remember(work, other)
    assert [(e["hash"], e["n_finished"]) for e in met] == [(first.hash, 0), (other.hash, 1)]
    assert preregistration.remember(work, first) == met  # one that was met before is no change


def test_every_header_shows_the_hash_and_the_workspace_remembers(tmp_path, capsys):
    places = project(tmp_path, [])
    (places.params / "small" / "plan.yaml").write_text(TEXT)
    values = load_profile("small", (), places)["01_step"]  # a plan is no notebook's file, and no stranger
    notebooks.header("01_step", values, places)
    wanted = preregistration.read("small", places).hash
    assert f"plan: {wanted}" in capsys.readouterr().out
    met = json.loads((Workspace.at(values["work_dir"]).root / "plans.json").read_text())
    assert [entry["hash"] for entry in met] == [wanted]


def test_plans_are_flat_and_commented():
    for path in (PROJECT / "params").glob("*/plan.yaml"):
        assert path.read_text().startswith("# "), path
        assert all(not isinstance(value, dict) for value in yaml.safe_load(path.read_text()).values())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"r3d_18"', '"astra"', "astra is not among backbones of 03_finetune_grid"),
        ('["video", "video_b"]', '["video", "video_c"]', "video_c is not among inits of 03_finetune_grid"),
        (
            "phantom_seed=400",
            "phantom_sed=300",
            "fixed names phantom_sed, which no notebook has; the nearest name",
        ),
        (
            "phantom_seed=400",
            "phantom_seed=1",
            "fixed has 'phantom_seed=1', but 01_explore_data.phantom_seed is 400",
        ),
    ],
)
def test_a_plan_that_does_not_fit_its_parameters_is_refused_before_anything_runs(tmp_path, old, new, said):
    folder = tmp_path / "params" / "demo"
    shutil.copytree(PROJECT / "params" / "demo", folder)
    (folder / "plan.yaml").write_text(TEXT.replace(old, new))
    with pytest.raises(ParameterError, match=re.escape(said)):
        preregistration.require("demo", Places(params=tmp_path / "params"))


def test_the_plans_of_all_profiles_fit_their_parameters():
    for profile in PROFILES:
        preregistration.require(profile)


def test_the_register_has_its_columns_and_each_attempt_a_plan(tmp_path):
    rows = preregistration.attempts("demo")
    assert len(rows) >= 3 and all(re.fullmatch("[0-9a-f]{12}", row["plan"]) for row in rows)
    assert preregistration.attempts("lidc") == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "attempts.csv").write_text("day,plan\n")
    with pytest.raises(ParameterError, match="has columns"):
        preregistration.attempts("mine", Places(params=tmp_path))
