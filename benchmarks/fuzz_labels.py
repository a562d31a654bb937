"""Fuzz the reader of label files: tables in every form that is promised, and damaged ones.

    python benchmarks/fuzz_labels.py [--files 2000] [--seed 0]

Half of the tables say the same in another form (delimiter, encoding, quotes, prefix, True and False): what is read
must be the truth. Half are damaged: a table or one sentence, no other error. Ends with 1 if there is a fault. 2,000
files take about five seconds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import nibabel
import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests" / "factories"))

import label_fuzz  # noqa: E402


@click.command()
@click.option("--files", default=2000, show_default=True, help="Tables.")
@click.option("--seed", default=0, show_default=True, help="Of their forms and the damage.")
def main(files: int, seed: int) -> None:
    """Write tables, read them, count what happens."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        (root / "b").mkdir(parents=True)
        for i in range(6):
            hu = np.random.default_rng(i).integers(-1000, 100, (6, 7, 8)).astype(np.int16)
            image = nibabel.Nifti1Image(hu, np.diag([-0.7, -0.7, 2.5, 1.0]))
            image.set_sform(image.affine, 1)
            nibabel.save(image, root / "b" / f"{i:03d}.nii.gz")
        faults, counts = label_fuzz.run(root, files, seed)
    for fault in faults:
        print(fault)
    print(f"{files} tables, seed {seed}: {len(faults)} faults; {dict(counts)}")
    sys.exit(len(faults) > 0)


if __name__ == "__main__":
    main()
