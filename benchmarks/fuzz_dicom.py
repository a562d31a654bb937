"""Fuzz the readers: damaged DICOM, MetaImage and NRRD files, scanned and read in a child.

    python benchmarks/fuzz_dicom.py [--format dicom] [--files N] [--seed 0] [--processes 1] [--keep FOLDER]

Sources are the codec zoo of ../shared/data, where it is present, and small volumes written here, in every
lossless transfer syntax. By default 4,000 files of DICOM and 2,000 of MetaImage and NRRD each. Prints what
became of the files by source and by kind of damage, and each fault: a crash, a hang of over 10 s, an error
other than SeriesError, a file that scan does not count, 2 GB allocated, or another volume where bytes of
voxels are missing or have a checksum. Ends with 1 if there is a fault. 4,000 files of DICOM take about three
minutes on one core, 2,000 others one to two.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(
    0, str(PROJECT / "tests" / "factories")
)  # the mutations are shared with tests/io/test_fuzz.py

import dicom_fuzz  # noqa: E402
import fuzz_pool  # noqa: E402
import itk_fuzz  # noqa: E402

N_FILES = {"dicom": 4000, **dict.fromkeys(itk_fuzz.FORMATS, 2000)}
"""Formats, and how many damaged files of each."""
ZOO = PROJECT.parent / "shared" / "data" / "codec-zoo-chest-slice"


def table(title: str, counts: dict[str, Counter[str]]) -> None:
    """Print counts of outcomes, one row a name."""
    outcomes = sorted({o for row in counts.values() for o in row}, key=lambda o: (o not in fuzz_pool.GOOD, o))
    print(f"\n{title:24}" + "".join(f"{outcome:>12}" for outcome in outcomes) + f"{'files':>8}")
    for name, row in counts.items():
        print(f"{name:24}" + "".join(f"{row[o]:12}" for o in outcomes) + f"{row.total():8}")
    total = sum(counts.values(), Counter())
    print(f"{'all':24}" + "".join(f"{total[o]:12}" for o in outcomes) + f"{total.total():8}")


def sources_of(which: str, folder: Path, only: str | None) -> list[Any]:
    """Undamaged volumes of a format; `only` is the end of their names."""
    if which != "dicom":
        found = list(itk_fuzz.sources(which, folder / "sources"))
    else:
        found = list(dicom_fuzz.made_sources(folder))
        if ZOO.is_dir():
            found = [*dicom_fuzz.zoo_sources(ZOO, folder), *found]
        else:
            print(f"only files made here: {ZOO} is missing")
    return [source for source in found if only is None or source.name.endswith(f"/{only}")]


def fuzz(
    which: str, files: int, seed: int, processes: int, kind: str | None, only: str | None, keep: Path | None
) -> int:
    """Damage files of a format, read them, print what happens; the number of faults."""
    began = time.perf_counter()
    maker: Any = dicom_fuzz if which == "dicom" else itk_fuzz
    by_source: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    slowest, peak, faults = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = list(maker.KINDS) if kind is None else [kind]
        pairs = maker.mutants(sources_of(which, folder, only), files, seed, kinds)
        for source, mutant, verdict in fuzz_pool.judge_all(pairs, folder, processes):
            by_source.setdefault(source.name, Counter())[verdict.outcome] += 1
            by_kind.setdefault(mutant.kind, Counter())[verdict.outcome] += 1
            slowest, peak = max(slowest, verdict.seconds), max(peak, verdict.peak_bytes)
            is_fault = verdict.outcome not in fuzz_pool.GOOD
            faults += is_fault
            if is_fault or (keep and verdict.outcome in ("changed", "shorter")):
                print(
                    f"{verdict.outcome}: {source.name} {mutant.kind} {mutant.number}, file {mutant.place}: "
                    f"{mutant.what}: {verdict.reason}",
                    flush=True,
                )
            if is_fault and keep:
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"{source.name.replace('/', '-')}_{mutant.kind}_{mutant.number}.dcm"
                kept.write_bytes(mutant.data)
    table(which, by_source)
    table("damage", by_kind)
    took = time.perf_counter() - began
    print(
        f"\n{files} files of {which}, seed {seed}: {faults} faults; slowest {slowest:.2f} s, "
        f"largest child {peak / 1e6:.0f} MB, {took:.0f} s in all, {processes} process(es)"
    )
    return faults


@click.command()
@click.option("--format", "formats", type=click.Choice(list(N_FILES)), multiple=True, help="Only this one.")
@click.option("--files", type=int, help="Damaged files of each format.")
@click.option("--seed", default=0, show_default=True, help="Of the damage.")
@click.option("--processes", default=1, show_default=True, help="Children at work at once.")
@click.option("--kind", help="Only this kind of damage.")
@click.option("--syntax", help="Only this source, for instance rle.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the files that are faults.")
def main(
    formats: tuple[str, ...],
    files: int | None,
    seed: int,
    processes: int,
    kind: str | None,
    syntax: str | None,
    keep: Path | None,
) -> None:
    """Damage files, read them, count what happens."""
    faults = sum(
        fuzz(which, files or N_FILES[which], seed, processes, kind, syntax, keep)
        for which in formats or N_FILES
    )
    print("changed: a flip or a value that no reader can tell from the truth, for there is no checksum")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
