"""Fuzz the DICOM reader: damaged files in every lossless transfer syntax, scanned and read in a child.

    python benchmarks/fuzz_dicom.py [--files 4000] [--seed 0] [--processes 1] [--keep FOLDER]

Sources are the codec zoo of ../shared/data, where it is present, and a small volume encoded here.
Prints what became of the files by transfer syntax and by kind of damage, and each fault: a crash, a
hang of over 10 s, an error other than SeriesError, a file that scan does not count, 2 GB allocated,
or another volume where bytes of pixels are missing. Ends with 1 if there is a fault. 4,000 files
take about three minutes on one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(
    0, str(PROJECT / "tests" / "factories")
)  # the mutations are shared with tests/io/test_fuzz.py

import dicom_fuzz  # noqa: E402
import fuzz_pool  # noqa: E402

ZOO = PROJECT.parent / "shared" / "data" / "codec-zoo-chest-slice"


def table(title: str, counts: dict[str, Counter[str]]) -> None:
    """Print counts of outcomes, one row a name."""
    outcomes = sorted({o for row in counts.values() for o in row}, key=lambda o: (o not in fuzz_pool.GOOD, o))
    print(f"\n{title:24}" + "".join(f"{outcome:>12}" for outcome in outcomes) + f"{'files':>8}")
    for name, row in counts.items():
        print(f"{name:24}" + "".join(f"{row[o]:12}" for o in outcomes) + f"{row.total():8}")
    total = sum(counts.values(), Counter())
    print(f"{'all':24}" + "".join(f"{total[o]:12}" for o in outcomes) + f"{total.total():8}")


@click.command()
@click.option("--files", default=4000, show_default=True, help="Damaged files.")
@click.option("--seed", default=0, show_default=True, help="Of the damage.")
@click.option("--processes", default=1, show_default=True, help="Children at work at once.")
@click.option("--kind", help="Only this kind of damage.")
@click.option("--syntax", help="Only this source, for instance rle.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the files that are faults.")
def main(
    files: int, seed: int, processes: int, kind: str | None, syntax: str | None, keep: Path | None
) -> None:
    """Damage files, read them, count what happens."""
    began = time.perf_counter()
    by_source: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    slowest, peak, faults = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = list(dicom_fuzz.made_sources(folder))
        if ZOO.is_dir():
            sources = [*dicom_fuzz.zoo_sources(ZOO, folder), *sources]
        else:
            print(f"only files made here: {ZOO} is missing")
        sources = [s for s in sources if syntax is None or s.name.endswith(f"/{syntax}")]
        kinds = list(dicom_fuzz.KINDS) if kind is None else [kind]
        pairs = dicom_fuzz.mutants(sources, files, seed, kinds)
        for source, mutant, verdict in fuzz_pool.judge_all(pairs, folder, processes):
            by_source.setdefault(source.name, Counter())[verdict.outcome] += 1
            by_kind.setdefault(mutant.kind, Counter())[verdict.outcome] += 1
            slowest, peak = max(slowest, verdict.seconds), max(peak, verdict.peak_bytes)
            is_fault = verdict.outcome not in fuzz_pool.GOOD
            faults += is_fault
            if is_fault:
                print(
                    f"{verdict.outcome}: {source.name} {mutant.kind} {mutant.number}, slice {mutant.place}: "
                    f"{mutant.what}: {verdict.reason}",
                    flush=True,
                )
            elif verdict.outcome in ("changed", "shorter") and keep:
                print(
                    f"  changed: {source.name} {mutant.kind} {mutant.number}: {mutant.what}: {verdict.reason}"
                )
            if is_fault and keep:
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"{source.name.replace('/', '-')}_{mutant.kind}_{mutant.number}.dcm"
                kept.write_bytes(mutant.data)
    table("transfer syntax", by_source)
    table("damage", by_kind)
    took = time.perf_counter() - began
    print(
        f"\n{files} files, seed {seed}: {faults} faults; slowest {slowest:.2f} s, "
        f"largest child {peak / 1e6:.0f} MB, {took:.0f} s in all, {processes} process(es)"
    )
    print("changed: a flip or a value that no reader can tell from the truth, for DICOM has no checksum")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
