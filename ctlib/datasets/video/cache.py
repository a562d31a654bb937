"""Which videos there are, and where the frames of each lie.

A video is known by a hash of its bytes: one that is renamed, or in several places, is decoded once.
Files whose size, time of change and inode are as they were are not read again. The folder of the cache
holds nothing that cannot be made again; it may be deleted at any time.

Frames are decoded once, a byte a pixel, for all networks and workers to share. Those of some dozens of videos
lie one after the other in a file `<name>.u8`; `<name>.json` beside it says whose they are and is written
last, so a file with a record is whole, and who goes on after a kill decodes what is left.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import Map, in_order, read_json, write_json
from ctlib.datasets.store import Stamp, delete_leftovers, stamps_of
from ctlib.datasets.video.decode import Facts, VideoError, decode
from ctlib.datasets.video.index import VideoFiles, find

VERSION = 1
"""Of what is stored: a change of how frames are decoded raises it."""
MARGIN = 7 / 6
"""Stored frames are this much larger than a crop: 56 px for crops of 48 (the paper has 8 / 7)."""
LEFTOVER_S = 24 * 3600
"""A temporary file that is older belongs to nobody."""


def stored_px(crop_px: int) -> int:
    """Height and width of stored frames for crops of a size.

    >>> stored_px(48), stored_px(224)
    (56, 261)
    """
    return round(crop_px * MARGIN)


@dataclass(frozen=True)
class FrameSettings:
    """How frames are stored.

    Args:
        size_px: height and width; see `stored_px`.
        frames_per_s: frames a second of the video's own time; 0 keeps each frame as it is, and then
            videos of different rates move at different paces.
        max_frames: at most so many of a video, those in its middle; 0 keeps all.
    """

    size_px: int
    frames_per_s: float = 0.0
    max_frames: int = 0

    def __post_init__(self) -> None:
        if self.size_px < 1 or self.max_frames < 0 or not 0 <= self.frames_per_s < math.inf:
            raise VideoError(
                f"size_px is {self.size_px}, frames_per_s {self.frames_per_s}, max_frames {self.max_frames}; "
                "give at least 1, 0 and 0."
            )

    @property
    def name(self) -> str:
        """Of the folder in the cache.

        >>> FrameSettings(56).name, FrameSettings(131, 12.5, 64).name
        ('56px_all_v1', '131px_12.5fps_max64_v1')
        """
        rate = f"{self.frames_per_s!r}fps".replace(".0fps", "fps") if self.frames_per_s else "all"
        most = f"_max{self.max_frames}" if self.max_frames else ""
        return f"{self.size_px}px_{rate}{most}_v{VERSION}"


def store(folder: Path, settings: FrameSettings, batch: Sequence[tuple[str, str]]) -> None:
    """Decode videos into one file of frames and its record.

    Args:
        folder: of the files of frames.
        settings: how they are stored.
        batch: path and content (hash of the bytes) of each video.

    >>> import tempfile
    >>> from ctlib.datasets.synthetic.video import write_video
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_video(folder / "a.mkv", np.full((5, 8, 8), 7, np.uint8))
    >>> store(folder, FrameSettings(4, max_frames=3), [(str(folder / "a.mkv"), "hash of a.mkv")])
    >>> Frames(folder).read("hash of a.mkv", 4).shape
    (3, 4, 4)
    """
    name = hashlib.sha256("".join(content for _, content in batch).encode()).hexdigest()[:16]
    temporary = folder / f".{name}.u8.{uuid.uuid4().hex[:12]}"
    try:
        with temporary.open("w+b") as file:
            records = [{**_stored(Path(path), settings, file), "content": content} for path, content in batch]
        temporary.replace(folder / f"{name}.u8")
    finally:
        temporary.unlink(missing_ok=True)
    write_json(folder / f"{name}.json", {"size_px": settings.size_px, "videos": records})


def _stored(path: Path, settings: FrameSettings, file: IO[bytes]) -> dict[str, Any]:
    """Append the frames of a video to a file; one that cannot be used leaves nothing there."""
    start = file.tell()
    try:
        facts, problem = _appended(path, settings, file), ""
    except VideoError as error:
        facts, problem = Facts(), str(error)
        file.seek(start)
        file.truncate()
    n_frames = (file.tell() - start) // settings.size_px**2
    return {**dataclasses.asdict(facts), "n_frames": n_frames, "problem": problem}


def _appended(path: Path, settings: FrameSettings, file: IO[bytes]) -> Facts:
    """Append all frames, frame by frame; a long video is cut to its middle afterwards."""
    start, frame_bytes = file.tell(), settings.size_px**2
    facts = decode(path, settings.size_px, settings.frames_per_s, lambda frame: file.write(frame.tobytes()))
    n_frames = (file.tell() - start) // frame_bytes
    if 0 < settings.max_frames < n_frames:
        file.seek(start + (n_frames - settings.max_frames) // 2 * frame_bytes)
        middle = file.read(settings.max_frames * frame_bytes)
        file.seek(start)
        file.write(middle)
        file.truncate()
    return facts


@dataclass(frozen=True)
class Frames:
    """Stored frames, memory-mapped: processes that read them share the pages.

    Args:
        folder: of the files of frames.
    """

    folder: Path

    def opened(self) -> Frames:
        """The same, with its folder made and swept of what was left unfinished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        delete_leftovers(self.folder, (".u8",), time.time() - LEFTOVER_S)
        return self

    def records(self) -> dict[str, dict[str, Any]]:
        """What is stored of each video, by content: `Facts`, n_frames, problem, file, offset (frames)."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            written = read_json(path)
            offset = 0
            videos = {}
            for video in written["videos"]:
                videos[video["content"]] = {**video, "file": path.stem, "offset": offset}
                offset += video["n_frames"]
            frames = path.with_suffix(".u8")
            if frames.is_file() and frames.stat().st_size == offset * written["size_px"] ** 2:
                found.update(videos)  # else it was cut off, by a full disk for instance: decoded again
        return found

    @cached_property
    def _places(self) -> dict[str, tuple[str, int, int]]:
        return {content: (r["file"], r["offset"], r["n_frames"]) for content, r in self.records().items()}

    @cached_property
    def _maps(self) -> dict[str, NDArray[np.uint8]]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped: each process maps for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_maps"}

    def read(self, content: str, size_px: int) -> NDArray[np.uint8]:
        """All stored frames of a video, `[n, size_px, size_px]`, read-only; pages load as they are touched.

        Raises:
            KeyError: the video is not stored.
        """
        file, offset, n_frames = self._places[content]
        if file not in self._maps:
            self._maps[file] = np.memmap(self.folder / f"{file}.u8", np.uint8, "r").reshape(
                -1, size_px, size_px
            )
        return self._maps[file][offset : offset + n_frames]


BATCH = 64
"""Videos a file of frames, at most: what a kill costs, and what a worker takes at a time."""
FACTS = [field.name for field in dataclasses.fields(Facts)]
TABLE = ["path", "class", "label", "group", "listed", "n_frames", *FACTS, "problem", "content"]
"""Columns of the table of an index, see `VideoIndex`."""


@dataclass(frozen=True)
class VideoIndex:
    """Labelled videos whose frames are stored.

    Args:
        root: folder of the videos.
        frames: where their frames lie.
        settings: how they were stored.
        classes: names, in the order of the labels.
        table: a row a file: path (in root); class, and label (-1 outside of the classes); group, see
            `VideoFiles`; listed ("train", "heldout", or "" without lists); n_frames stored; what the
            file says of itself, see `Facts`; problem (one sentence, or ""); content (hash of the bytes,
            "" where it was not opened).
    """

    root: Path
    frames: Frames
    settings: FrameSettings
    classes: tuple[str, ...]
    table: pd.DataFrame

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that clips follow from: names, bytes, classes, lists, and how frames are stored.

        Files that are no video by their name, such as notes, change nothing.
        """
        whole = hashlib.sha256(repr((self.settings, VERSION, self.classes)).encode())
        opened = self.table[self.table["content"] != ""]
        for row in opened[["path", "label", "group", "listed", "content"]].itertuples(index=False):
            whole.update(repr(tuple(row)).encode())
        return whole.hexdigest()

    def problems(self) -> pd.DataFrame:
        """Files that are not used, whatever the length of a clip: path and problem."""
        return self.table.loc[self.table["problem"] != "", ["path", "problem"]].reset_index(drop=True)

    def repeated(self) -> pd.DataFrame:
        """Usable files whose bytes another file has too: path, class, listed, content."""
        usable = self.table[self.table["problem"] == ""]
        again = usable[usable["content"].duplicated(keep=False)]
        return again.sort_values(["content", "path"])[["path", "class", "listed", "content"]].reset_index(
            drop=True
        )


def prepare_videos(
    source: VideoFiles, cache: Path, settings: FrameSettings, run: Map = in_order
) -> VideoIndex:
    """Store the frames of all videos that are not stored yet.

    Args:
        source: the videos.
        cache: folder for the frames; several sources and settings may share it.
        settings: how they are stored.
        run: where files are decoded, `Engine.map` for instance; here, one after the other, without.

    Returns:
        The index. With everything stored it costs a look at each file's size and time.

    Raises:
        VideoError: no classes, no files, or a list that cannot be read. A file that cannot be used
            raises nothing; its sentence stands in the table.

    >>> import tempfile
    >>> from ctlib.datasets.synthetic.video import generate
    >>> folder = Path(tempfile.mkdtemp())
    >>> generate(folder / "videos", n_per_class=1, seed=0, size_px=28, n_frames=5)
    >>> index = prepare_videos(VideoFiles(folder / "videos"), folder / "cache", FrameSettings(28))
    >>> index.table[["path", "n_frames", "frames_per_s", "container"]].values.tolist()[0]
    ['pan_down/0000.mkv', 5, 25.0, 'matroska,webm']
    """
    classes, table = find(source)
    frames = Frames(cache / settings.name).opened()
    table["content"], unread = _contents(source.root, table, cache, run)
    known = frames.records()
    first_of = table[(table["content"] != "") & ~table["content"].duplicated()]
    todo = [
        (str(source.root / path), content)
        for path, content in zip(first_of["path"], first_of["content"], strict=True)
        if content not in known
    ]
    size = min(BATCH, math.ceil(len(todo) / 32) or 1)  # also few videos are spread over the workers
    batches = [todo[start : start + size] for start in range(0, len(todo), size)]
    run(partial(store, frames.folder, settings), batches, "batches of videos to decode")
    known = frames.records() if batches else known
    return VideoIndex(source.root, frames, settings, tuple(classes), _table(table, known, unread))


def _table(listed: pd.DataFrame, known: dict[str, dict[str, Any]], unread: dict[str, str]) -> pd.DataFrame:
    """The table of an index: what was listed, with what its records say."""
    nothing = {**dataclasses.asdict(Facts()), "n_frames": 0, "problem": ""}
    rows = []
    for row in listed.to_dict("records"):
        found = {**nothing, **known.get(row["content"], {}), **row}
        reason = row["problem"] or unread.get(row["path"]) or known.get(row["content"], nothing)["problem"]
        found["problem"] = f"{row['path']} {reason}" if reason else ""
        rows.append(found)
    return pd.DataFrame(rows)[TABLE]


# ---- which bytes are there -------------------------------------------------------------


def _contents(root: Path, table: pd.DataFrame, cache: Path, run: Map) -> tuple[list[str], dict[str, str]]:
    """The hash of each file, "" for those not to be opened; and why files cannot be read, by path."""
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    memory = cache / f"contents-{place}.json"
    before = read_json(memory) if memory.is_file() else {}
    stamps: dict[str, Stamp] = {}
    for path in table.loc[table["problem"] == "", "path"]:
        stamps[path] = stamps_of([root / path])[0]
    hashes = {
        path: before[path][1] for path in stamps if path in before and tuple(before[path][0]) == stamps[path]
    }
    todo = [path for path in stamps if path not in hashes]
    batches = [todo[start : start + BATCH] for start in range(0, len(todo), BATCH)]
    unread = {}
    answers = run(partial(_hashed, root), batches, "batches of videos to read")
    for batch, results in zip(batches, answers, strict=True):
        for path, (content, reason) in zip(batch, results, strict=True):
            if reason:
                unread[path] = reason
            else:
                hashes[path] = content
    if todo:
        write_json(memory, {path: (stamps[path], content) for path, content in hashes.items()})
    return [hashes.get(path, "") for path in table["path"]], unread


def _hashed(root: Path, paths: Sequence[str]) -> list[tuple[str, str]]:
    """SHA-256 of files, or why they cannot be read."""
    results = []
    for path in paths:
        try:
            with (root / path).open("rb") as file:
                results.append((hashlib.file_digest(file, "sha256").hexdigest(), ""))
        except OSError as error:
            results.append(("", f"cannot be read ({error.strerror})."))
    return results
