"""What a budget pays for: hours that add up, cuts in their order, and a profile that is accepted."""

import dataclasses
import json
import shutil

import click
import pytest
import yaml

from ctlib.analysis import preregistration
from ctlib.cli import grid as gridcommands
from ctlib.cli import proposal
from ctlib.core import parameters
from ctlib.core.workspace import PROJECT, Places, Workspace
from ctlib.grid import budget
from ctlib.grid import estimate_text as words
from ctlib.grid.budget import ABLATIONS, BESIDE, COMPARED, SEEDS, BudgetError, Comparison, Cut, hours_of
from ctlib.grid.estimate_profile import plan_of_profile, planned
from ctlib.metrics.power import ASSUMED, Design, Scored, smallest_difference

pytestmark = pytest.mark.slow  # ten networks of full size are built once to count what they cost: 15 s

GRID, DATA, PRETRAINING, ANALYSIS = budget.GRID, budget.DATA, budget.PRETRAINING, budget.ANALYSIS


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The profiles `paper` and `demo` in a folder of their own, which compute in that folder too."""
    found = Places(params=tmp_path_factory.mktemp("params"))
    for profile in ("paper", "demo"):
        shutil.copytree(PROJECT / "params" / profile, found.params / profile)
        work = f"{found.params.parent}/work/{profile}"
        for path in (found.params / profile).glob("0*.yaml"):
            text = path.read_text().replace(f'"work/{profile}', f'"{work}')
            path.write_text(text if "work_dir:" in text else f'{text}work_dir: "{work}"\n')
    return found


def comparison_of(values, **changes):
    given = values[ANALYSIS]
    names = given["baseline_init"], given["compared_init"], tuple(given["averaged"])
    return dataclasses.replace(Comparison(*names), **changes)


def workspace_of(values):
    return Workspace.at(values[GRID]["work_dir"])


@pytest.fixture(scope="module")
def paper(places):
    return parameters.load_profile("paper", (), places)


def proposed(values, hours, **changes):
    comparison = comparison_of(values, **changes)
    return budget.propose(workspace_of(values), "paper", values, comparison, hours, measuring=False)


@pytest.fixture(scope="module")
def whole(paper):
    """All of the profile."""
    return proposed(paper, 1e6)


@pytest.fixture(scope="module")
def small(paper):
    return proposed(paper, 300.0)


@pytest.fixture(scope="module")
def grid(paper):
    """The grid whose values are cut."""
    found, setting = planned(workspace_of(paper), "paper", paper[GRID] | paper[DATA], measuring=False)
    made = budget._pretraining(workspace_of(paper), paper, found.runs, setting)
    return budget._Grid(found, setting, paper, comparison_of(paper), made)


def counted_hours(values):
    """Hours of the grid of a profile, as `plan` counts them."""
    made = plan_of_profile(workspace_of(values), "p", values[GRID] | values[DATA], measuring=False)
    return made.work_s / 3600, made


# hours


@pytest.mark.parametrize(
    ("text", "hours"), [("300h", 300), ("300", 300), ("1.5h", 1.5), ("12d", 288), (" 2 h ", 2), ("0.5d", 12)]
)
def test_hours_are_read(text, hours):
    assert hours_of(text) == hours


@pytest.mark.parametrize("text", ["", "h", "0", "0h", "-3h", "300m", "3 weeks", "1e3h", "nan", "inf", "3,5h"])
def test_what_is_no_time_is_refused_in_a_sentence(text):
    with pytest.raises(ValueError, match="is no number of hours above 0; give hours as 300h") as refused:
        hours_of(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.2, 0.06])
def test_hours_are_those_of_the_plan_of_what_is_left(paper, whole, share):
    made = proposed(paper, share * whole.whole_h)
    changed = proposal.proposed_values(paper, made.kept)
    hours, plan = counted_hours(changed)
    assert made.hours == pytest.approx(hours + made.pretraining_h, rel=1e-9)
    assert made.hours <= made.budget_h and made.n_runs + made.n_search == plan.count("runs")
    assert (made.steps == ()) == (share == 1.0)


def test_pretraining_is_counted_where_it_is_still_needed(paper, whole, grid):
    how = paper[PRETRAINING]
    assert 0 < whole.pretraining_h < whole.whole_h and whole.kept["pretrained"] == how["pretrained"]
    cut = [Cut("inits", name) for name in paper[GRID]["inits"] if name not in ("kinetics", "random")]
    assert grid.pretraining_hours(cut) == 0 and grid.kept(cut)["pretrained"] == []
    made = next(one for one in cut if one.value in how["pretrained"])
    one, both = grid.pretraining_hours([made]), grid.pretraining_hours([])
    assert 0 < one < both
    assert grid.pretraining_hours([Cut("backbones", how["backbones"][0])]) < both
    run = grid.runs[0]
    timing = next(t for key, t in grid.setting.timings.items() if key[0] == run.backbone)
    (seconds,) = {m.seconds for m in grid.made if (m.backbone, m.init) == (run.backbone, "ct_rspect")}
    drawn = how["pretrain_steps_per_epoch"] * how["pretrain_batch_size"]
    heldout = grid.setting.sizes["rspect"].clips["val"]
    # no less than its steps take; more only where clips are cut slower than that
    least = how["pretrain_epochs"] * (drawn * timing.train_s + heldout * timing.predict_s) / run.batch_size
    assert least * (1 - 1e-9) <= seconds < 2 * least


def test_a_search_run_that_is_in_the_grid_counts_once_and_stays_when_its_fraction_goes(grid, paper):
    fraction = paper[GRID]["lr_fraction"]
    whole, cut = grid.counts([]), grid.counts([Cut("fractions", fraction)])
    rates = paper[GRID]["lr_rates"]
    arms = {(run.task, run.backbone, run.init) for run in grid.runs}
    both = {
        (run.task, run.backbone, run.init)
        for run in grid.runs
        if (run.fraction, run.fold, run.control) == (fraction, 0, "none")
    }
    assert whole[1] == len(rates) * len(arms) - len(both)
    assert cut[1] == len(rates) * len(arms) and (not both or cut[0] < whole[0])


# what goes


def stages(grid, cuts):
    return [grid.stage(cut, cuts[:i]) for i, cut in enumerate(cuts)]


def test_cuts_come_in_their_stages(grid):
    cuts = []
    while (cut := grid.best(cuts)) is not None:
        cuts.append(cut)
    found = stages(grid, cuts)
    assert found == sorted(found) and set(found) == set(budget.STAGES)
    assert all(
        ":" in str(c.value) or c.axis == "controls"
        for c, s in zip(cuts, found, strict=True)
        if s == ABLATIONS
    )
    kept = grid.kept(cuts)
    assert {name: len(kept[name]) for name in ("averaged", "seeds", "folds", "fractions", "controls")} == {
        "averaged": 2, "seeds": 1, "folds": 1, "fractions": 1, "controls": 0,
    }  # fmt: skip
    assert kept["inits"] == [n for n in grid.values["inits"] if n in ("random", "kinetics")]
    assert kept["fractions"] == [max(grid.values["fractions"])] and kept["two_d"] == []
    seeds = [i for i, cut in enumerate(cuts) if cut.axis == "seeds"]
    assert seeds[0] > max(i for i, stage in enumerate(found) if stage in (BESIDE, COMPARED))
    assert found[seeds[0]] == SEEDS


def test_within_a_stage_the_cut_saves_most_hours_for_its_rise(grid):
    cuts = []
    while (cut := grid.best(cuts)) is not None and grid.stage(cut, cuts) < COMPARED:
        cuts.append(cut)

    def worth(one):
        after = grid.differences([*cuts, one])
        rise = sum(after.values()) - sum(grid.differences(cuts).values())
        return (grid.hours(cuts) - grid.hours([*cuts, one])) / rise

    others = [one for one in grid.gone_by if grid.stage(one, cuts) == COMPARED]
    assert len(others) > 3 and worth(cut) == max(map(worth, others))


def test_nothing_that_was_cut_fits_again(grid, small):
    cuts = [step.cut for step in small.steps]
    for cut in cuts:
        fewer = [other for other in cuts if other != cut]
        assert grid.hours(fewer) > small.budget_h or grid.hours(fewer) == grid.hours(cuts)


def test_steps_lead_from_the_whole_profile_to_the_proposal(small, whole):
    hours = small.whole_h
    assert hours == whole.hours
    for step in small.steps:
        assert step.saved >= 0 and step.hours == pytest.approx(hours - step.saved)
        assert all(step.after[name] >= step.before[name] for name in step.before)
        hours = step.hours
    assert hours == pytest.approx(small.hours)
    assert [step.before for step in small.steps[1:]] == [step.after for step in small.steps[:-1]]


def test_the_smallest_differences_are_those_of_the_power_sheet(small, grid):
    for _, row in small.power.iterrows():
        size = grid.setting.sizes["rspect" if row["task"] == "rspect_pe" else "lidc"]
        folds = row["folds"]
        scored = Scored(
            folds * size.positive["test"], folds * (size.patients["test"] - size.positive["test"]), folds
        )
        assert row["networks"] == len(small.kept["averaged"]) and row["seeds"] == len(small.kept["seeds"])
        for r in (0.8, 0.5):
            design = Design(row["networks"], row["seeds"], correlation=r, of_seeds=ASSUMED["full"])
            assert row[f"r={r:g}"] == smallest_difference(scored, design)
            assert row[f"whole, r={r:g}"] <= row[f"r={r:g}"]
    assert small.steps[-1].after == dict(zip(small.power["task"], small.power["r=0.5"], strict=True))


def test_the_same_is_proposed_again(paper, small):
    again = proposed(paper, 300.0)
    assert words.proposal_object(again) == words.proposal_object(small)


def test_what_a_plan_fixes_stays(paper, whole):
    made = proposed(paper, 0.4 * whole.whole_h, fixed=frozenset({"seeds", "inits"}))
    assert made.kept["seeds"] == paper[GRID]["seeds"] and made.kept["inits"] == paper[GRID]["inits"]
    assert {step.cut.axis for step in made.steps} >= {"controls", "backbones"}


def test_given_up_is_said_of_all_that_is_gone(small, paper):
    text = "\n".join(small.given_up)
    for axis in ("inits", "controls", "backbones", "fractions", "lr_rates"):
        for value in set(paper[GRID][axis]) - set(small.kept[axis]):
            assert f"{value:g}" in text if isinstance(value, float) else str(value) in text
    assert all(line.endswith(".") for line in small.given_up)


def test_a_budget_below_the_least_is_refused_with_its_hours(paper):
    with pytest.raises(
        BudgetError, match=r"2 h is less than profile 'paper' needs: the least .* takes [\d.]+ h\.$"
    ):
        proposed(paper, 2.0)


def test_a_profile_without_its_comparison_is_refused(paper):
    with pytest.raises(ValueError, match="no task has an averaged network from both video and random"):
        proposed(paper, 300.0, compared="video")


# the command, and the profile that it writes


def call(places, *arguments):
    group = click.Group(commands={command.name: command for command in gridcommands.COMMANDS})
    group.main([*arguments], standalone_mode=False, obj=places)


def folders(places):
    return sorted(path.name for path in places.params.iterdir())


@pytest.fixture
def elsewhere(places, tmp_path):
    """A copy, in which a test may write."""
    shutil.copytree(places.params, tmp_path / "params")
    return Places(params=tmp_path / "params")


def test_the_profile_that_is_written_is_accepted_and_fits(elsewhere, capsys):
    call(elsewhere, "plan", "paper", "--budget", "300h", "--no-calibration")
    told = capsys.readouterr().out
    assert folders(elsewhere) == ["demo", "paper", "paper-300h"]
    assert "300 hours are asked" in told and "Given up" in told and "paper-300h was written" in told
    assert max(map(len, "\n\n".join(told.split("\n\n")[:-1]).splitlines())) < 120  # but for paths
    values = parameters.load_profile("paper-300h", (), elsewhere)
    made = proposed(parameters.load_profile("paper", (), elsewhere), 300.0)
    hours, plan = counted_hours(values)
    assert hours + made.pretraining_h <= 300 and plan.n_todo == made.n_runs + made.n_search
    assert values[GRID]["work_dir"].endswith("/work/paper-300h")
    assert values[ANALYSIS]["notes_file"] == f"{values[GRID]['work_dir']}/notes.csv"
    assert values[DATA]["rspect_root"] == "data/rspect"
    preregistration.require("paper-300h", elsewhere)
    fixed, before = (preregistration.read(name, elsewhere) for name in ("paper-300h", "paper"))
    assert fixed.averaged == values[ANALYSIS]["averaged"] == made.kept["averaged"]
    assert {*fixed.averaged, *fixed.two_d} <= set(values[GRID]["backbones"])
    assert (fixed.seeds, fixed.fractions) == (values[GRID]["seeds"], values[GRID]["fractions"])
    assert set(fixed.in_domain) <= set(values[GRID]["inits"])
    same = ("population", "tasks", "metric", "margin", "exclusions", "stopping", "level")
    assert [getattr(fixed, name) for name in same] == [getattr(before, name) for name in same]
    for path in (elsewhere.params / "paper-300h").glob("0*.yaml"):
        declared = parameters.declared_parameters(PROJECT / "notebooks" / f"{path.stem}.ipynb")
        given = yaml.safe_load(path.read_text())
        assert [key for key in given if key != "profile" and given[key] == declared[key].default] == []
        head = path.read_text().split("\n\n")[0]
        assert (
            all(word in head for word in ("Time", "ardware", "Expect"))
            and max(map(len, head.splitlines())) < 200
        )
    call(elsewhere, "params", "paper-300h")
    call(elsewhere, "plan", "paper-300h", "--json", "--no-calibration")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["work_s"] <= 300 * 3600


def test_nothing_is_overwritten(elsewhere, capsys):
    arguments = ("plan", "paper", "--budget", "300", "--no-calibration", "--write", "mine")
    call(elsewhere, *arguments)
    path = elsewhere.params / "mine" / "plan.yaml"
    later = path.read_text().replace('fixed_on: "20', 'fixed_on: "19')
    path.write_text(later)
    capsys.readouterr()
    call(elsewhere, *arguments)
    assert "mine says just this already" in capsys.readouterr().out and path.read_text() == later
    path.write_text(later.replace("margin: ", "margin: 0"))
    with pytest.raises(
        click.ClickException, match=r"exists and says something else .* another name with --write"
    ):
        call(elsewhere, *arguments)
    with pytest.raises(click.ClickException, match="params/paper exists and says something else"):
        call(elsewhere, *arguments[:-1], "paper")
    assert path.read_text() == later.replace("margin: ", "margin: 0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--budget", "three"), "--budget: 'three' is no number of hours above 0"),
        (("--budget", "1h"), "1 h is less than profile 'paper' needs"),
        (("--budget", "300h", "--write", "../mine"), "--write '../mine' is no name of a profile"),
        (("--write", "mine"), "--write is the profile of a proposal: give --budget, too."),
    ],
)
def test_what_cannot_be_proposed_is_refused_and_nothing_is_written(places, arguments, told):
    with pytest.raises(click.ClickException) as refused:
        call(places, "plan", "paper", "--no-calibration", *arguments)
    assert refused.value.exit_code == 2 and told in str(refused.value) and "\n" not in str(refused.value)
    assert folders(places) == ["demo", "paper"]


def test_a_profile_that_fits_is_not_written(places, capsys):
    call(places, "plan", "paper", "--no-calibration", "--budget", "1000d", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["written"], found["given_up"]) == ([], None, [])
    call(places, "plan", "paper", "--no-calibration", "--budget", "1000d")
    assert "all of it fits, and nothing is cut." in " ".join(capsys.readouterr().out.split())
    assert folders(places) == ["demo", "paper"]


def test_questions_that_lose_their_inits_leave_the_plan(elsewhere, capsys):
    call(elsewhere, "plan", "demo", "--no-calibration", "--budget", "1000", "--json")
    whole = json.loads(capsys.readouterr().out)["whole_h"]
    call(
        elsewhere,
        "plan",
        "demo",
        "--no-calibration",
        "--budget",
        f"{0.3 * whole:.6f}",
        "--write",
        "less",
        "--json",
    )
    found = json.loads(capsys.readouterr().out)
    assert found["hours"] <= 0.3 * whole and len(found["kept"]["averaged"]) >= preregistration.FEWEST_NETWORKS
    preregistration.require("less", elsewhere)
    fixed = preregistration.read("less", elsewhere)
    assert len(fixed.questions) < len(preregistration.read("demo", elsewhere).questions)
    assert all(set(asked.inits) <= set(found["kept"]["inits"]) for asked in fixed.questions)
    asked = preregistration.read("demo", elsewhere).fixed  # exceptions go with the networks that are cut
    assert [t.split("=")[0] for t in fixed.fixed] == [t.split("=")[0] for t in asked]
    assert sum(line.startswith("Question of its plan: ") for line in found["given_up"]) == 4 - len(
        fixed.questions
    )


def test_a_fixed_exception_goes_with_its_network():
    text = "pretrain_exceptions=[csn_r101.lr=0.006, penet.lr=0.002]"
    for left in (["csn_r101.lr=0.006", "penet.lr=0.002"], ["penet.lr=0.002"], []):
        told = proposal._still(text, {"02_pretrain": {"pretrain_exceptions": left}, "03": {"exceptions": []}})
        assert preregistration.fixed(told) == ("pretrain_exceptions", left)
    assert proposal._still("epochs=4", {}) == "epochs=4"


def test_what_is_set_is_in_the_profile_that_is_written(elsewhere, capsys):
    sets = ("--set", "03.seeds=[7, 8]", "--set", "epochs=40")
    call(elsewhere, "plan", "paper", "--no-calibration", "--budget", "300", "--write", "mine", *sets)
    values, fixed = parameters.load_profile("mine", (), elsewhere), preregistration.read("mine", elsewhere)
    assert values[GRID]["seeds"] == fixed.seeds == [7, 8] and values[GRID]["epochs"] == 40
    head = (elsewhere.params / "mine" / f"{GRID}.yaml").read_text().splitlines()[0]
    assert all(name in head for name in ("seeds", "epochs", "backbones"))
