"""Who computes what lies in a folder: at most one process of all that share it.

Processes on one machine or on many that share a folder agree by files in it, without a server. The
first claim of a folder is the file `claim.0`, made with O_EXCL, which is atomic on NFS too. Its owner
touches it every `BEAT_S`; one that was not touched for `STALE_S` is stale, and whoever makes the next
number, `claim.1`, owns the folder from then on. The highest number owns. Nothing is overwritten or
renamed, so of any number of processes one makes a number, and an owner that was stopped and wakes up
sees a higher number than its own (`Claim.still_mine`).

Ages are differences of times that the file system itself wrote, so clocks of hosts may differ. A claim
whose owner ran on this machine and is gone is stale at once.

    with claimed(folder, lambda: result.is_file()) as claim:
        if claim is None:  # another process has finished it meanwhile
            return read(result)
        value = compute()
        claim.require()  # before each file that must not be written twice
        write(result, value)
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEAT_S = 10.0
"""An owner touches its claim this often, s."""

STALE_S = 120.0
"""A claim that was not touched for so long, s, is nobody's: more than a minute of a stopped process or of
a file server that does not answer, and little beside a finetuning."""

_PREFIX = "claim."
_log = logging.getLogger(__name__)


class ClaimLost(RuntimeError):
    """Another process took the folder over, because this one gave no sign of life for too long."""


class Busy(RuntimeError):
    """Another process computes what is in the folder. `ctlib.grid.engine` hands such an item out again later."""


@dataclass(frozen=True)
class Claim:
    """A claim of this process.

    Args:
        path: the claim's file.
        token: what its file must say to be this one.
    """

    path: Path
    token: str

    def still_mine(self) -> bool:
        """Whether this process still owns the folder: nobody holds a higher number."""
        with contextlib.suppress(FileNotFoundError):
            _clock(self.path.parent)  # a file made here: NFS then lists the folder anew
            return _read(self.path).get("token") == self.token and _highest(self.path.parent) == self.path
        return False

    def require(self) -> None:
        """Do nothing where the folder is still this process's.

        Raises:
            ClaimLost: it is not.
        """
        if not self.still_mine():
            owner = describe(self.path.parent) or "nobody now"
            raise ClaimLost(
                f"{self.path.parent}: this process gave no sign of life for more than {STALE_S:g} s, and the "
                f"folder was taken over by {owner}; nothing was written here."
            )


@contextlib.contextmanager
def claimed(
    folder: Path, finished: Callable[[], bool], beat_s: float = BEAT_S, stale_s: float = STALE_S
) -> Iterator[Claim | None]:
    """Own a folder for a while.

    Args:
        folder: is made where it is missing.
        finished: whether the work is done; asked before and after the folder is claimed.
        beat_s: see `BEAT_S`.
        stale_s: see `STALE_S`; the same for all processes.

    Yields:
        The claim; None where the work is finished.

    Raises:
        Busy: another process has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = None if finished() else _take(folder, stale_s)
    if claim is None and not finished():
        raise Busy(f"{folder} is computed by {describe(folder) or 'another process'}.")
    if claim is not None and finished():  # the owner before may have ended between the two looks
        _release(claim)
        claim = None
    if claim is None:
        yield None
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(claim, beat_s, ended), daemon=True, name="claim")
    beating.start()
    try:
        yield claim
    finally:
        ended.set()
        beating.join()
        _release(claim)


def describe(folder: Path) -> str:
    """Who owns a folder, for people; '' where nobody does."""
    path = _highest(folder)
    record = _read(path) if path is not None else {}
    return f"process {record.get('pid', '?')} on {record.get('host', '?')}" if path is not None else ""


def _take(folder: Path, stale_s: float) -> Claim | None:
    """One try to own a folder."""
    token = uuid.uuid4().hex
    before = _highest(folder)
    if before is not None and not _stale(before, stale_s):
        return None
    path = folder / f"{_PREFIX}{0 if before is None else _number(before) + 1}"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:  # another was faster
        return None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"token": token, **_here()}, file)
    # What was seen may be out of date: the stale owner may have woken and let go, and a third process
    # begun at 0. The folder is listed again now that it holds a file of ours, which the third would see.
    claim = Claim(path, token)
    if (before is None or before.exists()) and claim.still_mine():
        if before is not None:
            _log.warning("%s: a claim without a sign of life for %g s was taken over.", folder, stale_s)
        return claim
    path.unlink(missing_ok=True)
    return None


def _release(claim: Claim) -> None:
    """Let go of a folder; of one that was lost, only the own file."""
    old = _claims(claim.path.parent) if claim.still_mine() else [claim.path]
    for path in old:  # lowest first: until the last is gone, the folder is not free
        if _number(path) <= _number(claim.path):
            path.unlink(missing_ok=True)


def _beat(claim: Claim, every_s: float, ended: threading.Event) -> None:
    """Touch the claim until it ends or is lost."""
    while not ended.wait(every_s):
        try:
            os.utime(claim.path)  # the file server's own time
        except FileNotFoundError:
            return
        except OSError as error:  # a file server that is away for a moment
            _log.warning("%s could not be touched: %s", claim.path, error)


def _stale(path: Path, stale_s: float) -> bool:
    """Whether an owner is gone, or gave no sign of life for too long."""
    try:
        if _gone(_read(path)):
            return True
        return _clock(path.parent) - path.stat().st_mtime > stale_s
    except FileNotFoundError:  # let go meanwhile
        return False


def _clock(folder: Path) -> float:
    """What the file system holds for now, s: the time of a file that was just made, which is nobody else's.

    Several processes may look after one claim, and one of them must not take the file of another away.
    """
    path = folder / f".now.{uuid.uuid4().hex}"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def _claims(folder: Path) -> list[Path]:
    """The claims of a folder, lowest number first."""
    return sorted((p for p in folder.glob(f"{_PREFIX}*") if p.suffix[1:].isdigit()), key=_number)


def _highest(folder: Path) -> Path | None:
    return next(reversed(_claims(folder)), None)


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _read(path: Path) -> dict[str, Any]:
    """What a claim says; nothing where its owner is just writing it, or died in that moment."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, FileNotFoundError):
        return {}
    return record if isinstance(record, dict) else {}


def _here() -> dict[str, Any]:
    """This process, in words that another process on the same machine can check."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "began": _began(os.getpid()),
    }


def _machine() -> str:
    """Names the boot and the process table that pids belong to; '' where the system does not tell."""
    if sys.platform != "linux":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _began(pid: int) -> str:
    """When a process began, in the system's own count; '' where there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _gone(record: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine and does no longer."""
    if not record.get("machine") or record["machine"] != _machine():
        return False
    return _began(record["pid"]) != record["began"]
