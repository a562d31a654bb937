"""All arms of the paper, and the one that it leaves open, on phantoms: from pretraining to the report."""

import subprocess

import pandas as pd
import pytest
from protocol_choices import parameters_of
from test_demo import command

from ctlib.core import read_json, tables
from ctlib.core.workspace import Workspace
from ctlib.models.registry import file_name
from ctlib.models.weights.load import Init, build_network, save_weights

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1800)]
NETWORKS = ["slow_r50", "resnet18"]
MADE = ["ct_rspect", "ct_lidc", "video+ct_rspect", "video+ct_lidc", "photos+ct_rspect", "photos+ct_lidc"]
UNLABELLED = ["video+ct_rspect_ssl", "video+ct_lidc_ssl"]
LEFT_OUT = ["lidc_nodule 1%", "lidc_nodule video+ct_rspect_ssl", "rspect_pe video+ct_lidc_ssl", "ct_lidc 1%"]
RECORD = """file: {network}.safetensors
source: photographs, labelled
licence: none needed
mean: [0.5]
std: [0.3]
size: tiny
names: {{"backbone.": ""}}
head: ["head."]
seen: [{{what: photographs, kind: photographs}}]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """What `run` leaves, with the paper's choices where a tiny run can make them."""
    folder = tmp_path_factory.mktemp("arms")
    own = folder / "smoke" / "weights" / "public" / "photos"
    own.mkdir(parents=True)
    for network in NETWORKS:
        made, _ = build_network(network, "tiny", Init("random", "drawn", "none", (0.5,), (0.3,)), seed=3)
        save_weights(made, own / f"{network}.safetensors", {"source": "photographs", "licence": "none"})
        (own / f"{file_name(network)}.yaml").write_text(RECORD.format(network=network))
    paper = parameters_of("paper")
    alike = ("autoaugment", "dropout", "lr", "lr_by", "study_label", "schedule", "fractions")
    changes = {name: paper[name] for name in alike} | {
        "02_pretrain.pretrained": ["video", *MADE, *UNLABELLED],
        "02_pretrain.pretrain_patients": 6,
        "inits": ["random", "video", "photos", *MADE, *UNLABELLED],
        "leave_out": LEFT_OUT,
        "protocol": "paper",
        "seeds": [0],
        "lr_rates": [0.001, 0.01],
        "controls": [],
    }
    given = [f"{name}={value!r}" for name, value in changes.items()]
    subprocess.run(command("smoke", folder, given), cwd=folder, check=True, timeout=1500)
    return Workspace(folder / "smoke")


def test_every_arm_of_the_paper_is_finished(work):
    runs = tables.read("runs", work.table("runs"))
    assert (runs["status"] == "finished").all()
    of = runs.groupby("task")
    for task, other, own in (("lidc_nodule", "rspect", "lidc"), ("rspect_pe", "lidc", "rspect")):
        found = set(of.get_group(task)["init"])
        assert found == {
            *("random", "video", "photos", f"ct_{other}", f"video+ct_{other}", f"photos+ct_{other}"),
            f"video+ct_{own}_ssl",
        }
    shares = set(runs[["task", "fraction"]].itertuples(index=False, name=None))
    assert shares == {
        ("rspect_pe", 0.01),
        *((t, f) for t in ("rspect_pe", "lidc_nodule") for f in (0.1, 1.0)),
    }
    least = runs[(runs["fraction"] == 0.01)]
    assert "ct_lidc" not in set(least["init"]) and (least["n_patients"] == 2).all()  # one of each label
    searched = tables.read("search", work.table("search"))
    best = searched[searched["chosen"]]
    highest = searched.groupby(["task", "backbone", "init"])["val_accuracy"].max()
    assert (best.set_index(["task", "backbone", "init"])["val_accuracy"] == highest).all()


def test_what_each_init_has_seen_is_recorded_in_order(work):
    for init, first, last, kind in (
        ("photos+ct_rspect", "photographs, labelled", "labelled", "photographs"),
        ("video+ct_lidc", "generated", "labelled", "video"),
        ("video+ct_lidc_ssl", "generated", "no labels", "video"),
    ):
        for network in NETWORKS:
            record = read_json(work.weights(init, network).with_suffix(".json"))
            begun, then = record["source"].split("; then ")
            assert begun.startswith(first) and then.endswith(last), record["source"]
            assert [step["kind"] for step in record["seen"]] == [kind, "CT"]
    ledger = tables.read("ledger", work.table("ledger"))
    assert set(ledger["init"]) == {"video", *MADE, *UNLABELLED} and set(ledger["backbone"]) == set(NETWORKS)


def test_the_report_answers_what_the_paper_leaves_open(work):
    answers = pd.read_csv(work.root / "answers" / "unlabelled_ct.csv")
    assert set(answers["task"]) == {"lidc_nodule", "rspect_pe"} and answers["effect"].notna().all()
    page = (work.reports / "04_analyze.html").read_text()
    assert "CT without labels, after video: of" in page
    assert "photographs (photographs), then " in (work.reports / "02_pretrain.html").read_text()
