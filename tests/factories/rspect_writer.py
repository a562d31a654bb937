"""A train.csv in the form of RSPECT's, of any size: 17 columns, hashed UIDs, slices of an exam together."""

import numpy as np
import pyarrow as pa
from pyarrow import csv

N_STUDIES, N_ROWS = 7_279, 1_790_594
"""Of the real file (docs/protocol.md)."""
SLICE = ("pe_present_on_image",)
EXAM = (
    *("negative_exam_for_pe", "qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1"),
    *("rv_lv_ratio_lt_1", "leftsided_pe", "chronic_pe", "true_filling_defect_not_pe", "rightsided_pe"),
    *("acute_and_chronic_pe", "central_pe", "indeterminate"),
)


def uids(n, salt):
    """n different texts of 12 hex digits; the first three look like numbers, and are none."""
    odd = 0x9E3779B97F4B | 1  # times an odd number, modulo 2**48, is one to one
    texts = [f"{(i * odd + salt) % 2**48:012x}" for i in range(n)]
    texts[:3] = [f"{salt:03d}123456789", f"1e50000{salt:05d}", f"000000{salt:06d}"][: len(texts)]
    return texts


def columns(n_studies, n_rows, seed=0):
    """The table as arrays by column; about 31 % of the exams have emboli, 3 % are indeterminate."""
    rng = np.random.default_rng(seed)
    sizes = rng.multinomial(n_rows - 3 * n_studies, np.full(n_studies, 1 / n_studies)) + 3
    exam = np.repeat(np.arange(n_studies), sizes)
    kind = rng.choice(["negative", "positive", "indeterminate"], n_studies, p=[0.66, 0.31, 0.03])
    flags = {name: rng.integers(0, 2, n_studies, dtype=np.int8) for name in EXAM}
    flags["negative_exam_for_pe"] = (kind == "negative").astype(np.int8)
    flags["indeterminate"] = (kind == "indeterminate").astype(np.int8)
    within = np.arange(n_rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    embolus = (kind == "positive")[exam] & (within < 0.3 * sizes[exam])
    texts = {
        "StudyInstanceUID": np.array(uids(n_studies, 1), object)[exam],
        "SeriesInstanceUID": np.array(uids(n_studies, 2), object)[exam],
        "SOPInstanceUID": np.array(uids(n_rows, 3), object),
    }
    return texts | {SLICE[0]: embolus.astype(np.int8)} | {name: flags[name][exam] for name in EXAM}


def write(path, n_studies=N_STUDIES, n_rows=N_ROWS, seed=0):
    """Write it as Kaggle does: no quotes, whole numbers."""
    options = csv.WriteOptions(quoting_style="none", quoting_header="none")
    csv.write_csv(pa.table(columns(n_studies, n_rows, seed)), path, options)
    return path
