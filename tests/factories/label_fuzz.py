"""Tables of labels, rewritten and damaged: what is read of them must be the truth, or refused in a sentence.

A rewritten table says the same in another form. A damaged one may say something else: a flipped digit is another
label, which nobody can tell. There a row that is read must stand so in the file.
"""

import random
from collections import Counter
from pathlib import Path

from ctlib.datasets import folder
from ctlib.datasets.cohort import CohortError
from ctlib.datasets.folder import Columns

HEADER = ["study", "label", "patient"]


def _delimited(rows, mark, end="\n"):
    return end.join([mark.join(row) for row in rows]) + end


def _rewrite(rng, rows, root):
    """The same table in another form: bytes."""
    rows = [list(row) for row in rows]
    mark, end = rng.choice(",;\t"), rng.choice(["\n", "\r\n", "\r"])
    before = rng.choice(["", "", "./", f"{root.name}/", f"{root}/", f"{root.parent.name}/{root.name}/"])
    style = rng.randrange(3)
    for row in rows[1:]:
        row[0] = before + row[0] + rng.choice(["", "", ".nii.gz"])
        if rng.random() < 0.2:
            row[0] = row[0].replace("/", "\\") if not row[0].startswith("./") else row[0]
        row[1] = [row[1], f"{row[1]}.0", str(row[1] == "1").upper()][style]
    if rng.random() < 0.3:  # columns in another order, and one that nobody asked for
        order = rng.sample(range(4), 4)
        rows = [[[*row, "note" if n == 0 else "x"][i] for i in order] for n, row in enumerate(rows)]
    if rng.random() < 0.3:
        rows = [[*row, "", ""] for row in rows]
    if rng.random() < 0.3:
        rows = [[f'"{cell}"' for cell in row] for row in rows]
    if rng.random() < 0.3:
        rows.insert(rng.randrange(1, len(rows) + 1), [""] * len(rows[0]))
    if rng.random() < 0.2:
        rows = [[f" {cell} " if '"' not in cell else cell for cell in row] for row in rows]
    text = _delimited(rows, mark, end)
    if rng.random() < 0.2:
        text = f"sep={mark}{end}{text}"
    return text.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-32", "ascii"]))


def _damage(rng, data):
    """Bytes that were flipped, cut, inserted, doubled or exchanged."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = rng.choice(
                [b'"', b",", b";", b"\n", b"\0", b"\xff", b"\xfc", b"\t", b"=", b"\xef\xbf\xbd"]
            )
        elif kind == 3:
            data[at : at + rng.randrange(1, 9)] = b""
        elif kind == 4:
            data[at:at] = data[at : at + rng.randrange(1, 30)]
        else:
            data[:0] = rng.choice(
                [b"PK\x03\x04", b"\xff\xfe", b"\xef\xbb\xbf", b"<", b"\n\n", b"\xd0\xcf\x11\xe0"]
            )
        if not data:
            break
    return bytes(data)


def _verdict(path, root, known, truth, is_same):
    """right, partly, refused, or a sentence that says what is wrong with it."""
    try:
        rows = folder.read_labels(path, Columns(patient="patient"))
        rows_of, lost = folder._matched(rows, known, root)
        if len(lost):
            folder._check_zeros(path, lost, known, rows_of)
    except CohortError as error:
        told = f"{error}{error.shown}"
        if "\n" in told or "\r" in told or not str(error).endswith(".") or path.name not in str(error):
            return f"no sentence: {error}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    found = {uid: (row.label, row.patient) for uid, given in rows_of.items() for row in given}
    if is_same:
        return "right" if found == truth and not len(lost) else f"wrong: {found}"
    text = path.read_bytes()
    loose = [
        row.patient for row in rows.itertuples() if row.patient.isascii() and row.patient.encode() not in text
    ]
    if loose and b"\0" not in text and b'""' not in text:
        return f"patients that the file does not have: {loose}"
    return "right" if found == truth else "partly"


def run(root: Path, n: int, seed: int = 0) -> tuple[list[str], Counter]:
    """Write and read n tables of the volumes b/000.nii.gz, b/001.nii.gz ... of a folder.

    Returns:
        A sentence a fault, and how many tables were right, partly read and refused.
    """
    rng, counts, faults = random.Random(seed), Counter(), []
    series, _ = folder.scan(root)
    known = folder._lookup(series, root)
    names = {
        Path(files[0]).name[:3]: uid for files, uid in zip(series["files"], series["series_uid"], strict=True)
    }
    rows = [HEADER, *([f"b/{name}", str(i % 2), f"P{i}"] for i, name in enumerate(sorted(names)))]
    truth = {names[row[0][2:]]: (int(row[1]), row[2]) for row in rows[1:]}
    path = root.parent / "fuzzed.csv"
    for number in range(n):
        is_same = number % 2 == 0
        data = _rewrite(rng, rows, root)
        path.write_bytes(data if is_same else _damage(rng, data))
        verdict = _verdict(path, root, known, truth, is_same)
        counts[verdict.split(":")[0]] += 1
        if verdict not in ("right", "partly", "refused"):
            faults.append(f"table {number}: {verdict}")
    path.unlink()
    return faults, counts
