"""A video source that generates itself: discs that move over a photograph, and the motion is the label.

It is made of the two photographs that ship with scikit-learn. A clip shows a random crop of one, out of
focus and of low contrast, at random scale, angle, brightness and polarity; the camera stands. Bright discs
come, grow, shrink and go, and all move in one of nine ways meanwhile; the way is the label. A single frame
says nothing about the class.

The discs are there for `ctlib.datasets.synthetic.ct`, whose task `lidc_nodule` was built to gain from these
videos: whether small bright things stand or move is what both are about. How bright, large and lasting they
are, and how plain the ground, follows the phantoms; how many there are was chosen so that tiny networks learn
the motion within two to four hundred steps. With one to three discs of any polarity that stayed throughout,
and photographs that moved among them, the same networks learned less, and networks from random weights were
as good on phantoms (development seeds; see the plan of the demo).

Nothing is ever flipped: a mirrored pan to the left is a pan to the right.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from ctlib.core import read_json, write_json
from ctlib.datasets.synthetic import GENERATORS

MOTIONS = {
    # (x, y, log scale, turn): which way what is shown goes
    "static": (0, 0, 0, 0),
    "pan_left": (-1, 0, 0, 0),
    "pan_right": (1, 0, 0, 0),
    "pan_up": (0, -1, 0, 0),
    "pan_down": (0, 1, 0, 0),
    "zoom_in": (0, 0, 1, 0),
    "zoom_out": (0, 0, -1, 0),
    "rotate_left": (0, 0, 0, -1),
    "rotate_right": (0, 0, 0, 1),
}
"""The classes, named by the way in which the content moves on the screen (right: clockwise)."""
PACES = ((0.8, 2.8), (0.8, 2.8), (0.02, 0.06), (0.035, 0.11))
"""Slowest and fastest step a frame: px of a frame of 56 px, the same, log scale, radians."""
N_DISCS = (4, 8)
"""Fewest and most discs of a clip."""
DISC_FRAMES = (0.5, 0.875)
"""Fewest and most frames that a disc is there, of the frames of a clip."""
DISC_RADIUS = (0.05, 0.09)
"""Largest radius of a disc, in widths of the frame; it grows and shrinks as a ball that is cut in slices."""
DISC_BRIGHT = (0.8, 1.0)
"""Brightness of the discs, of [0, 1]; that of round objects in a phantom's lung."""
GROUND, GROUND_SPREAD, GROUND_MOST = (0.3, 0.5), (0.04, 0.12), 0.65
"""Mean and standard deviation of the ground behind them, and what nothing of it exceeds."""
FOCUS = 1 / 14
"""Standard deviation of the blur behind the discs, in widths of the frame."""
VERSION = GENERATORS["videos"]
MANIFEST = "videos.json"


def motion(name: str, n_frames: int, size_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A motion as one affine map a frame, about the middle of the frame.

    Args:
        name: a key of `MOTIONS`.
        n_frames: frames.
        size_px: height and width of a frame; paces grow with it.
        rng: draws the pace.

    Returns:
        [n_frames, 3, 3], maps (x, y, 1) of the middle frame to where it is shown, px.

    >>> path = motion("pan_right", 3, 56, np.random.default_rng(0))
    >>> path[:, 0, 2].round(2).tolist()
    [-2.07, 0.0, 2.07]
    """
    pace = rng.uniform(*np.transpose(PACES)) * MOTIONS[name] * (size_px / 56, size_px / 56, 1, 1)
    steps = (np.arange(n_frames) - (n_frames - 1) / 2)[:, None] * pace
    grow, turn = np.exp(steps[:, 2]), steps[:, 3]
    maps = np.zeros((n_frames, 3, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = grow * np.cos(turn)
    maps[:, 0, 1], maps[:, 1, 0] = -grow * np.sin(turn), grow * np.sin(turn)
    maps[:, :2, 2], maps[:, 2, 2] = steps[:, :2], 1
    return maps


def photographs() -> list[NDArray[np.float32]]:
    """The photographs of scikit-learn (china, flower), grey, float32 [H, W] in [0, 1]."""
    return [
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        for image in load_sample_images().images
    ]


def _placed(photo: NDArray[np.float32], size_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random view of a photograph: maps photograph to frame, both about their middle, [3, 3]."""
    scale = np.exp(rng.uniform(np.log(0.35), np.log(1.1))) * size_px / 56
    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    x, y = rng.uniform(0.25, 0.75, 2) * photo.shape[::-1]
    return np.array([[cos, -sin, sin * y - cos * x], [sin, cos, -sin * x - cos * y], [0, 0, 1]])


def _shown(photo: NDArray[np.float32], placed: NDArray[np.float64], size_px: int) -> NDArray[np.float32]:
    """A photograph as it is placed in the frame, mirrored beyond its edges."""
    middle = np.array([[1, 0, (size_px - 1) / 2], [0, 1, (size_px - 1) / 2], [0, 0, 1]])
    to_frame = (middle @ placed)[:2]
    frame = np.empty((size_px, size_px), np.float32)
    cv2.warpAffine(
        photo,
        to_frame,
        (size_px, size_px),
        dst=frame,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return frame


def _discs(maps: NDArray[np.float64], size_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Where moving discs are, [n, size, size] in [0, 1], with a soft edge."""
    n = len(maps)
    cover = np.zeros((n, size_px, size_px), np.float32)
    axis = np.arange(size_px) - (size_px - 1) / 2
    fewest, most = (max(1, round(share * n)) for share in DISC_FRAMES)
    for _ in range(rng.integers(N_DISCS[0], N_DISCS[1] + 1)):
        lasts = int(rng.integers(fewest, most + 1))
        first = int(rng.integers(n - lasts + 1))
        radius = rng.uniform(*DISC_RADIUS) * size_px
        midway = np.append(rng.uniform(-0.4, 0.4, 2) * size_px, 1.0)
        at = maps @ np.linalg.solve(maps[first + lasts // 2], midway)
        share = (np.arange(n) - first - (lasts - 1) / 2) / (lasts / 2)
        radii = (radius * np.sqrt(np.clip(1 - share**2, 0, None)))[:, None, None]
        distance = np.hypot(axis[:, None] - at[:, 1, None, None], axis - at[:, 0, None, None])
        np.maximum(cover, np.clip(0.5 + radii - distance, 0, 1) * (radii > 0), out=cover)
    return cover


def _ground(
    photo: NDArray[np.float32], placed: NDArray[np.float64], size_px: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A photograph out of focus, [size, size], of random brightness, contrast and polarity."""
    blurred = cv2.GaussianBlur(_shown(photo, placed, size_px), (0, 0), FOCUS * size_px)
    frame = np.asarray(blurred, np.float32)
    centred = (frame - frame.mean()) / max(float(frame.std()), 0.02) * rng.choice([-1.0, 1.0])
    level, spread = rng.uniform(*GROUND), rng.uniform(*GROUND_SPREAD)
    return np.clip(level + centred * spread, 0, GROUND_MOST).astype(np.float32)


def frames_of(
    name: str, photos: list[NDArray[np.float32]], n_frames: int, size_px: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One generated clip.

    Args:
        name: a key of `MOTIONS`.
        photos: photographs, float32 [H, W] in [0, 1].
        n_frames: frames.
        size_px: height and width.
        rng: draws everything but the motion's name.

    Returns:
        uint8 [n_frames, size_px, size_px].
    """
    path = motion(name, n_frames, size_px, rng)
    photo = photos[int(rng.integers(len(photos)))]
    ground = _ground(photo, _placed(photo, size_px, rng), size_px, rng)
    bright = np.float32(rng.uniform(*DISC_BRIGHT))
    frames = ground + _discs(path, size_px, rng) * (bright - ground)
    frames += rng.normal(0, 0.01, frames.shape).astype(np.float32)
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def write_video(path: Path, frames: NDArray[np.uint8], frames_per_s: int = 25) -> None:
    """Write grey frames without loss (FFV1 in Matroska), uint8 [n, H, W]."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=frames_per_s)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "gray"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def generate(root: Path, n_per_class: int, seed: int, size_px: int, n_frames: int) -> None:
    """Write the generated source: `<class>/<nnnn>.mkv`, and a manifest once all is written.

    What is there with the same parameters stays; of other parameters, it is written anew.

    Args:
        root: folder, which must hold nothing else.
        n_per_class: clips of each of `MOTIONS`; 0 writes nothing and looks at nothing.
        seed: a clip is a function of (seed, class, number).
        size_px: height and width of a frame.
        n_frames: frames of a clip.

    Raises:
        ValueError: `root` holds files that were not generated.
    """
    if n_per_class == 0:
        return
    wanted = {"videos": list(MOTIONS), "version": VERSION, "n_per_class": n_per_class}
    wanted |= {"seed": seed, "size_px": size_px, "n_frames": n_frames}
    manifest = root / MANIFEST
    if manifest.is_file():
        found = read_json(manifest)
        if found == wanted | {"whole": True}:
            return
        if found != wanted | {"whole": False}:
            shutil.rmtree(root)
    elif root.exists() and any(root.iterdir()):
        raise ValueError(
            f"{root} holds files but no {MANIFEST}, so they were not generated and stay; name another folder."
        )
    write_json(manifest, wanted | {"whole": False})
    photos = photographs()
    for number, name in enumerate(MOTIONS):
        (root / name).mkdir(exist_ok=True)
        for k in range(n_per_class):
            rng = np.random.default_rng([seed, number, k])
            write_video(root / name / f"{k:04d}.mkv", frames_of(name, photos, n_frames, size_px, rng))
    write_json(manifest, wanted | {"whole": True})
