"""Which workers an engine uses: processes here, those of a scheduler, or jobs of a queue.

In parameters a cluster is two flat values, checked before anything starts:

    cluster: slurm             # local, tls://host:port, slurm, pbs, sge or lsf
    cluster_options:           # what the queue is asked for: the words of dask-jobqueue, and gpus
      - queue=gpu
      - cores=4
      - memory=32GB
      - walltime=24:00:00
      - gpus=1
      - job_extra_directives=--gres=gpu:1
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ctlib.grid.gpus import Share

QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
"""The queues, and their classes in dask-jobqueue."""

_TEXTS = (
    *("queue", "account", "project", "memory", "walltime", "interface", "local_directory", "log_directory"),
    *("shebang", "python", "job_name", "job_mem", "resource_spec", "scheduler_host"),
)
_NUMBERS = ("cores", "gpus", "job_cpu", "ncpus", "mem", "scheduler_port")
_LISTS = ("job_extra_directives", "job_script_prologue", "job_directives_skip")
_NEEDED = ("cores", "memory", "walltime")

MARGIN_S = 120.0
"""A worker leaves this long before the queue would end its job, s; its run goes on elsewhere."""

PATIENCE_S = 60
"""A job whose scheduler is away for so long ends, s: the scheduler of a queue lives in the notebook."""


class ClusterError(ValueError):
    """A cluster that cannot be used: the sentence names the parameter, its value, and what to give."""


@dataclass(frozen=True)
class Cluster:
    """Where workers come from; `Cluster.of` makes it from parameters.

    Args:
        kind: `local`, `scheduler` or a key of `QUEUES`.
        address: of a scheduler, `tls://host:port`.
        options: what a queue is asked for, by the names of dask-jobqueue.
        gpus: whether each of its workers has a GPU; counted here where it is local.
    """

    kind: str = "local"
    address: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    gpus: bool = False

    @staticmethod
    def at(cluster: str) -> bool:
        """Whether a value is the address of a scheduler.

        >>> Cluster.at("tls://head:8786"), Cluster.at("tcp://head:8786"), Cluster.at("head")
        (True, True, False)
        """
        return re.fullmatch(r"t(ls|cp)://\S+:\d+", cluster) is not None

    @classmethod
    def of(
        cls, cluster: str = "local", options: Sequence[str] = (), unencrypted: bool = False, devices: int = 1
    ) -> Cluster:
        """The cluster of the parameters `cluster`, `cluster_options`, `unencrypted` and `devices`.

        Raises:
            ClusterError: a value is unknown or missing, or the address has no credentials and none are waived.

        >>> Cluster.of("tls://head:8786").address
        'tls://head:8786'
        >>> Cluster.of("slurm", ["cores=4", "memory=32GB", "walltime=1:00:00", "gpus=1"]).gpus
        True
        """
        kind = "scheduler" if cls.at(cluster) else cluster
        if kind not in ("local", "scheduler", *QUEUES):
            raise ClusterError(
                f"cluster is {cluster!r}; give local, a scheduler's address (tls://host:port), or a queue: "
                f"{', '.join(QUEUES)}."
            )
        check_encrypted(cluster, unencrypted)
        asked = _parsed(options)
        gpus = asked.pop("gpus", 0)
        if gpus not in (0, devices):
            has = "one GPU" if devices == 1 else "as many GPUs as devices says"
            raise ClusterError(f"cluster_options: gpus is {gpus}; give {devices}, a worker has {has}, or 0.")
        if kind in QUEUES:
            missing = [name for name in _NEEDED if name not in asked]
            if missing:
                raise ClusterError(
                    f"cluster is {cluster!r}; cluster_options has no {' and no '.join(missing)}: what each "
                    f"job is to have, for instance {missing[0]}={_EXAMPLES[missing[0]]}."
                )
            seconds(asked["walltime"])
        elif asked:
            raise ClusterError(
                f"cluster_options: {next(iter(asked))} is for a queue, and cluster is {cluster!r}."
            )
        return cls(kind, cluster if kind == "scheduler" else "", asked, bool(gpus))


def check_encrypted(address: str, unencrypted: bool) -> None:
    """Refuse the address of a scheduler without credentials, unless they are waived; and the reverse.

    Raises:
        ClusterError: the two do not fit.
    """
    if address.startswith("tcp://") and not unencrypted:
        raise ClusterError(
            f"{address} is a scheduler without credentials: whoever reaches it can run code as you. Start it by `ctlib "
            "scheduler` and give its tls:// address; or, where nobody else reaches it, set unencrypted to true."
        )
    if address.startswith("tls://") and unencrypted:
        raise ClusterError(f"{address} has credentials, and unencrypted is true; leave that out.")


_EXAMPLES = {"cores": "4", "memory": "32GB", "walltime": "24:00:00"}


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as a dictionary; names of `_LISTS` may repeat."""
    found: dict[str, Any] = {}
    for option in options:
        name, sign, value = str(option).partition("=")
        name = name.strip()
        if not sign or name not in (*_TEXTS, *_NUMBERS, *_LISTS):
            known = ", ".join(sorted((*_TEXTS, *_NUMBERS, *_LISTS)))
            raise ClusterError(f"cluster_options: {option!r} is not name=value with a known name: {known}.")
        if name in _LISTS:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise ClusterError(f"cluster_options: {name} is given twice.")
        elif name in _NUMBERS and not value.isdigit():
            raise ClusterError(f"cluster_options: {name} is {value!r}; give a whole number.")
        else:
            found[name] = int(value) if name in _NUMBERS else value
    return found


def seconds(walltime: str) -> float:
    """A queue's walltime in seconds: `[days-]hours:minutes[:seconds]`.

    Raises:
        ClusterError: it is written otherwise.

    >>> seconds("24:00:00"), seconds("1-12:00:00"), seconds("12:00")
    (86400.0, 129600.0, 43200.0)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", walltime)
    if found is None:
        raise ClusterError(f"cluster_options: walltime is {walltime!r}; give hours:minutes:seconds.")
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return 86400.0 * days + 3600.0 * hours + 60.0 * minutes + rest


def local(workers: int, threads: int, shares: Sequence[Share], memory_mb: float, dashboard: bool) -> Any:
    """Worker processes on this machine and a scheduler for them, as one Dask cluster with credentials of its own.

    Args:
        workers: how many; where there are shares, no more than these.
        threads: of each.
        shares: of GPUs (`gpus.shares`); none where items use no GPU.
        memory_mb: memory that a worker may hold, MB; 0: nine tenths of the machine's.
        dashboard: whether to serve Dask's dashboard on this machine.
    """
    import dask
    from distributed import Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    from ctlib.grid import credentials, worker

    security = credentials.in_memory()
    limit_mb = memory_mb or 0.9 * MEMORY_LIMIT / 2**20
    secured = {"security": security, "protocol": "tls://"}
    here = {"host": "127.0.0.1", "silence_logs": logging.CRITICAL} | secured  # failures come back as outcomes
    asked = {
        f"{i}: {on.gpu}" if on.gpu else str(i): worker.options(threads, on, limit_mb)
        for i, on in enumerate((shares or [Share()] * workers)[:workers])
    }
    # any free port: the usual one may be taken, and Dask warns
    serving = {"host": "127.0.0.1", "port": 0, "dashboard": dashboard, "dashboard_address": "127.0.0.1:0"}
    with dask.config.set(worker.DASK_CONFIG):
        return SpecCluster(
            workers={
                name: {"cls": worker.WatchingNanny, "options": one | here} for name, one in asked.items()
            },
            scheduler={"cls": Scheduler, "options": serving | secured},
            security=security,
            silence_logs=logging.CRITICAL,
        )


def queue(
    cluster: Cluster, threads: int, dashboard: bool, security: Any = None, runs: int = 1, devices: int = 1
) -> Any:
    """A scheduler in this process and a way to submit jobs: a cluster of dask-jobqueue, without jobs yet.

    Each job runs `ctlib worker`: one worker, or those that share its GPU. Dask's dashboard is on the loopback
    interface alone.

    Args:
        cluster: a queue.
        threads: of each worker.
        dashboard: whether to serve Dask's dashboard.
        security: credentials from a file that the jobs see (`credentials.read`); None for none.
        runs: workers of a job, which share its GPU and its memory.
        devices: GPUs of a worker, where it has any.

    Raises:
        ClusterError: dask-jobqueue is missing, or refuses an option.
    """
    import dask

    from ctlib.grid import worker

    try:
        import dask_jobqueue
    except ImportError as error:
        raise ClusterError(
            f"cluster is {cluster.kind!r}, which needs dask-jobqueue: pip install -e '.[cluster]'."
        ) from error
    asked = dict(cluster.options)
    serving: dict[str, Any] = {"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"}
    for name in ("host", "port"):
        if f"scheduler_{name}" in asked:
            serving[name] = asked.pop(f"scheduler_{name}")
    limit_s = seconds(asked["walltime"])
    extra = ["--threads", threads, "--gpus", devices * cluster.gpus, "--runs-a-gpu", runs, "--lifetime"]
    extra.append(math.ceil(max(limit_s - MARGIN_S, limit_s / 2)))
    extra += ["--devices", devices] if devices > 1 else []
    extra += [] if security else ["--unencrypted"]
    with dask.config.set(worker.DASK_CONFIG):
        try:
            return getattr(dask_jobqueue, QUEUES[cluster.kind])(
                processes=runs,
                worker_command="ctlib worker",
                worker_extra_args=[str(word) for word in extra],
                death_timeout=PATIENCE_S,
                scheduler_options=serving,
                silence_logs=logging.CRITICAL,
                security=security,
                **asked,
            )
        except (ValueError, TypeError) as error:
            raise ClusterError(f"cluster is {cluster.kind!r}; dask-jobqueue refuses: {error}") from error


def connected(where: Any, timeout_s: float = 30.0, security: Any = None) -> Any:
    """A Dask client of a cluster that was started here, or, with its credentials, of the scheduler at an address.

    Raises:
        OSError: nobody answered in time.
    """
    import dask
    from distributed import Client

    from ctlib.grid import worker

    with dask.config.set(worker.DASK_CONFIG):  # a client keeps no log of what it sent, either
        return Client(where, timeout=timeout_s, security=security)
