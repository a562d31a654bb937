"""Write what a grid takes into the head of its parameter file (`python tools/headers.py`).

Runs, GPU hours and disk come from the plan, as if nothing were here yet: the sizes of the cohorts as they are
published, and a step by the peaks of a GPU. A test compares the files with what this writes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ctlib.cli.data import load
from ctlib.core.workspace import Places, Workspace
from ctlib.grid.estimate import Plan
from ctlib.grid.estimate_profile import plan_of_profile, size_of
from ctlib.grid.estimate_text import gpu_hours, size
from ctlib.grid.roofline import ASSUMED
from ctlib.models.cost import gpu_work
from ctlib.models.weights.init_names import lacking
from ctlib.training.pretraining import made_here

PROFILES = ("paper", "rspect", "lidc")
"""Those that are planned for GPUs; what others take was measured."""
DATA, PRETRAINING, GRID = "01_explore_data", "02_pretrain", "03_finetune_grid"


def plan_without_anything(profile: str, places: Places | None = None) -> Plan:
    """The plan of a profile on a machine that has neither data nor weights nor measurements."""
    values = load(profile, (), places or Places())
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / profile)
        return plan_of_profile(workspace, profile, values[GRID] | values[DATA], measuring=False)


def pretraining_hours(profile: str, places: Places | None = None) -> float:
    """Hours of the pretraining on CT of a profile, at most, on the assumed GPU, by the same reckoning."""
    values = load(profile, (), places or Places())
    how, data = values[PRETRAINING], values[DATA]
    clip = (how["clip_length"], how["crop_px"], how["crop_px"])
    n = how["pretrain_batch_size"]
    taken = {key: ASSUMED.step_s(gpu_work(key, how["size"], clip), n) for key in how["backbones"]}
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for init in how["pretrained"]:
            made = made_here(init)
            size_of_source = size_of(Workspace(Path(folder)), made.source.removeprefix("ct_"), data)
            # without labels each clip is seen in two views
            epochs = how["pretrain_epochs"] * (1 + made.self_supervised)
            for key, (train_s, forward_s) in taken.items():
                if not lacking(init, key):
                    heldout_s = size_of_source.clips["val"] / n * forward_s
                    seconds += epochs * (how["pretrain_steps_per_epoch"] * train_s + heldout_s)
    return seconds / 3600


def lines(made: Plan) -> list[str]:
    """The lines of a grid's head that a plan decides."""
    purpose = made.runs.groupby("purpose")["runs"].sum()
    searching = f", and {purpose['search']:,} that look for a learning rate" if "search" in purpose else ""
    memory = 1e6 * made.costs["peak_mb"].max()
    return [
        f"# Time: {purpose['grid']:,} runs{searching}: at most {gpu_hours(made)}, by their peaks "
        "(ctlib/grid/roofline.py), not measured.",
        f"# Hardware: GPUs with {size(memory)} free; {size(int(made.disk['n_bytes'].sum()))} of disk, the "
        "stored volumes and the weights of all runs included.",
    ]


def written(text: str, made: Plan) -> str:
    """A parameter file with the lines of a plan in its head."""
    new = {line.split(":")[0]: line for line in lines(made)}
    return "".join(f"{new.get(line.split(':')[0], line)}\n" for line in text.splitlines())


def main() -> None:
    """Write the heads of the grids, and print what pretraining takes."""
    places = Places()
    for profile in sys.argv[1:] or PROFILES:
        path = places.params / profile / f"{GRID}.yaml"
        path.write_text(written(path.read_text(), plan_without_anything(profile, places)))
        print(f"{path}; pretraining: {pretraining_hours(profile, places):.0f} hours of an {ASSUMED.name}")


if __name__ == "__main__":
    main()
