"""Which videos there are, and where the frames of each lie.

A video is known by a hash of its bytes: one that is renamed, or in several places, is decoded once.
Files whose size, time of change and inode are as they were are not read again. The folder of the cache
holds nothing that cannot be made again; it may be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib.core import Map, in_order, read_json, write_json
from ctlib.datasets.store.files import Stamp, stamps_of
from ctlib.datasets.video.decode import Facts
from ctlib.datasets.video.frames import VERSION, Frames, FrameSettings, store
from ctlib.datasets.video.index import VideoFiles, find

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
