"""How the voxels of one series lie in a file: plain npy, or compressed with blosc2.

Each byte of a file stands under a checksum in the record of the series, and is compared with it
before it is used. XXH3 finds damage, at the speed of memory; it does not stop a forger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

Part = bytes | memoryview
"""Bytes that are written or compared as one; `array.data` of an array."""
N_HEX = 16
"""Hex digits of an XXH3-64."""


class StoreError(ValueError):
    """A stored volume that is missing or damaged, or one that cannot be stored."""


def digests(parts: Iterable[Part]) -> str:
    """XXH3-64 of each part, 16 hex digits each, joined.

    >>> digests([b"", b"slice"])
    '2d06800538d394c25ae4f1f59204e52f'
    """
    return "".join(xxhash.xxh3_64_hexdigest(part) for part in parts)


def check(part: Part, wanted: str, i: int, what: str = "slice") -> None:
    """Compare the bytes of slice i, or of what else is counted, with the digests of all.

    Raises:
        StoreError: they are others.
    """
    if xxhash.xxh3_64_hexdigest(part) != wanted[N_HEX * i : N_HEX * (i + 1)]:
        raise StoreError(f"{what} {i} has other bytes than were written")


def content(hu: NDArray[np.int16]) -> str:
    """XXH3-128 of the shape and the voxels of a volume, 32 hex digits, whatever its codec."""
    state = xxhash.xxh3_128(repr([int(n) for n in hu.shape]).encode())
    state.update(np.ascontiguousarray(hu, "<i2").data)
    return state.hexdigest()


class Codec(Protocol):
    """An open file of voxels, made from its path and its record.

    Making one raises an `OSError` or a `StoreError` where what stands around the voxels is damaged.
    """

    ending: ClassVar[str]
    bytes_per_voxel: ClassVar[float]

    def __init__(self, path: Path, record: dict[str, Any]) -> None: ...

    @classmethod
    def encode(cls, hu: NDArray[np.int16]) -> tuple[list[Part], dict[str, Any]]:
        """The parts of the file of a volume, and what its record must say to read it."""

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Slices, read-only. Raises a `StoreError` that names a slice that is damaged."""


class Npy:
    """Voxels as they are, memory-mapped; a slice is compared once, when it is first asked for."""

    ending: ClassVar[str] = ".npy"
    bytes_per_voxel: ClassVar[float] = 2.0

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        shape, header = tuple(record["shape"]), _header(record["shape"])
        with path.open("rb") as file:
            if file.read(len(header)) != header:
                raise StoreError(f"its header is not that of int16 {list(shape)}")
        self._mapped = np.memmap(path, "<i2", mode="r", offset=len(header), shape=shape)
        self._plain = np.asarray(self._mapped)  # its slices cost a tenth of those of a memmap
        self._slices: str = record["slices"]
        self._is_sound = np.zeros(len(self._plain), bool)

    @classmethod
    def encode(cls, hu: NDArray[np.int16]) -> tuple[list[Part], dict[str, Any]]:
        """The header of the format, and the voxels."""
        return [_header(hu.shape), hu.data], {}

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Slices, a view of the file."""
        for i in (np.flatnonzero(~self._is_sound[start:stop]) + start).tolist():
            check(self._plain[i].data, self._slices, i)
            self._is_sound[i] = True
        return self._mapped[start:stop]


def _header(shape: Sequence[int]) -> bytes:
    """What stands before the voxels in an npy file of int16 in C order."""
    buffer = BytesIO()
    fields = {"descr": "<i2", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


class Blosc2:
    """Compressed: chunks of a few slices one after the other, each a buffer of c-blosc2 by itself.

    No frame (b2nd) is put around them: that takes a third of the time again to write, and knows
    nothing that the record does not. A chunk as compressed is compared at each read, so that no
    damaged byte reaches the decoder. One thread decodes: loader workers have no more, and threads of
    a library do not survive the fork that makes workers.

    The package is imported when it is first needed: that takes 0.25 s, which plain stores save.
    """

    ending: ClassVar[str] = ".blosc2"
    bytes_per_voxel: ClassVar[float] = 1.1
    """Measured: 0.97 for LIDC-IDRI-0314, thin slices, 256 px; rounded up, for noisier ones take more."""
    chunk = 2
    """Slices of a chunk: larger ones save nothing, and a run of slices begins and ends within one."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        import blosc2

        self._decode = partial(blosc2.decompress2, nthreads=1)
        self._bytes = np.memmap(path, np.uint8, mode="r")
        self._ends = np.cumsum(record["frame"]["sizes"])
        if len(self._bytes) != self._ends[-1]:
            raise StoreError(f"it has {len(self._bytes)} bytes, {self._ends[-1]} were written")
        self._shape, self._digests = tuple(record["shape"]), record["frame"]["chunks"]

    @classmethod
    def encode(cls, hu: NDArray[np.int16]) -> tuple[list[Part], dict[str, Any]]:
        """The chunks; their sizes and checksums."""
        import blosc2

        how = {
            "codec": blosc2.Codec.ZSTD,
            "clevel": 1,
            "filters": [blosc2.Filter.BITSHUFFLE],
            "splitmode": blosc2.SplitMode.ALWAYS_SPLIT,
            "blocksize": cls.chunk * hu[0].nbytes,
            "typesize": hu.itemsize,
            "nthreads": 1,
        }
        chunks = [blosc2.compress2(hu[i : i + cls.chunk], **how) for i in range(0, len(hu), cls.chunk)]
        return list(chunks), {"frame": {"sizes": [len(c) for c in chunks], "chunks": digests(chunks)}}

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Slices, decompressed."""
        first, last = start // self.chunk, -(-stop // self.chunk)
        n_slices = min(last * self.chunk, self._shape[0]) - first * self.chunk
        voxels = np.empty((n_slices, *self._shape[1:]), np.int16)
        for i in range(first, last):
            part = self._bytes[self._ends[i - 1] if i else 0 : self._ends[i]]
            check(part.data, self._digests, i, "chunk")
            at = (i - first) * self.chunk
            self._decode(part, dst=voxels[at : at + self.chunk])
        voxels.flags.writeable = False
        return voxels[start - first * self.chunk :][: stop - start]


CODECS: dict[str, type[Codec]] = {"none": Npy, "blosc2": Blosc2}
"""What parameter `store_codec` may say."""
