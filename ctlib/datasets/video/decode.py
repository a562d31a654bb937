"""One video file: what it says of itself, and its frames, grey, square and small.

Colour is dropped: CT has one channel, and so have the clips here. Frames are as they are stored; the
turn that a phone notes beside them, and pixels that are not square, are passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Take = Callable[[NDArray[np.uint8]], Any]
"""Takes the frames one after the other."""

REPEATED_SHARE = 0.05
"""Share of frames that a rate may repeat: 29.97 is shown at 30 and 24 at 25, 12 at 25 is refused."""
DAMAGED_SHARE = 0.05
"""Share of frames that a decoder may have patched up; a video with more is not used."""
MISSING_SHARE = 0.05
"""Share by which a video may be shorter than its file states; one that is shorter was cut off."""
LONGEST_GAP_S = 2.0
"""Between two frames of a video that is brought to another rate; a longer one is no motion."""
_DURATION = re.compile(r"(\d+):(\d+):(\d+\.?\d*)")


class VideoError(ValueError):
    """Videos cannot be used: one sentence that says why."""


@dataclass(frozen=True)
class Facts:
    """What a file says of itself, besides its pictures.

    Args:
        frames_per_s: as the file states it, before any other rate is chosen; NaN where unknown.
        duration_s: number of frames over that rate.
        width: of a frame as stored, px.
        height: of a frame as stored, px.
        container: FFmpeg's name of the format of the file.
        codec: FFmpeg's name of the decoder.
        n_damaged: frames that the decoder patched up.
    """

    frames_per_s: float = math.nan
    duration_s: float = math.nan
    width: int = 0
    height: int = 0
    container: str = ""
    codec: str = ""
    n_damaged: int = 0


def read_video(path: Path, size_px: int, frames_per_s: float = 0.0) -> NDArray[np.uint8]:
    """The frames of a video of any kind: grey, the middle square, brought to `size_px`.

    Args:
        path: of the file.
        size_px: height and width of what is returned.
        frames_per_s: see `decode`.

    Returns:
        uint8 [n, size_px, size_px].

    Raises:
        VideoError: see `decode`; the sentence names the file.

    >>> import tempfile
    >>> from ctlib.datasets.synthetic.video import write_video
    >>> path = Path(tempfile.mkdtemp()) / "second.mkv"
    >>> write_video(path, np.full((25, 8, 10), 200, np.uint8), frames_per_s=25)
    >>> read_video(path, 4).shape, read_video(path, 4, frames_per_s=5).shape, read_video(path, 4).max()
    ((25, 4, 4), (5, 4, 4), np.uint8(200))
    """
    frames: list[NDArray[np.uint8]] = []
    try:
        decode(path, size_px, frames_per_s, frames.append)
    except VideoError as error:
        raise VideoError(f"{path} {error}") from error
    return np.stack(frames) if frames else np.empty((0, size_px, size_px), np.uint8)


def decode(path: Path, size_px: int, frames_per_s: float, take: Take) -> Facts:
    """Read a video from first to last frame, without keeping it.

    With a rate, the frame nearest to each point in time is taken, from the first frame on. A video
    that is slower would have to show frames twice; more than `REPEATED_SHARE` of that is refused,
    for a class of slow videos would be told by it.

    Args:
        path: of the file.
        size_px: height and width of what is taken.
        frames_per_s: frames a second of the video's own time that are taken; 0 takes each as it is.
        take: gets the frames, uint8 [size_px, size_px].

    Returns:
        What the file says of itself.

    Raises:
        VideoError: the file is no video, is cut off or damaged, or slower than `frames_per_s`. The
            sentence begins with its verb; the caller names the file before it.

    >>> import tempfile
    >>> from ctlib.datasets.synthetic.video import write_video
    >>> path, taken = Path(tempfile.mkdtemp()) / "second.mkv", []
    >>> write_video(path, np.zeros((25, 8, 10), np.uint8), frames_per_s=25)
    >>> facts = decode(path, 4, 5.0, taken.append)
    >>> facts.frames_per_s, facts.duration_s, facts.width, facts.codec, len(taken)
    (25.0, 1.0, 10, 'ffv1', 5)
    """
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            streams = [stream for stream in container.streams.video if not _is_cover(stream)]
            if not streams:
                kinds = sorted({stream.type for stream in container.streams})
                raise VideoError(f"holds no video, only {' and '.join(kinds)}." if kinds else "is empty.")
            return _decode(container, streams[0], size_px, _Picker(frames_per_s, size_px, take))
    except (av.FFmpegError, IndexError, EOFError) as error:
        raise VideoError(f"cannot be read as a video ({type(error).__name__}: {_said(error)}).") from error


def _said(error: Exception) -> str:
    """What is wrong, without the path that FFmpeg adds."""
    return str(getattr(error, "strerror", None) or error)


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the picture on the sleeve of a piece of music."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _decode(container: Any, stream: Any, size_px: int, picker: _Picker) -> Facts:
    if stream.codec_context is None:
        raise VideoError("is in a codec that FFmpeg does not know.")
    stream.codec_context.thread_count = 1  # files are read in parallel, not frames
    rate = stream.average_rate or stream.guessed_rate
    picker.own_rate = float(rate) if rate else math.nan
    n_packets = n_frames = n_damaged = 0
    width = height = 0
    for packet in container.demux(stream):
        n_packets += packet.size > 0
        for frame in packet.decode():
            n_frames += 1
            n_damaged += bool(frame.is_corrupt)
            width, height = frame.width, frame.height
            picker.see(frame)
    picker.end()
    if not n_frames:
        raise VideoError("holds no frame.")
    _refuse_cut_off(stream, n_packets, picker)
    if n_damaged > DAMAGED_SHARE * n_frames:
        raise VideoError(f"is damaged: {n_damaged} of {n_frames} frames could not be decoded as they were.")
    own = picker.own_rate
    return Facts(
        frames_per_s=round(own, 3),
        duration_s=round(n_frames / own, 3),
        width=width,
        height=height,
        container=container.format.name,
        codec=stream.codec_context.name,
        n_damaged=n_damaged,
    )


def _refuse_cut_off(stream: Any, n_packets: int, picker: _Picker) -> None:
    """Refuse a video that ends before its file says so; MPEG streams do not say."""
    if stream.frames:
        stated, found, unit = float(stream.frames), float(n_packets), "frames"
    elif tag := _DURATION.fullmatch(stream.metadata.get("DURATION", "")):  # Matroska and WebM
        hours, minutes, seconds = map(float, tag.groups())
        stated, unit = 3600 * hours + 60 * minutes + seconds, "s"
        found = picker.last_s + 1 / picker.own_rate
    else:
        return
    if found < stated * (1 - MISSING_SHARE) - 1e-3:
        raise VideoError(f"is cut off: {found:.4g} of {stated:.4g} {unit} are there; copy it again.")


class _Picker:
    """Hands on the frames that a rate asks for.

    Args:
        frames_per_s: 0 for every frame.
        size_px: height and width of what is handed on.
        take: gets them.
    """

    def __init__(self, frames_per_s: float, size_px: int, take: Take) -> None:
        self.own_rate = math.nan
        self.last_s = math.nan
        self._rate, self._size_px, self._take = frames_per_s, size_px, take
        self._first_s = math.nan
        self._waiting: Any = None
        self._n_taken = self._n_again = 0

    def see(self, frame: Any) -> None:
        """The next frame of the video."""
        step = 1 / self.own_rate if self.own_rate > 0 else 0.0
        if self._waiting is None:
            self._first_s = now = float(frame.time or 0.0)
        else:
            now = self.last_s + step if frame.time is None else float(frame.time)
            now = now if now > self.last_s else self.last_s + step  # some files step back in time
            if self._rate:
                self._refuse_gap(now - self.last_s)
                self._hand_on(until=(self.last_s + now) / 2)
        self._waiting, self.last_s = frame, now
        if not self._rate:
            self._take(square(frame.to_ndarray(format="gray"), self._size_px))

    def end(self) -> None:
        """There are no more frames."""
        if self._rate and self._waiting is not None:
            self._hand_on(until=self.last_s)
            if self._n_again > 1 + REPEATED_SHARE * self._n_taken:
                raise VideoError(
                    f"is too slow: at {self._rate:g} frames/s, {self._n_again} of {self._n_taken} frames "
                    "would be shown twice; ask for fewer frames a second."
                )

    def _hand_on(self, until: float) -> None:
        """The waiting frame, for each point in time to which it is the nearest."""
        again = 0
        # a millionth of a frame: sums of binary fractions are not exact
        while self._first_s + (self._n_taken - 1e-6) / self._rate <= until:
            self._take(square(self._waiting.to_ndarray(format="gray"), self._size_px))
            self._n_taken += 1
            self._n_again += again
            again = 1

    def _refuse_gap(self, gap_s: float) -> None:
        if gap_s > LONGEST_GAP_S:
            raise VideoError(f"stands still for {gap_s:.1f} s between two frames; cut it there.")


def square(frame: NDArray[Any], size_px: int) -> NDArray[np.uint8]:
    """The middle square of a frame `[H, W]`, brought to `size_px`: area means, or bilinear if it grows.

    >>> square(np.array([[0, 10, 20, 0], [0, 30, 40, 0]], np.uint8), 2).tolist()
    [[10, 20], [30, 40]]
    """
    side = min(frame.shape)
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    middle = frame[top : top + side, left : left + side]
    if side == size_px:
        return middle
    how = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
    return cv2.resize(middle, (size_px, size_px), interpolation=how).astype(np.uint8)
