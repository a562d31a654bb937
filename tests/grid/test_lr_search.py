"""Learning rates are those asked for, those published, or the best of a search with one budget for all."""

import numpy as np
import pandas as pd
import pytest
from noise_cohort import SETTINGS, write_cohort

from ctlib.core import tables
from ctlib.core.workspace import PROJECT, Workspace
from ctlib.grid.engine import Engine
from ctlib.grid.execute import expand, search
from ctlib.grid.lr_search import PUBLISHED, accuracies_of, chosen, fixed, of_table
from ctlib.training.results import collect
from ctlib.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


def run(lr: float, init: str = "random", task: str = "lidc_nodule") -> Run:
    return Run(task, "slow_r50", init, fraction=0.1, seed=0, lr=lr, data="d", weights="", **SETTINGS)


def results(runs: list[Run], aurocs: list[float | None]) -> pd.DataFrame:
    rows = [
        {"run_id": one.run_id, "status": "failed" if auroc is None else "finished", "val_auroc": auroc}
        | {"error": "FitError: the loss is nan." if auroc is None else None}
        for one, auroc in zip(runs, aurocs, strict=True)
    ]
    return pd.DataFrame(rows)


def test_a_number_serves_all_and_published_is_by_task_network_and_start():
    arms = [("lidc_nodule", "slow_r50", "random"), ("rspect_pe", "csn_r101", "kinetics400")]
    assert fixed("0.004", arms) == dict.fromkeys(arms, 0.004)
    assert fixed("published", arms) == {arms[0]: 1e-3, arms[1]: 1e-4}
    assert fixed("published", [("lidc_nodule", "slow_r50", "frozen:random")]).popitem()[1] == 1e-3
    assert fixed("search", arms) is None
    with pytest.raises(ValueError, match="lr is 'fast'; give a number, published or search"):
        fixed("fast", arms)
    with pytest.raises(ValueError, match="none was published for lidc_nodule resnet18, rspect_pe x3d_m"):
        fixed("published", [("lidc_nodule", "resnet18", "random"), ("rspect_pe", "x3d_m", "random")])


def test_the_published_rates_are_those_of_the_protocol():
    """Value by value: each row of the table in docs/protocol.md."""
    text = (PROJECT / "docs" / "protocol.md").read_text()
    rows = text[text.index("| network | rspect_pe | lidc_nodule |") :].split("\n\n")[0].splitlines()[2:]
    told = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        key = "lrcn_resnext101" if name.startswith("LRCN") else name
        for task, cell in zip(("rspect_pe", "lidc_nodule"), cells, strict=True):
            if cell:
                both = [float(side.split(" or ")[0].split(" (")[0]) for side in cell.split(" / ")]
                told[task, key] = (both[0], both[-1])
    assert told == PUBLISHED


def test_the_best_rate_of_each_arm_is_chosen_and_a_failed_one_is_not():
    runs = [run(1e-1), run(1e-2), run(1e-3), run(1e-2, "video"), run(1e-3, "video")]
    table = chosen(runs, results(runs, [None, 0.7, 0.6, 0.5, 0.9]))
    assert of_table(table) == {
        ("lidc_nodule", "slow_r50", "random"): 1e-2,
        ("lidc_nodule", "slow_r50", "video"): 1e-3,
    }
    assert len(table) == 5 and table["chosen"].sum() == 2


def test_accuracy_may_choose_another_rate_than_auroc():
    """Scores above 0.5 for all rank exams as well as any, and call every one of them ill."""
    runs = [run(1e-2), run(1e-3)]
    studies = pd.DataFrame({"split": "val", "patient_id": list("pqrs"), "study": list("pqrs"), "clip": 0})
    studies = studies.assign(label=[0, 0, 1, 1], study_label=[0, 0, 1, 1])
    high = studies.assign(run_id=runs[0].run_id, score=[0.6, 0.7, 0.8, 0.9])
    apart = studies.assign(run_id=runs[1].run_id, score=[0.1, 0.6, 0.55, 0.9])
    unseen = high.assign(split="test", score=0.0)
    right = accuracies_of(pd.concat([high, apart, unseen]))
    assert right.to_dict() == {runs[0].run_id: 0.5, runs[1].run_id: 0.75}
    found = results(runs, [1.0, 0.75])
    assert of_table(chosen(runs, found, right)).popitem()[1] == 1e-2
    table = chosen(runs, found, right, by="accuracy")
    assert of_table(table).popitem()[1] == 1e-3 and table["val_accuracy"].tolist() == [0.75, 0.5]
    with pytest.raises(ValueError, match="lr_by is 'loss'; known are auroc, accuracy"):
        chosen(runs, found, right, by="loss")


def test_of_equal_rates_the_lowest_is_chosen():
    runs = [run(1e-1), run(1e-3), run(1e-2)]
    assert of_table(chosen(runs, results(runs, [0.7, 0.7, 0.6]))).popitem()[1] == 1e-3


def test_an_arm_without_any_auroc_is_named():
    runs = [run(1e-1), run(1e-2)]
    with pytest.raises(
        ValueError, match=r"none of 0\.01, 0\.1 gave a validation AUROC for lidc_nodule slow_r50"
    ):
        chosen(runs, results(runs, [None, np.nan]))


def test_a_search_gives_every_init_the_same_budget_and_its_runs_serve_the_grid(tmp_path):
    workspace = Workspace(tmp_path)
    write_cohort(workspace, "lidc")
    arms = (["lidc_nodule"], ["resnet18"], ["random", "frozen:random"])
    lines: list[str] = []
    table = search(workspace, *arms, [1e-2, 1e-3], 0.5, 0, Engine(0), lines.append, **SETTINGS)
    assert table.groupby("init").size().tolist() == [2, 2] and (table["status"] == "finished").all()
    assert tables.read("search", workspace.table("search")).equals(table)
    runs = expand(workspace, *arms, [0.5, 1.0], [0], of_table(table), **SETTINGS)
    assert {run.init: run.lr for run in runs} == {init: lr for (_, _, init), lr in of_table(table).items()}
    done = collect(workspace, runs)["runs"].set_index("fraction")["status"]
    assert (done[0.5] == "finished").all() and (done[1.0] == "missing").all()
