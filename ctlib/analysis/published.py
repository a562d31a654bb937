"""Published cells, read again: what a table of AUROCs with intervals says by the rules of this study.

A cell is one network, trained on one fraction of one task from one arm (its pretraining), with the AUROC of the
test set and the interval that was printed. Nothing else is known: neither scores, nor patients, nor seeds. So:

* The standard error of a cell is its interval's width over that of the normal distribution (2 x 1.96 at 95 %).
* Cells of one test set have correlated errors. The correlation is not known: everything that needs one is
  given for each of `correlations`.
* The networks are a sample of networks: an effect is the mean over networks of a difference of two arms, its
  interval that of Student's t over networks. Beside it stands the random-effects interval, which adds what all
  networks share because they share a test set: the variance of the mean is tau^2 / n + 1'V1 / n^2, V the
  covariance of the differences from the cells' errors, tau^2 the spread of the networks beyond it, by moments
  (Hedges and Olkin 1985, chapter 9), and at least 0. And the interval for a next network, with the spread s of
  the networks: mean -+ t s sqrt(1 + 1/n).
* A cell whose interval reaches `CHANCE` did not show that it learned anything.
* The best of seven beats the best of three by chance alone. How far is drawn: all networks equal, errors as
  printed; once without and once with the spread that networks have within a kind.

Verdicts are those of `ctlib.analysis.claims`: every comparison a gain, some comparison a loss (both after
Holm's correction over the claim), all equivalent, or inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctlib.analysis.claims import verdict_of
from ctlib.analysis.text import interval, listed, place
from ctlib.core import display_path, nearest_name, word
from ctlib.metrics import Array, Estimate, decide, holm, student
from ctlib.visualization import figures, signed

CHANCE = 0.5
COLUMNS = ("network", "kind", "arm", "task", "fraction", "auc", "low", "high")
"""Columns that a table of cells must have; `chain` (datasets that the weights have seen, in order) may be there."""
NUMBERS = ("fraction", "auc", "low", "high")
PLACE = ["kind", "task", "fraction"]
ESTIMATED = ("effect", "se", "freedom", "low", "high", "p_value")
EFFECT = ("task", "fraction", "networks", "gains", *ESTIMATED, "low_next", "high_next")
BEST = (
    "best_first",
    "best_second",
    "advantage",
    "by_choice",
    "p_choice",
    "by_choice_spread",
    "p_choice_spread",
)
KINDS = ("task", "fraction", "n_first", "n_second", *ESTIMATED, *BEST)
"""Columns of comparisons, without p_holm and word."""


class PublishedError(ValueError):
    """A table of cells cannot be read: one sentence with file, row, column, value and what to do."""


@dataclass(frozen=True)
class Comparison:
    """What is subtracted from what.

    Args:
        kind: of the networks, as in the table.
        first: arm that is looked at.
        second: arm that is subtracted.
    """

    kind: str
    first: str
    second: str


@dataclass(frozen=True)
class How:
    """How cells are read.

    Args:
        level: of all intervals, those of the cells included.
        margin: a difference in AUROC that would not matter.
        correlations: assumed between the errors of any two cells of a test set, 0 to below 1.
        draws: of the simulation of the best of several networks.
        seed: of the draws.
    """

    level: float = 0.95
    margin: float = 0.05
    correlations: Sequence[float] = (0.3, 0.8)
    draws: int = 20000
    seed: int = 0


def read(path: Path) -> pd.DataFrame:
    """A table of published cells, one row a network, arm, task and fraction.

    Args:
        path: CSV with `COLUMNS`, and `chain` where it is known; fractions from above 0 to 1.

    Returns:
        The columns, and `chain`, '' where it is not given.

    Raises:
        PublishedError: the file or a column is missing, a value is no number, an AUROC or its interval lies
            outside 0 to 1, a fraction is not above 0 and at most 1, or two rows are of one cell.
    """
    if not path.is_file():
        raise PublishedError(
            f"{display_path(path)} is missing; give a CSV with the columns {', '.join(COLUMNS)}."
        )
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in COLUMNS:
        if name not in table:
            raise PublishedError(
                f"{display_path(path)} lacks the column {name}{nearest_name(name, list(table))}."
            )
    for name in NUMBERS:
        table[name] = _numbers(table[name], path, (0, 1))
    if (table["fraction"] <= 0).any():
        row = int(table.index[table["fraction"] <= 0][0])
        raise PublishedError(
            f"{display_path(path)}, row {row + 2}: fraction is 0; give a share above 0, at most 1."
        )
    twice = table[table.duplicated(["network", "arm", "task", "fraction"])]
    if len(twice):
        one = twice.iloc[0]
        raise PublishedError(
            f"{display_path(path)}, row {twice.index[0] + 2}: {_named(one)} is there twice; keep one of the two rows."
        )
    return table.assign(chain=table.get("chain", ""))


def _numbers(column: pd.Series, path: Path, between: tuple[float, float]) -> pd.Series:
    found = pd.to_numeric(column, errors="coerce")
    wrong = column[~found.between(*between)]
    if len(wrong):
        low, high = between
        raise PublishedError(
            f"{display_path(path)}, row {wrong.index[0] + 2}: {column.name} is {wrong.iloc[0]!r}; "
            f"give a number from {low} to {high}."
        )
    return found


def _named(cell: pd.Series) -> str:
    return f"{cell['network']}, {cell['arm']}, {cell['task']} {cell['fraction']:.0%}"


# ---- what the cells are --------------------------------------------------------------------


def oddities(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells that cannot all be right, by rule; they are kept.

    Returns:
        Columns cell, what: a value outside its own interval, an interval without width, and cells of one task
        and fraction that are equal in all three numbers (between networks, or arms of one network).
    """
    rows = [
        {"cell": _named(row), "what": f"{row['auc']:.3f} lies outside its interval {_printed(row)}"}
        for _, row in cells[(cells["auc"] < cells["low"]) | (cells["auc"] > cells["high"])].iterrows()
    ]
    constant = cells["low"] == cells["high"]
    rows += [
        {"cell": _named(row), "what": f"{row['auc']:.3f} with an interval of no width"}
        for _, row in cells[constant].iterrows()
    ]
    for _, equal in cells[~constant].groupby(["task", "fraction", "auc", "low", "high"], sort=False):
        if len(equal) > 1:
            what = f"{equal['auc'].iloc[0]:.3f} {_printed(equal.iloc[0])} in all of them"
            rows.append({"cell": "; ".join(_named(row) for _, row in equal.iterrows()), "what": what})
    return pd.DataFrame(rows, columns=["cell", "what"])


def _printed(row: pd.Series) -> str:
    return f"({row['low']:.3f} to {row['high']:.3f})"


def reaches_chance(cells: pd.DataFrame) -> pd.Series:
    """Whether a cell's interval reaches down to an AUROC of 0.5: it did not show that it learned."""
    return cells["low"] <= CHANCE


def learned(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each kind and arm reach chance: columns kind, arm, cells, at_chance, constant."""
    marked = cells.assign(at_chance=reaches_chance(cells), constant=cells["low"] == cells["high"])
    grouped = marked.groupby(["kind", "arm"], sort=False)
    return grouped.agg(
        cells=("auc", "size"), at_chance=("at_chance", "sum"), constant=("constant", "sum")
    ).reset_index()


def means(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean over networks of each kind, arm, task and fraction.

    Returns:
        Columns kind, task, fraction, arm, networks, auc (mean), low and high (smallest and largest of the
        networks: what has been printed as an interval of the mean), best (network) and best_auc.
    """
    best = cells.loc[cells.groupby([*PLACE, "arm"], sort=False)["auc"].idxmax(), [*PLACE, "arm", "network"]]
    found = (
        cells.groupby([*PLACE, "arm"], sort=False)["auc"].agg(["size", "mean", "min", "max"]).reset_index()
    )
    named = found.rename(columns={"size": "networks", "mean": "auc", "min": "low", "max": "high"})
    return named.merge(best.rename(columns={"network": "best"}), on=[*PLACE, "arm"]).assign(
        best_auc=named["high"]
    )


# ---- effects -------------------------------------------------------------------------------


def pairs(cells: pd.DataFrame, what: Comparison) -> pd.DataFrame:
    """Each network's difference of two arms.

    Returns:
        Columns task, fraction, network, effect, first, second (AUROCs), width_first, width_second (of their
        intervals), both_learned (neither reaches chance).
    """
    keys = ["task", "fraction", "network"]
    of_kind = cells[cells["kind"] == what.kind]
    sides = [of_kind[of_kind["arm"] == arm].set_index(keys) for arm in (what.first, what.second)]
    joined = sides[0].join(sides[1], how="inner", suffixes=("_first", "_second")).reset_index()
    return pd.DataFrame({
        **{key: joined[key] for key in keys},
        "effect": joined["auc_first"] - joined["auc_second"],
        "first": joined["auc_first"], "second": joined["auc_second"],
        "width_first": joined["high_first"] - joined["low_first"],
        "width_second": joined["high_second"] - joined["low_second"],
        "both_learned": (joined["low_first"] > CHANCE) & (joined["low_second"] > CHANCE),
    })  # fmt: skip


def unpaired(cells: pd.DataFrame, what: Comparison) -> list[str]:
    """Cells of either arm that have no partner, a phrase each: they are in no effect."""
    of_kind = cells[(cells["kind"] == what.kind) & cells["arm"].isin([what.first, what.second])]
    alone = ~of_kind.duplicated(["network", "task", "fraction"], keep=False)
    return [_named(row) for _, row in of_kind[alone].iterrows()]


def effects(cells: pd.DataFrame, what: Comparison, how: How) -> pd.DataFrame:
    """The mean over networks of the difference of two arms, for each task and fraction.

    Returns:
        Columns `EFFECT`: gains are networks with a difference above 0; effect, se, freedom, low, high and
        p_value those of Student's t over networks; low_next and high_next the interval of a next network. Then
        `low_0.3`, `high_0.3`, ... (random effects at each correlation), p_holm, and word
        (`ctlib.metrics.decide`, asked for a gain). With one network, or equal differences, there is no
        interval, and the word is "no answer".
    """
    places = pairs(cells, what).groupby(["task", "fraction"], sort=False)
    rows = [{"task": task, "fraction": fraction, **_mean(part, how)} for (task, fraction), part in places]
    return _decided(
        rows, [*EFFECT, *(f"{end}_{c:g}" for c in how.correlations for end in ("low", "high"))], how
    )


def _decided(rows: Sequence[dict[str, Any]], columns: Sequence[str], how: How) -> pd.DataFrame:
    """Comparisons as a table, with p-values corrected over all of them, and the word of each."""
    table = pd.DataFrame(rows, columns=[*columns])
    corrected = holm(table["p_value"].to_numpy(np.float64))
    words = [
        decide(row["effect"], row["se"], row["freedom"], how.margin, how.level, "gain", p).word
        for row, p in zip(rows, corrected, strict=True)
    ]
    return table.assign(p_holm=corrected, word=words)


def _estimated(value: float, se: float, freedom: float, how: How) -> dict[str, float]:
    """A difference with interval and test; NaN where networks do not vary, or there is one."""
    found = Estimate(value, se, freedom, "" if se > 0 else "nothing varies")
    ends = found.interval(how.level)
    known = {"effect": value, "se": se if se > 0 else np.nan, "freedom": freedom}
    return known | {"low": ends.low, "high": ends.high, "p_value": found.p_value}


def _mean(part: pd.DataFrame, how: How) -> dict[str, Any]:
    values = part["effect"].to_numpy(np.float64)
    n, mean = len(values), float(values.mean())
    spread = float(values.std(ddof=1)) if n > 1 else np.nan
    found: dict[str, Any] = {"networks": n, "gains": int((values > 0).sum())}
    found |= _estimated(mean, spread / np.sqrt(n), n - 1, how)
    first, second = (_errors(part[f"width_{side}"], how) for side in ("first", "second"))
    for correlation in how.correlations:
        se = random_effects_se(values, first, second, correlation) if n > 1 else np.nan
        ends = _estimated(mean, se, n - 1, how)
        found |= {f"low_{correlation:g}": ends["low"], f"high_{correlation:g}": ends["high"]}
    following = _estimated(mean, spread * np.sqrt(1 + 1 / n), n - 1, how)
    return found | {"low_next": following["low"], "high_next": following["high"]}


def _errors(width: pd.Series, how: How) -> Array:
    """Standard errors of cells from the widths of their intervals; an interval may be printed end first."""
    return np.abs(width.to_numpy(np.float64)) / (2 * student(np.inf, (1 + how.level) / 2))


def random_effects_se(values: Array, first: Array, second: Array, correlation: float) -> float:
    """Standard error of the mean difference: spread of the networks, and errors that share a test set.

    Args:
        values: `[n]` differences.
        first: `[n]` standard errors of the minuends.
        second: `[n]` standard errors of the subtrahends.
        correlation: between the errors of any two cells.
    """
    n = len(values)
    shared = correlation * np.outer(first - second, first - second)
    own = (1 - correlation) * (first**2 + second**2)
    whole = shared + np.diag(own)
    of_mean = float(whole.sum()) / n**2
    beyond = float(np.var(values, ddof=1)) - (float(np.trace(whole)) - n * of_mean) / (n - 1)
    return float(np.sqrt(max(beyond, 0.0) / n + of_mean))


def impure(cells: pd.DataFrame, what: Comparison) -> list[str]:
    """Networks whose weights of the first arm have seen more than one dataset, as far as chains are known."""
    first = cells[(cells["kind"] == what.kind) & (cells["arm"] == what.first)]
    return sorted(first.loc[first["chain"].str.contains(","), "network"].unique())


def leave_out(cells: pd.DataFrame, what: Comparison, how: How) -> pd.DataFrame:
    """The effects without each network, and without all of `impure` where there are several.

    Returns:
        Columns of `effects`, and without: what is left out; "" for nothing.
    """
    networks = pairs(cells, what)["network"].unique()
    sets: list[tuple[str, list[str]]] = [("", []), *((name, [name]) for name in networks)]
    if len(others := impure(cells, what)) > 1:
        sets.append((listed(others), others))
    found = [
        effects(cells[~cells["network"].isin(names)], what, how).assign(without=label)
        for label, names in sets
    ]
    return pd.concat(found, ignore_index=True)


# ---- kinds against each other ----------------------------------------------------------------


def between_kinds(
    cells: pd.DataFrame, first: tuple[str, str], second: tuple[str, str], how: How
) -> pd.DataFrame:
    """Networks of one kind and arm against those of another: on the mean, and the best of each.

    The means are compared by Welch's t (1947, doi:10.1093/biomet/34.1-2.28), networks being the sample.

    Args:
        cells: of `read`.
        first: kind and arm.
        second: kind and arm that are subtracted.
        how: level, correlations and draws.

    Returns:
        Columns `KINDS`, p_holm and word, one row a task and fraction where each side has two networks: effect
        to p_value of the means; best_first and best_second the best networks, advantage their difference;
        by_choice the advantage that choosing gives on average among equal networks, with the errors alone
        and the smaller correlation, p_choice how often it is as large; `*_spread` the same with the networks'
        own spread.
    """
    rows = []
    for (task, fraction), part in cells.groupby(["task", "fraction"], sort=False):
        sides = [part[(part["kind"] == kind) & (part["arm"] == arm)] for kind, arm in (first, second)]
        if min(map(len, sides)) > 1:
            rows.append({"task": task, "fraction": fraction, **_welch(sides, how), **_best(sides, how)})
    return _decided(rows, KINDS, how)


def _welch(sides: Sequence[pd.DataFrame], how: How) -> dict[str, Any]:
    one, two = (side["auc"].to_numpy(np.float64) for side in sides)
    parts = [float(np.var(x, ddof=1)) / len(x) for x in (one, two)]
    each_freedom = [p**2 / (len(x) - 1) for p, x in zip(parts, (one, two), strict=True)]
    freedom = sum(parts) ** 2 / sum(each_freedom) if sum(parts) else np.nan
    found = _estimated(float(one.mean() - two.mean()), float(np.sqrt(sum(parts))), freedom, how)
    return {"n_first": len(one), "n_second": len(two), **found}


def _best(sides: Sequence[pd.DataFrame], how: How) -> dict[str, object]:
    tops = [side.loc[side["auc"].idxmax()] for side in sides]
    advantage = float(tops[0]["auc"] - tops[1]["auc"])
    errors = [_errors(side["high"] - side["low"], how) for side in sides]
    correlation = min(how.correlations)
    own = np.concatenate([(1 - correlation) * e**2 for e in errors])
    within = sum(float(np.var(side["auc"], ddof=1)) * (len(side) - 1) for side in sides)
    spread = np.sqrt(max(within / (sum(map(len, sides)) - 2) - float(own.mean()), 0.0))
    found: dict[str, object] = {
        "best_first": tops[0]["network"], "best_second": tops[1]["network"], "advantage": advantage,
    }  # fmt: skip
    rng, counts = np.random.default_rng(how.seed), [len(side) for side in sides]
    common = rng.standard_normal((how.draws, 1)) * np.sqrt(correlation)
    alone = rng.standard_normal((how.draws, sum(counts))) * np.sqrt(1 - correlation)
    noise = (common + alone) * np.concatenate(errors)
    apart = rng.standard_normal((how.draws, sum(counts))) * spread
    for name, drawn in (("", noise), ("_spread", noise + apart)):
        gap = drawn[:, : counts[0]].max(axis=1) - drawn[:, counts[0] :].max(axis=1)
        found |= {f"by_choice{name}": float(gap.mean()), f"p_choice{name}": float((gap >= advantage).mean())}
    return found


# ---- tables and sentences ----------------------------------------------------------------------


def effect_table(table: pd.DataFrame) -> pd.DataFrame:
    """`effects` as people read it: each interval in a column; "at 0.3" is that of random effects."""
    correlations = [name.removeprefix("low_") for name in table if name.startswith("low_0")]
    shown = {
        "task": table["task"], "fraction": table["fraction"], "effect": table["effect"],
        "above 0": [f"{gains} of {n}" for gains, n in zip(table["gains"], table["networks"], strict=True)],
        "interval": _ends(table, "low", "high"),
    }  # fmt: skip
    for value in correlations:
        shown[f"at {value}"] = _ends(table, f"low_{value}", f"high_{value}")
    shown["next network"] = _ends(table, "low_next", "high_next")
    words = [
        word(found) if pd.isna(p) else f"{word(found)}, p {p:.3f}"
        for found, p in zip(table["word"], table["p_holm"], strict=True)
    ]
    return pd.DataFrame({**shown, "word": words})


def left_out_table(table: pd.DataFrame) -> pd.DataFrame:
    """`leave_out` as people read it: a row a set of networks, a column a task and fraction."""
    rows: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        rows.setdefault(row["without"] or "(none)", {})[place(row)] = interval(row)
    return pd.DataFrame([{"without": name, **cells} for name, cells in rows.items()])


def kinds_table(table: pd.DataFrame) -> pd.DataFrame:
    """`between_kinds` as people read it: the mean and its interval, then the best of each."""
    return pd.DataFrame({
        "task": table["task"], "fraction": table["fraction"], "effect": table["effect"],
        "interval": _ends(table, "low", "high"), "word": table["word"],
        "best of each": [f"{a}, {b}" for a, b in zip(table["best_first"], table["best_second"], strict=True)],
        "difference": table["advantage"],
        "p, equal": table["p_choice"].map("{:.3f}".format),
        "p, unlike": table["p_choice_spread"].map("{:.3f}".format),
    })  # fmt: skip


def _ends(table: pd.DataFrame, low: str, high: str) -> list[str]:
    ends = zip(table[low], table[high], strict=True)
    return ["–" if pd.isna(a) else f"{signed(a, 3)} to {signed(b, 3)}" for a, b in ends]


def each(table: pd.DataFrame) -> str:
    """The effects of a table: "RSNA at 1 % +0.006 (−0.013 to +0.025); ..."."""
    return "; ".join(f"{place(row)} {interval(row)}" for row in table.to_dict("records")) or "no comparison"


@dataclass(frozen=True)
class Arms:
    """What the kinds and arms of a table are called.

    Args:
        three_d: kind of the 3D networks.
        two_d: kind of the 2D networks.
        baseline: arm without pretraining.
        video: arm of 3D networks that saw video.
        image: arm of 2D networks that saw photographs.
        ct: arm that saw another CT set.
        sequential: arm of 3D networks that saw video, then CT.
    """

    three_d: str = "3D"
    two_d: str = "2D"
    baseline: str = "none"
    video: str = "video"
    image: str = "imagenet"
    ct: str = "ct"
    sequential: str = "video+ct"


@dataclass(frozen=True)
class Reading:
    """A table of cells, read.

    Args:
        cells: of `read`.
        arms: what its kinds and arms are called.
        how: level, margin, correlations, draws.
    """

    cells: pd.DataFrame
    arms: Arms
    how: How

    def compared(self, first: str, second: str) -> Comparison:
        """Two arms of the 3D networks."""
        return Comparison(self.arms.three_d, first, second)

    @cached_property
    def video(self) -> pd.DataFrame:
        """`effects` of video against no pretraining."""
        return effects(self.cells, self.compared(self.arms.video, self.arms.baseline), self.how)

    @cached_property
    def video_pairs(self) -> pd.DataFrame:
        """`pairs` of video against no pretraining."""
        return pairs(self.cells, self.compared(self.arms.video, self.arms.baseline))

    @cached_property
    def ct(self) -> pd.DataFrame:
        """`effects` of video against CT."""
        return effects(self.cells, self.compared(self.arms.video, self.arms.ct), self.how)

    @cached_property
    def sequential(self) -> pd.DataFrame:
        """`effects` of video then CT against video."""
        return effects(self.cells, self.compared(self.arms.sequential, self.arms.video), self.how)

    @property
    def impure(self) -> list[str]:
        """3D networks whose video weights saw something else too."""
        return impure(self.cells, self.compared(self.arms.video, self.arms.baseline))

    def against_2d(self, without: Sequence[str] = ()) -> pd.DataFrame:
        """`between_kinds`: 3D networks from video against 2D networks from photographs."""
        arms = self.arms
        kept = self.cells[~self.cells["network"].isin(without)]
        return between_kinds(kept, (arms.three_d, arms.video), (arms.two_d, arms.image), self.how)

    def at_chance(self, arm: str) -> str:
        """How many cells of the 3D networks from an arm reach chance: "31 of 35"."""
        cells = self.cells[(self.cells["kind"] == self.arms.three_d) & (self.cells["arm"] == arm)]
        return f"{int(reaches_chance(cells).sum())} of {len(cells)}"

    def sentences(self) -> list[str]:
        """What the cells say, a sentence a claim of the paper, and one on the order of video and CT."""
        arms, of_2d = self.arms, self.against_2d()
        one, two, three = self._verdicts()
        return [
            f"Claim 1, {arms.video} raises the mean of the 3D networks in every task, whatever the number of "
            f"patients: {one}. {each(self.video)}. But {self.at_chance(arms.baseline)} cells "
            f"from {arms.baseline} and {self.at_chance(arms.video)} from {arms.video} reach an AUROC of "
            f"{CHANCE:g}: {self._both_learned()}.",
            f"Claim 2, with {arms.video} 3D networks outperform 2D ones: {two}. On the mean they lie "
            f"below 2D networks from {arms.image} in {_count(of_2d, 'effect', below=True)}; the best 3D network "
            f"is above the best 2D one in {_count(of_2d, 'advantage')}, further than choosing the best "
            f"explains in {self._beyond(of_2d, '')} if all networks were equal, and in "
            f"{self._beyond(of_2d, '_spread')} if they differ as these do{self._pure()}.",
            f"Claim 3, {arms.video} helps more than {arms.ct}: {three}. {each(self.ct)}. But "
            f"{self.at_chance(arms.ct)} cells from {arms.ct} reach an AUROC of {CHANCE:g}.",
            f"{arms.sequential} against {arms.video} alone: {each(self.sequential)}.",
        ]

    def show_result(self) -> None:
        """Show the comparisons of the first claim, and leave them for the index of the profile."""
        arms, helps = self.arms, f"Does {self.arms.video} pretraining help"
        shown = {"question": f"{helps}?", "compared": f"{arms.video} − {arms.baseline}"}
        found = [(place(row), interval(row), word(row["word"])) for row in self.video.to_dict("records")]
        rows = [shown | dict(zip(("task", "difference", "answer"), row, strict=True)) for row in found]
        odd = len(oddities(self.cells))
        chance = (f"{self.at_chance(arm)} from {arm}" for arm in (arms.baseline, arms.video))
        told = zip(self._verdicts(), self.sentences()[:3], strict=True)
        more = {
            "asked": f"{helps} in {listed(self.cells['task'].unique())}?",
            "tiles": [{"name": "Printed values", "word": f"{odd or 'none'} to look at", "good": not odd}],
            "claims": [{"verdict": verdict, "sentence": sentence} for verdict, sentence in told],
            "caveats": [
                f"The intervals of {listed(chance)} cells of 3D networks reach the AUROC of chance.",
                "One training of each network, and no exams: what a seed or a patient changes is not known.",
            ],
        }
        caption = "Result: differences in printed AUROC, mean over networks, with intervals over networks."
        figures.result(pd.DataFrame(rows), caption, more)

    def _verdicts(self) -> list[str]:
        return [verdict_of(table["word"]) for table in (self.video, self.against_2d(), self.ct)]

    def _both_learned(self) -> str:
        both = self.video_pairs.loc[self.video_pairs["both_learned"], "effect"]
        if both.empty:
            return "in no pair did both learn"
        ends = f"{signed(both.min(), 3)} to {signed(both.max(), 3)}"
        return f"in the {len(both)} pairs in which both learned the difference is {ends}"

    def _beyond(self, table: pd.DataFrame, spread: str) -> int:
        return int(((table["advantage"] > 0) & (table[f"p_choice{spread}"] < 1 - self.how.level)).sum())

    def _pure(self) -> str:
        if not self.impure:
            return ""
        left = self.against_2d(self.impure)
        return (
            f"; without {listed(self.impure)}, whose weights saw more than {self.arms.video}, "
            f"it is in {_count(left, 'advantage')}"
        )


def _count(table: pd.DataFrame, column: str, below: bool = False) -> str:
    values = table[column]
    return f"{int(((values < 0) if below else (values > 0)).sum())} of {len(table)}"
