"""Video, CT or images: what kinds of weights are worth; and whether frozen features tell what finetuning tells."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ctlib.analysis.question import ABSENT, Question
from ctlib.analysis.questions.baselines import COLUMNS
from ctlib.analysis.study import GRID, Study, by_family
from ctlib.analysis.text import conclusions, forest_caption, interval, place, unanswered
from ctlib.datasets import same_patients, task
from ctlib.metrics import MEAN_OF, Arm, Contrast
from ctlib.visualization import figures

if TYPE_CHECKING:
    from ctlib.models import TrainedOn

NOTHING = "random"
FAMILIES = {"video": "video", "CT": "CT", "photographs": "images"}
"""Kinds of what weights were trained on last, and what their families are called."""
FINETUNED = "finetuned"
SOURCES = ("lidc", "nlst501", "rspect")
"""Whose patients the overlap register knows."""


def held(study: Study) -> list[Arm]:
    """Network and init of each arm of the grid, in its order."""
    rows = study.runs[["backbone", "init"]].drop_duplicates()
    return [(str(row.backbone), str(row.init)) for row in rows.itertuples()]


# ---- frozen against finetuned ------------------------------------------------------------


def _both_modes(study: Study) -> dict[tuple[str, str], list[str]]:
    """Networks that are frozen and finetuned, by head and init."""
    from ctlib.models import headed  # here: it loads torch

    found: dict[tuple[str, str], list[str]] = {}
    there = set(held(study))
    for backbone, init in held(study):
        head, bare = headed(init)
        if head and (backbone, bare) in there:
            found.setdefault((head, bare), []).append(backbone)
    return found


def compute_frozen(study: Study) -> pd.DataFrame:
    """The head on frozen features minus the finetuned network, by network and averaged, and the gain in both modes.

    Returns:
        As `Study.contrasts`, with backbone (or 'mean of N networks'), init (without its head), head, and kind:
        mode where the modes are compared, gain where the compared init and the baseline are. auroc_first is that of
        the frozen, auroc_second that of the finetuned network.
    """
    both, pair = _both_modes(study), (study.compared, study.baseline)
    wanted: list[Contrast] = []
    about: list[tuple[str, ...]] = []

    def ask(name: str, sides: Sequence[str], members: Sequence[str], *told: str) -> None:
        first, second = (tuple((one, side) for one in members) for side in sides)
        title = f"{MEAN_OF}{len(members)} networks" if len(members) > 1 else members[0]
        wanted.append(Contrast(name.format(title), first, second))
        about.append((title, *told))

    for (head, init), networks in both.items():
        mean = [one for one in networks if one in study.averaged] or networks
        for members in [*([one] for one in networks), *([mean] if len(mean) > 1 else [])]:
            ask("{}, " + f"{init}, {head}", (f"{head}:{init}", init), members, init, head, "mode")
    for head in dict.fromkeys(head for head, _ in both):
        shared = [b for b in study.averaged if all(b in both.get((head, init), ()) for init in pair)]
        name = f"{study.compared} − {study.baseline}"
        if shared:
            ask(f"{name}, {head}", [f"{head}:{init}" for init in pair], shared, pair[0], head, "gain")
            finetuned = f"{name}, {FINETUNED}"
            if finetuned not in [each.name for each in wanted]:
                ask(finetuned, pair, shared, pair[0], head, "gain")
    told = dict(zip((each.name for each in wanted), about, strict=True))
    table = study.contrasts(wanted)
    for at, column in enumerate(("backbone", "init", "head", "kind")):
        table[column] = [told[label][at] for label in table["label"]]
    return by_family(table, table["backbone"].str.startswith(MEAN_OF))


def _no_frozen(study: Study) -> str:
    return "" if _both_modes(study) else (
        f"{ABSENT}the grid holds no network both frozen and finetuned; set `modes` of {GRID} to both."
    )  # fmt: skip


def say_frozen(table: pd.DataFrame) -> str:
    """The averaged differences between the modes, and what an init gains in each of them.

    Args:
        table: from `compute_frozen`.
    """
    modes, gains = table[table["kind"] == "mode"], table[table["kind"] == "gain"]
    is_mean = modes["backbone"].str.startswith(MEAN_OF)
    lines = []
    for row in modes[is_mean if is_mean.any() else slice(None)].to_dict("records"):
        side = f"a {row['head']} head on frozen features from {row['init']} minus finetuning"
        lines.append(f"{place(row)}, {row['backbone']}: {side}: {interval(row)}.")
    for _, part in gains.groupby(["task", "fraction"], sort=False):
        rows = part.to_dict("records")
        told = "; ".join(f"{row['label']} {interval(row)}" for row in rows)
        lines.append(f"{place(rows[0])}: {told}.")
    return "\n".join(
        [*lines, f"Frozen against finetuned (exploratory): {conclusions(table)}.", *unanswered(table)]
    )


FROZEN = Question(
    "frozen",
    "Frozen against finetuned",
    COLUMNS,
    compute_frozen,
    _no_frozen,
    say_frozen,
    lambda study, table: figures.frozen_plane(table[table["kind"] == "mode"]),
    "Test AUROC of finetuned networks by that of heads on their frozen features, a point a network and init",
    lambda table: (
        "A point is a network from one of its starting weights, a large one their mean; bars are intervals of the "
        "difference, over patients and seeds; above the line finetuning is better. " + forest_caption(table)
    ),
)


# ---- video, CT or images -----------------------------------------------------------------


def families(study: Study) -> dict[str, dict[str, list[Arm]]]:
    """Arms of the grid by mode and by what their weights were trained on last; `NOTHING` are random weights.

    Left out are placebos, controls of weights, and weights of another kind or of one that is not stated.
    """
    from ctlib.models import PLACEBO, headed, origin, split  # here: it loads torch

    found: dict[str, dict[str, list[Arm]]] = {}
    for backbone, init in held(study):
        head, bare = headed(init)
        made = origin(bare)
        if split(bare)[0] or (made and made.variant == PLACEBO):
            continue
        if family := family_of(study.chain(backbone, init)):
            found.setdefault(head or FINETUNED, {}).setdefault(family, []).append((backbone, init))
    return found


def family_of(chain: Sequence[TrainedOn]) -> str:
    """The family of what weights were trained on last; photographs after or beside video count as video.

    Video models take photographs for videos that stand still (V-JEPA 2). "" where the kind is none of the three.
    """
    if not chain:
        return NOTHING
    kinds = [FAMILIES.get(step.kind, "") for step in chain]
    return "video" if kinds[-1] == "images" and "video" in kinds else kinds[-1]


def _pairs(of: dict[str, list[Arm]]) -> list[tuple[str, str]]:
    """Pairs of families of one mode: with one another, then each with random weights."""
    known = [family for family in FAMILIES.values() if family in of]
    return [*itertools.combinations(known, 2), *((one, NOTHING) for one in known if NOTHING in of)]


def _sides(first: Sequence[Arm], second: Sequence[Arm]) -> tuple[tuple[Arm, ...], tuple[Arm, ...], str]:
    """Both sides of a comparison on the networks that have both, or else on all; and which it is."""
    common = {backbone for backbone, _ in first} & {backbone for backbone, _ in second}
    if not common:
        return tuple(first), tuple(second), "other networks"
    own, other = (tuple(arm for arm in side if arm[0] in common) for side in (first, second))
    return own, other, "the same networks"


@dataclass(frozen=True)
class _Asked:
    """A comparison of two families, and the tasks and fractions at which it is made; everywhere without."""

    contrast: Contrast
    kind: str
    mode: str
    paired: str
    k: str
    places: tuple[tuple[str, float], ...] = ()
    chosen: str = ""

    @property
    def label(self) -> str:
        """Of the line: which arms were chosen is another at each task and fraction."""
        return self.contrast.name.split(": ")[0]


def compute_families(study: Study) -> pd.DataFrame:
    """Each family's mean against another's and against random weights; then the best of each, as validation chose.

    Returns:
        As `Study.contrasts`, with init (of the first arm, for its colour), kind (mean, best, or apart: a mean without
        weights that may have seen the test data), mode, paired (on the same networks or on others), k (arms of each
        family, of which the best is taken), chosen (the best, as validation chose them), overlap (weights that may
        have seen test data, and why) and contract (how clips were cut for weights that ask for something).
    """
    modes = families(study)
    warned = {name: _warned(study, name, modes) for name in study.tasks}
    asked: dict[str, _Asked] = {}
    for mode, of in modes.items():
        for one, other in _pairs(of):
            k = f"{len(of[one])} and {len(of[other])}"
            found = [_mean(f"{one} − {other}, {mode}", mode, of[one], of[other])]
            found += _apart(study, found[0], of[one], of[other], warned)
            pair = found[0].contrast.name
            found += _best(study, pair, mode, of[one], of[other], k) if other != NOTHING else []
            asked |= {each.contrast.name: dataclasses.replace(each, k=k) for each in found}
    table = study.contrasts([each.contrast for each in asked.values()])
    made = [asked[label] for label in table["label"]]
    at = zip(table["task"], table["fraction"], strict=True)
    here = [not each.places or place in each.places for each, place in zip(made, at, strict=True)]
    for column in ("label", "kind", "mode", "paired", "k", "chosen"):
        table[column] = [getattr(each, column) for each in made]
    table["init"] = [each.contrast.first[0][1] for each in made]
    table["overlap"] = ["; ".join(dict.fromkeys(warned[name].values())) for name in table["task"]]
    table["contract"] = "; ".join(_contracts(study, modes))
    kept = table[here].reset_index(drop=True)
    return by_family(kept, kept["kind"] == "mean")


def _mean(name: str, mode: str, first: Sequence[Arm], second: Sequence[Arm], **where: Any) -> _Asked:
    own, other, paired = _sides(first, second)
    return _Asked(Contrast(name, own, other), where.pop("kind", "mean"), mode, paired, "", **where)


def _warned(study: Study, name: str, modes: dict[str, dict[str, list[Arm]]]) -> dict[Arm, str]:
    """The arms whose weights have seen test data of a task, or may have, and why."""
    from ctlib.models import headed, overlap  # here: it loads torch

    cohort = study.data_from or task(name).cohort
    source = next((known for known in SOURCES if same_patients(known, cohort)), cohort)
    found: dict[Arm, str] = {}
    for arm in dict.fromkeys(itertools.chain(*(arms for of in modes.values() for arms in of.values()))):
        if seen := overlap(study.chain(*arm), source):
            word = "have seen" if seen.sure else "may have seen"
            found[arm] = f"weights {headed(arm[1])[1]} {word} scans of {source}: {seen.why}"
    return found


def _contracts(study: Study, modes: dict[str, dict[str, list[Arm]]]) -> list[str]:
    """The input contracts by which clips were cut, each with its weights, in the grid's order."""
    from ctlib.models import headed  # here: it loads torch

    arms = itertools.chain(*(arms for of in modes.values() for arms in of.values()))
    asked = [(f"{headed(init)[1]} of {backbone}", study.contract(backbone, init)) for backbone, init in arms]
    return list(dict.fromkeys(f"{weights}: {contract}" for weights, contract in asked if contract))


def _apart(
    study: Study,
    whole: _Asked,
    first: Sequence[Arm],
    second: Sequence[Arm],
    warned: Mapping[str, Mapping[Arm, str]],
) -> Iterator[_Asked]:
    """A comparison once more for each task, without weights that may have seen its test data."""
    for name, arms in warned.items():
        left = [[arm for arm in side if arm not in arms] for side in (first, second)]
        if all(left) and left != [list(first), list(second)]:
            label = f"{whole.contrast.name}, without overlap"
            label += f" ({name})" if len(warned) > 1 else ""
            places = tuple((name, float(fraction)) for fraction in study.runs["fraction"].unique())
            yield _mean(label, whole.mode, *left, kind="apart", places=places)


def _best(
    study: Study, pair: str, mode: str, first: Sequence[Arm], second: Sequence[Arm], k: str
) -> Iterator[_Asked]:
    """The arm of each family with the highest validation AUROC, at each task and fraction."""
    if len(first) == len(second) == 1:
        return
    places: dict[tuple[Arm, Arm], list[tuple[str, float]]] = {}
    for (name, fraction), rows in study.runs.groupby(["task", "fraction"], sort=False):
        reached = rows.groupby(["backbone", "init"])["val_auroc"].mean().dropna()
        known = [[arm for arm in side if arm in reached.index] for side in (first, second)]
        if all(known):
            value = reached.to_dict()
            one, other = (max(side, key=value.__getitem__) for side in known)
            places.setdefault((one, other), []).append((str(name), float(fraction)))
    for (one, other), at in places.items():
        chosen = f"{' '.join(one)} − {' '.join(other)}"
        contrast = Contrast(f"{pair}, best of {k}: {chosen}", (one,), (other,))
        yield _Asked(contrast, "best", mode, "", "", tuple(at), chosen)


def _no_families(study: Study) -> str:
    if any(len(set(of) & set(FAMILIES.values())) > 1 for of in families(study).values()):
        return ""
    return (
        f"{ABSENT}the grid holds weights of one kind, or of none; add weights from video, from CT and from "
        f"photographs to `inits` of {GRID}: `python -m ctlib networks` lists what each network has."
    )


HEADINGS = {"mean": "", "best": "By validation: ", "apart": ""}
"""How a sentence begins, by kind of its rows."""


def _chosen(row: dict[str, Any]) -> str:
    return f" ({row['chosen']})" if row["chosen"] else ""


def _on(row: dict[str, Any]) -> str:
    return f", on {row['paired']}" if row["paired"] else ""


def say_families(table: pd.DataFrame) -> str:
    """Each comparison of two means, then those of the best, and what may have seen the test data.

    Args:
        table: from `compute_families`.
    """
    lines = []
    for kind, head in HEADINGS.items():
        for label, part in table[table["kind"] == kind].groupby("label", sort=False):
            rows = part.to_dict("records")
            told = "; ".join(f"{place(row)} {interval(row)}{_chosen(row)}" for row in rows)
            lines.append(f"{head}{label}{_on(rows[0])}: {told}.")
    for text in dict.fromkeys(table["overlap"]):
        lines += [f"Overlap: {text}."] if text else []
    for text in dict.fromkeys(table["contract"]):
        lines += [f"Clips were cut by the input contracts of weights, {text}."] if text else []
    means = table[table["kind"] == "mean"]
    return "\n".join(
        [*lines, f"Video, CT or images (exploratory): {conclusions(means)}.", *unanswered(table)]
    )


VIDEO_CT_IMAGES = Question(
    "families",
    "Video, CT or images",
    (*COLUMNS, "paired", "k", "chosen"),
    compute_families,
    _no_families,
    say_families,
    lambda study, table: figures.contrast_forest(table, "the first − the second", table["margin"].iloc[0]),
    "Difference in test AUROC between weights from video, from CT and from photographs, with intervals",
    lambda table: (
        "Weights by what they were trained on last; what came before is in the table of starting weights. "
        + forest_caption(table)
    ),
)
