"""Where labelled videos are: a folder with one folder a class, or a list as UCF101 has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ctlib.core import project_path
from ctlib.datasets.synthetic.video import MANIFEST
from ctlib.datasets.video.decode import VideoError

NO_VIDEO = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".xml", ".yaml", ".yml", ".html", ".log",
    ".pdf", ".srt", ".vtt", ".npy", ".npz", ".pkl", ".h5", ".parquet", ".zip", ".gz", ".tar", ".rar", ".7z",
    ".md5", ".sha256", ".py", ".ipynb", ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".wav", ".mp3",
    ".flac",
)  # fmt: skip
"""Endings of files that are not opened; of all others it is FFmpeg that decides."""
UCF_GROUPS = r"(v_.+_g\d+)_c\d+"
"""Names of UCF101 (and UCF50, UCF11): `v_Archery_g03_c02` is the second clip cut from recording 3.
Clips of a recording show the same people and place, so the publishers keep them on one side
(https://www.crcv.ucf.edu/data/UCF101.php)."""

UNLABELLED = "unlabelled"
"""The class of videos whose folders mean nothing."""
COLUMNS = ["path", "class", "label", "group", "listed", "problem"]


@dataclass(frozen=True)
class VideoFiles:
    """Labelled videos.

    Args:
        root: folder with one folder a class.
        videos_list: text file whose lines are `Class/name.avi` or `Class/name.avi 1`; "" takes every
            file of every class. Videos of the folder that no list names are not part of the source.
        heldout_list: such a list of what is held out; "" holds out a share.
        class_index: text file whose lines are `1 Class`, in the order of the classes; "" sorts by name.
        groups: regular expression that a file's name without ending matches as a whole; videos with the
            same first group are never divided between training and held-out. Others stand alone.
        labelled: without, folders mean nothing: each file at any depth is taken, or each that a list
            names, and all are of the one class `UNLABELLED`, for an objective that reads no labels.
    """

    root: Path
    videos_list: str = ""
    heldout_list: str = ""
    class_index: str = ""
    groups: str = UCF_GROUPS
    labelled: bool = True

    def __post_init__(self) -> None:
        try:
            n_groups = re.compile(self.groups).groups
        except re.error as error:
            raise VideoError(f"groups is {self.groups!r}, no regular expression: {error}.") from error
        if self.groups and n_groups < 1:
            raise VideoError(f"groups is {self.groups!r}; put what is shared in parentheses.")
        if self.heldout_list and not self.videos_list:
            raise VideoError("heldout_list is given without videos_list; give both, or none.")

    def group_of(self, path: str) -> str:
        """What a video must stay together with.

        >>> VideoFiles(Path("ucf")).group_of("Archery/v_Archery_g03_c02.avi")
        'v_Archery_g03'
        >>> VideoFiles(Path("ucf")).group_of("Archery/mine.avi")
        'Archery/mine.avi'
        """
        found = re.fullmatch(self.groups, Path(path).stem)
        return found[1] if self.groups and found else path


def find(source: VideoFiles) -> tuple[list[str], pd.DataFrame]:
    """Classes and files of a source, without opening a video.

    Args:
        source: where they are.

    Returns:
        Names of the classes, in order, and a table with a row a file: path (in root), class, label
        (-1 outside of the classes), group, listed ("train", "heldout", or "" without lists), problem
        (what is known to be wrong before it is opened; begins with a verb). Hidden files (their name
        begins with a dot) and the manifest that `generate` writes have no row.

    Raises:
        VideoError: fewer than two classes of labelled videos, no file, or a list that cannot be read.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for path in ("walk/a.mp4", "walk/notes.txt", "run/b.avi"):
    ...     (root / path).parent.mkdir(exist_ok=True)
    ...     _ = (root / path).write_bytes(b"")
    >>> classes, table = find(VideoFiles(root))
    >>> classes, table[["path", "label", "problem"]].values.tolist()[2]
    (['run', 'walk'], ['walk/notes.txt', 1, 'is not a video, by its ending .txt.'])
    """
    if source.videos_list:
        classes, rows = _of_lists(source)
    else:
        classes, rows = _of_folder(source.root) if source.labelled else ([], _of_tree(source.root))
    table = pd.DataFrame(rows, columns=["path", "class", "listed", "problem"])
    if not source.labelled:
        classes, table["class"] = [UNLABELLED], UNLABELLED
    n_files = int((table["problem"] == "").sum())
    if len(classes) < 1 + source.labelled or not n_files:
        wanted = "one folder a class, two at least" if source.labelled else "videos"
        raise VideoError(
            f"{source.root} has {len(classes)} classes with {n_files} files that may be videos; it must "
            f"have {wanted}."
        )
    labels = {name: label for label, name in enumerate(classes)}
    table["label"] = [labels.get(name, -1) for name in table["class"]]
    table["group"] = [source.group_of(path) for path in table["path"]]
    return classes, table[COLUMNS]


# ---- a folder --------------------------------------------------------------------------

_Row = tuple[str, str, str, str]  # path, class, listed, problem


def _seen(folder: Path) -> list[Path]:
    """What lies in a folder, in order of the names, but for what is hidden and our own manifest."""
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name != MANIFEST
    )


def _of_folder(root: Path) -> tuple[list[str], list[_Row]]:
    if not root.is_dir():
        raise VideoError(f"{root} is no folder; name a folder with one folder a class.")
    rows, classes = [], []
    for path in _seen(root):
        if path.is_dir():
            classes.append(path.name)
            rows += [(f"{path.name}/{item.name}", path.name, "", _no_video(item)) for item in _seen(path)]
        else:
            rows.append((path.name, "", "", _no_video(path) or "lies outside of the folders of the classes."))
    return classes, rows


def _of_tree(root: Path) -> list[_Row]:
    """Files at any depth, where folders mean nothing."""
    rows: list[_Row] = []
    for path in _seen(root) if root.is_dir() else ():
        if path.is_dir():
            rows += [(f"{path.name}/{row[0]}", *row[1:]) for row in _of_tree(path)]
        else:
            rows.append((path.name, "", "", _no_video(path)))
    return rows


def _no_video(path: Path) -> str:
    """Why a file is no video, as far as its name tells."""
    if path.is_symlink() and not path.exists():
        return "is a link that leads nowhere."
    if path.is_dir():
        return "is a folder inside of the folder of a class; what it holds is not used."
    if path.suffix.lower() in NO_VIDEO:
        return f"is not a video, by its ending {path.suffix}."
    return ""


# ---- lists -----------------------------------------------------------------------------


def _lines(path: Path, name: str) -> list[tuple[str, str]]:
    """Lines that are not empty, each with the place it is at, as errors begin.

    A relative path is taken from the project's folder, as all paths in parameters are.
    """
    try:
        text = project_path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"{name} {path} cannot be read ({error}); give a text file.") from error
    numbered = enumerate(text.splitlines(), start=1)
    return [(f"{path}, line {number}", line.strip()) for number, line in numbered if line.strip()]


def _of_lists(source: VideoFiles) -> tuple[list[str], list[_Row]]:
    numbers = _class_numbers(source.class_index)
    given = [("train", "videos_list", source.videos_list), ("heldout", "heldout_list", source.heldout_list)]
    places: dict[str, str] = {}
    used: dict[str, int | None] = {}
    rows: list[_Row] = []
    for listed, name, path in given:
        for place, line in _lines(Path(path), name) if path else ():
            video, number = _parsed(line, place)
            label = video.split("/")[0]
            if video in places:
                raise VideoError(f"{place} is {line!r}, which is also {places[video]}; name each video once.")
            if numbers and label not in numbers:
                raise VideoError(f"{place} is {line!r}, but {source.class_index} has no class {label!r}.")
            expected = numbers.get(label) if numbers else used.get(label, number)
            if number is not None and expected is not None and number != expected:
                raise VideoError(f"{place} is {line!r}, but class {label!r} is number {expected} elsewhere.")
            places[video] = place
            used[label] = number if expected is None else expected
            problem = _no_video(source.root / video)
            if not problem and not (source.root / video).is_file():
                problem = f"is missing, but {Path(path).name} names it in line {place.rsplit(' ', 1)[1]}."
            rows.append((video, label, listed, problem))
    return list(numbers) or sorted(used), rows


def _parsed(line: str, place: str) -> tuple[str, int | None]:
    """Path and number of the class, which may be missing, of a line of a list.

    >>> _parsed("Archery/v_Archery_g01_c01.avi 3", "here"), _parsed("Tai Chi/a b.avi", "here")
    (('Archery/v_Archery_g01_c01.avi', 3), ('Tai Chi/a b.avi', None))
    """
    words = re.fullmatch(r"(.*\S)\s+(\d+)", line)
    video, number = (words[1], int(words[2])) if words else (line, None)
    parts = video.split("/")
    if len(parts) != 2 or not all(parts) or ".." in parts or "\\" in video:
        raise VideoError(f"{place} is {line!r}; it must be Class/name, with a number after it or without.")
    return video, number


def _class_numbers(class_index: str) -> dict[str, int]:
    """Number of each class, in the order of the numbers."""
    numbers: dict[str, int] = {}
    for place, line in _lines(Path(class_index), "class_index") if class_index else ():
        found = re.fullmatch(r"(\d+)\s+(.+)", line)
        if not found or found[2] in numbers or int(found[1]) in numbers.values():
            raise VideoError(f"{place} is {line!r}; it must be a number and a class, each once.")
        numbers[found[2]] = int(found[1])
    return dict(sorted(numbers.items(), key=lambda item: item[1]))
