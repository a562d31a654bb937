"""A user's table of labels, as spreadsheet programs and scripts write it: bytes to cells, or one sentence.

What is certain is read: the delimiter (comma, semicolon or tab, by which of them the header has the columns that
are asked for), an encoding with a byte order mark (UTF-8, UTF-16, UTF-32), UTF-8 without one, Excel's line `sep=;`,
empty columns and empty rows at the end. Other encodings (Latin-1, Windows-1252, Mac, Shift-JIS) cannot be told
apart: such a file is read only where all cells that are used are plain ASCII, which is the same in all of them.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctlib.datasets.cohort import CohortError

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks (Unicode 16.0, chapter 23.8) and Python's names of the encodings."""
OTHER_FILES = (
    (b"PK\x03\x04", "an Excel workbook (.xlsx) or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"%PDF", "a PDF"),
    (b"{\\rtf", "a text document (.rtf)"),
    (b"SQLite format 3", "a database"),
    (b"PAR1", "a Parquet file"),
)
"""First bytes of files that are taken for a CSV, and what they are."""
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
SAVE = "save it as 'CSV UTF-8' in the spreadsheet program"
MOST_SHOWN = 200
"""Letters of a header in a sentence."""
MOST_BYTES = 1 << 28
"""Of a table with one row an exam: ours to choose, far above a million rows."""


@dataclass(frozen=True)
class LabelRow:
    """A row of the table.

    Args:
        number: of the data row, from 1; in a spreadsheet it is one more.
        cells: text by column, without blanks around it, of the columns that were asked for.
    """

    number: int
    cells: dict[str, str]


def read_table(path: Path, columns: Sequence[str]) -> list[LabelRow]:
    """The rows of a table that are not empty.

    Args:
        path: the file.
        columns: names of the columns that are read.

    Returns:
        The rows, in the file's order.

    Raises:
        FileNotFoundError: no such file.
        CohortError: it is no table of text, is empty, lacks a column or has it twice, a row has more cells than the
            header, or a cell that is read is not certain; the sentence says what to do.

    >>> path = Path(getfixture("tmp_path")) / "labels.csv"
    >>> _ = path.write_bytes("study;label\\r\\nMüller;1\\r\\n".encode("utf-16"))
    >>> read_table(path, ["study", "label"])
    [LabelRow(number=1, cells={'study': 'Müller', 'label': '1'})]
    """
    text, is_certain = _text(path)
    delimiter, lines = _lines(path, text, columns)
    header = [_bare(cell) for cell in lines[0]]
    if missing := [column for column in columns if column not in header]:
        raise CohortError(
            f"{path.name} has no column {', '.join(missing)}; its columns are {_listed(header)}."
        )
    if twice := [column for column in columns if header.count(column) > 1]:
        raise CohortError(f"{path.name} has {header.count(twice[0])} columns {twice[0]}; rename all but one.")
    rows = []
    for number, line in enumerate(lines[1:], start=1):
        cells = [_bare(cell) for cell in line]
        if any(cells[len(header) :]):
            raise CohortError(
                f"{path.name}, data row {number}: {len(line)} cells under a header of {len(header)}; give one cell "
                f"a column, and put a cell that contains a {DELIMITERS[delimiter]} into double quotes."
            )
        if any(cells):
            padded = dict(zip(header, cells + [""] * len(header), strict=False))
            rows.append(LabelRow(number, {column: padded[column] for column in columns}))
    for row in rows:
        _check_text(path, row, is_certain)
    if not rows:
        raise CohortError(f"{path.name} has a header and no rows; give the rows under it.")
    return rows


def _bare(cell: str) -> str:
    return cell.strip().strip("\ufeff\u200b").strip()


def _listed(header: list[str]) -> str:
    """Names of columns in one line; a text that is no header may be long, and hold anything."""
    text = ", ".join(header)
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: MOST_SHOWN + 1])
    return f"{text[:MOST_SHOWN]} ..." if len(text) > MOST_SHOWN else text


def _check_text(path: Path, row: LabelRow, is_certain: bool) -> None:
    for column, cell in row.cells.items():
        where = f"{path.name}, data row {row.number}: {column}"
        if "\ufffd" in cell:
            raise CohortError(
                f"{where} holds the mark of a letter that was lost (U+FFFD); export the file again."
            )
        if not is_certain and not cell.isascii():
            letter = next(letter for letter in cell if not letter.isascii())
            raise CohortError(
                f"{where} is not in UTF-8 (byte 0x{ord(letter):02x}), and other encodings cannot be told apart; "
                f"{SAVE}."
            )


def _text(path: Path) -> tuple[str, bool]:
    """The text of a file, and whether letters outside of ASCII are certain."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it holds the labels, one row per exam.")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CohortError(f"{path.name} cannot be read ({error.strerror}); make it readable.") from error
    if not data.strip():
        raise CohortError(f"{path.name} is empty ({len(data)} bytes); give a header, and the rows under it.")
    for start, kind in OTHER_FILES:
        if data.startswith(start):
            raise CohortError(f"{path.name} is {kind}, no CSV, whatever its name; {SAVE}.")
    if len(data) > MOST_BYTES:
        raise CohortError(f"{path.name} has over {MOST_BYTES >> 20} MB; give a smaller CSV.")
    for mark, encoding in BOMS:
        if data.startswith(mark):
            try:
                return data.decode(encoding).removeprefix("\ufeff"), True
            except UnicodeDecodeError as error:
                raise CohortError(
                    f"{path.name} begins as {encoding.removesuffix('-sig').upper()} and is none from byte "
                    f"{error.start}; {SAVE}."
                ) from error
    if b"\0" in data:
        raise CohortError(
            f"{path.name} holds zero bytes, so it is no text, or UTF-16 without its byte order mark; {SAVE}."
        )
    try:
        return data.decode("utf-8"), True
    except UnicodeDecodeError:
        return data.decode("latin-1"), False


def _lines(path: Path, text: str, columns: Sequence[str]) -> tuple[str, list[list[str]]]:
    """The delimiter and the cells of each line, header first."""
    if "\0" in text:
        raise CohortError(f"{path.name} holds zero characters, so it is no text; {SAVE}.")
    if re.match(r"\s*<", text):
        raise CohortError(f"{path.name} is a web page or XML, no CSV, whatever its name; {SAVE}.")
    named = re.match(r"\s*sep=(.)[ \t]*(?:\r\n|\r|\n)", text, re.IGNORECASE)
    if named and named[1] in DELIMITERS:
        return named[1], _split(path, text[named.end() :], named[1])
    found = {mark: _split(path, text, mark, only_header=True)[0] for mark in DELIMITERS}

    def fit(mark: str) -> tuple[int, int]:
        header = [_bare(cell) for cell in found[mark]]
        return sum(column in header for column in columns), len(header)

    best = max(DELIMITERS, key=fit)  # of equal ones the first, the comma
    return best, _split(path, text, best)


def _split(path: Path, text: str, delimiter: str, only_header: bool = False) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True)
    lines: list[list[str]] = []
    try:
        for line in reader:
            lines.append(line)
            if only_header:
                break
    except csv.Error as error:
        if only_header:  # a quoted header of another delimiter
            return [[]]
        where = f"data row {len(lines)}" if lines else "header"
        raise CohortError(
            f"{path.name}, {where}: its double quotes do not fit together ({error}); write one cell a column, in "
            f"double quotes that are closed, and double a double quote within."
        ) from error
    if not lines or not lines[0]:
        raise CohortError(f"{path.name} has no header; its first line must name the columns.")
    return lines
