"""The commands that deal with data, networks and machines: from fetch to worker.

`ctlib.cli.__main__` has the others.
"""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctlib.core import (
    ASKED,
    DEFAULT_KEY,
    HOME,
    PROJECT,
    Identity,
    IdentityError,
    Places,
    Workspace,
    command,
    display_path,
    doing,
    nearest_name,
    parameters,
)

if TYPE_CHECKING:
    import pandas as pd


def profiles(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Profiles whose names begin so, for completion by the Tab key."""
    folder = (context.find_object(Places) or HOME).params
    return sorted({path.parent.name for path in folder.glob(f"{glob.escape(begun)}*/*.yaml")})


profile_argument = click.argument("profile", shell_complete=profiles)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NOTEBOOK.KEY=VALUE",
    help="Change a parameter, as in `run`. May be repeated.",
)


LOADING = "Loading libraries"
"""What takes long before anything of a command begins."""


class Refused(click.ClickException):
    """Wrong input: one line a problem, exit code 2, nothing was done."""

    exit_code = 2


def load(profile: str, overrides: Sequence[str], places: Places) -> dict[str, dict[str, Any]]:
    """The parameters of a profile, checked; what is advised until the command ends is with its profile and `--set`."""
    try:
        values = parameters.load_profile(profile, overrides, places)
    except parameters.ParameterError as error:
        raise Refused(str(error)) from error
    if context := click.get_current_context(silent=True):
        os.environ[ASKED] = json.dumps([profile, *overrides])
        context.call_on_close(lambda: os.environ.pop(ASKED, None))
    return values


def identity_at(id_key: str, work: Path = PROJECT / "work") -> Identity:
    """The identity under a key."""
    try:
        return Identity.at(id_key, work)
    except IdentityError as error:
        raise Refused(str(error)) from error


def check_input(values: dict[str, Any]) -> None:
    """Refuse a user's own folder whose labels cannot be right, before anything runs.

    The sentence names files: it is for the terminal of their owner, and stands in no report.
    """
    if "folder" not in values.get("cohorts", []):  # the other cohorts are checked as they are read
        return
    from ctlib.datasets import CohortError, prepare

    try:
        prepare.check_input(values)
    except CohortError as error:
        raise Refused(error.shown) from error
    except FileNotFoundError as error:
        raise Refused(str(error)) from error


def show(frame: pd.DataFrame) -> None:
    """Print a table, if it has rows. Texts are left-aligned and whole: a reason ends with what to do."""
    if len(frame):
        texts = frame.select_dtypes(["object", "string"]).fillna("").astype(str)
        frame = frame.assign(**texts.apply(lambda column: column.str.ljust(int(column.str.len().max()))))
        lines = frame.to_string(index=False, na_rep="", justify="left").splitlines()
        click.echo("\n".join(line.rstrip() for line in lines))


@click.command(short_help="List the volumes of a folder, and what is refused.")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object of the two lists.")
@click.option(
    "--paths", is_flag=True, help="Show the real path of each series or file; it may contain names of people."
)
@click.option(
    "--id-key",
    default=DEFAULT_KEY,
    show_default=True,
    metavar="FILE",
    help="File with the key of the pseudonyms, or 'public'.",
)
def scan(root: Path, as_json: bool, paths: bool, id_key: str) -> None:
    """List the CT volumes under ROOT (DICOM, NIfTI, MetaImage, NRRD), and each refused file with its reason.

    Each file under ROOT is counted once: n_files of both tables adds up to the number of files.
    Patients, UIDs and paths are replaced by pseudonyms, the same as in tables and reports with the same
    key. With --paths the real path is added, so a series of a report can be found again.
    """
    if not root.is_dir():
        raise Refused(
            f"{display_path(root)} is no folder; give a folder of DICOM, NIfTI, MetaImage or NRRD files."
        )
    with doing(f"Reading the headers of all files under {display_path(root)}"):
        from ctlib.io import scan_under_pseudonyms

        series, problems = scan_under_pseudonyms(root, identity_at(id_key), paths)
    if as_json:
        parts = {"series": series, "problems": problems}
        click.echo(json.dumps({name: json.loads(t.to_json(orient="records")) for name, t in parts.items()}))
        return
    click.echo(f"{len(series)} series in {int(series['n_files'].sum())} files")
    show(series)
    click.echo(f"Refused files: {int(problems['n_files'].sum())}")
    show(problems)


@click.command(short_help="Store the volumes of a profile's cohorts and split its patients.")
@profile_argument
@click.option("--cohort", "only", multiple=True, metavar="NAME", help="Only this cohort. May be repeated.")
@set_option
@click.pass_obj
def prepare(places: Places, profile: str, only: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Read the files of PROFILE's cohorts, store their volumes, write their tables and splits.

    The same as the first part of notebook 01, for machines where no notebook runs. What is already stored
    is not read again: after a kill, the same command continues from there.
    """
    values = load(profile, overrides, places).get("01_explore_data")
    if values is None:
        raise Refused(f"profile {profile!r} has no 01_explore_data.yaml; take a profile that has one.")
    if unknown := [name for name in only if name not in values["cohorts"]]:
        near = nearest_name(unknown[0], values["cohorts"])
        raise Refused(f"--cohort {unknown[0]}: profile {profile!r} has no such cohort{near}.")
    check_input(values | {"cohorts": list(only) or values["cohorts"]})
    with doing(LOADING):
        from ctlib.core import Bar
        from ctlib.datasets import prepare as preparing
        from ctlib.grid import Engine
        from ctlib.visualization import summary_tables

    names = [name for name in values["cohorts"] if not only or name in only]
    bar = Bar(len(names))
    for position, name in enumerate(names, start=1):
        try:
            plan = preparing.Preparation.of(values)
            with bar.here(name, position), Engine(**plan.readers) as engine:
                cohort = plan.stored(name, engine.map)
                plan.split(cohort)
        except preparing.FAULTS as error:
            raise click.ClickException(str(error)) from error
        for line in summary_tables.prepared(cohort):
            click.echo(line)


@click.command(short_help="Check the stored volumes of a profile against their checksums.")
@profile_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the damaged series of each cohort.")
@click.pass_obj
def verify(places: Places, profile: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Find damage in the stored volumes of PROFILE: every byte is read. Exits 1 if there is any."""
    values = load(profile, overrides, places).get("01_explore_data")
    if values is None:
        raise Refused(f"profile {profile!r} has no 01_explore_data.yaml; take a profile that has one.")
    for name in values["cohorts"]:
        if not Workspace.at(values["work_dir"]).table("series", name).is_file():
            raise Refused(f"cohort {name} is not stored; run `{command('prepare', profile)}` first.")
    with doing(LOADING):
        from ctlib.datasets import Preparation
        from ctlib.grid import Engine

        plan = Preparation.of(values)
    found, folders = {}, []
    with Engine(**plan.readers) as engine:
        for name in values["cohorts"]:
            store = plan.store(name)
            with doing(f"{name}: reading every byte of {display_path(store.folder)}"):
                damaged = store.verify(engine.map)
            found[name] = json.loads(damaged.to_json(orient="records"))
            folders += [display_path(store.folder)] if len(damaged) else []
            if not as_json:
                click.echo(f"{name}: {len(damaged)} damaged series")
                show(damaged)
    if as_json:
        click.echo(json.dumps(found))
    if n_damaged := sum(map(len, found.values())):
        raise click.ClickException(
            f"{n_damaged} series are damaged: delete their files in {', '.join(folders)}, then run "
            f"`{command('prepare', profile)}`."
        )


@click.command(short_help="Download a dataset: lidc, nlst501, nodulemnist3d, rspect.")
@click.argument("dataset", type=click.Choice(["lidc", "nlst501", "nodulemnist3d", "rspect"]))
@click.option(
    "--patients", type=click.IntRange(min=1), metavar="N", help="Only the first N patients (lidc, nlst501)."
)
@click.option(
    "--side", type=click.Choice(["28", "64"]), help="Voxels a side of a crop (nodulemnist3d).  [default: 28]"
)
@click.option("--to", type=click.Path(path_type=Path), help="Folder for the files.  [default: data/DATASET]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be downloaded; needs no network.")
def fetch(
    dataset: str, patients: int | None, side: str | None, to: Path | None, yes: bool, dry_run: bool
) -> None:
    """Download DATASET: lidc, nlst501 or nodulemnist3d (no account needed), or rspect (your Kaggle account).

    It says what it will download, how large that is and how long it takes, and asks before it starts.
    What is complete is not downloaded again: after an interruption, or for more patients, run it again.
    """
    from ctlib.datasets import download as fetching

    try:
        fetching.fetch(fetching.plan(dataset, to, patients, int(side) if side else None), yes, dry_run)
    except fetching.FetchRefused as error:
        raise Refused(str(error)) from error
    except fetching.FetchError as error:
        raise click.ClickException(str(error)) from error


@click.command(short_help="Show the cost of all networks and check them, as a table.")
@click.argument("keys", nargs=-1, metavar="[NETWORK]...")
@click.option(
    "--size",
    type=click.Choice(["full", "tiny", "both"]),
    default="both",
    show_default=True,
    help="Size of the networks: full (the publisher's), tiny (for a CPU), or both.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per row.")
def networks(keys: tuple[str, ...], size: str, as_json: bool) -> None:
    """Show what each NETWORK costs, and whether it computes as it should: a table in Markdown.

    \b
    ctlib networks slow_r50 my_nets:plain

    Without NETWORK: all of them, in a minute or two. A network of your own is module:function.

    Parameters are counted without the head. Multiply-adds and memory for training are those of one clip,
    at full size the published one. A small clip checks that features and gradients are finite, and
    whether slices in reverse order change the features, as they must if a network sees order.
    Below it stand the published weights: what they were trained on, what they ask of a clip, their licence.
    Exits 1 if a row fails.
    """
    from dataclasses import asdict

    with doing(LOADING):
        from ctlib.models import check

    try:
        rows = check.check_all(keys, ("full", "tiny") if size == "both" else (size,))  # type: ignore[arg-type]
    except ValueError as error:
        raise Refused(str(error)) from error
    seen = []
    if not as_json:
        click.echo(check.HEADER)
    for row in rows:
        seen.append(row)
        if not as_json:
            click.echo(check.row(row))
    if as_json:
        of = {row.backbone: check.weights([row.backbone]) for row in seen}
        click.echo(json.dumps([{**asdict(row), "weights": of[row.backbone]} for row in seen]))
    elif published := check.weights_table([row.backbone for row in seen]):
        click.echo(f"\nPublished weights\n\n{published}")
    if not keys and (lacking := check.uninstalled()):
        extra = ", ".join(sorted(set(lacking.values())))
        click.echo(f"Not shown: {', '.join(lacking)}; they need pip install -e '.[{extra}]'.", err=True)
    if failed := [row for row in seen if row.problem]:
        told = "\n".join(f"  {row.backbone}, {row.size}: {row.problem}" for row in failed)
        raise click.ClickException(f"{len(failed)} of {len(seen)} networks fail:\n{told}")


def _credentials(address: str, file: Path | None, unencrypted: bool, patience: float | None = None) -> Any:
    """The credentials of a scheduler, made or, for so many seconds, waited for; None where they are waived."""
    from ctlib.grid import Cluster, credentials

    try:
        Cluster.of(address, unencrypted=unencrypted)
        if unencrypted:
            return None
        if file is None:
            raise Refused(f"{address} needs credentials: --credentials work/PROFILE/tls.pem.")
        if patience is None:
            credentials.make(file)
        elif not file.exists():
            click.echo(f"Waiting for {display_path(file)}, which the scheduler makes.", err=True)
            deadline = time.monotonic() + patience
            while not file.exists() and time.monotonic() < deadline:
                time.sleep(0.5)
        return credentials.read(file)
    except ValueError as error:
        raise Refused(str(error)) from error


_CREDENTIALS = (
    click.option(
        "--credentials",
        "--tls-ca-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Who has this file may compute: work/PROFILE/tls.pem.",
    ),
    click.option(
        "--unencrypted",
        is_flag=True,
        help="No credentials: whoever reaches the scheduler can run code as you.",
    ),
)


def credentials_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that speaks with a scheduler: `_CREDENTIALS`."""
    for option in reversed(_CREDENTIALS):
        command = option(command)
    return command


@click.command(short_help="Start a scheduler, for workers on several machines.")
@click.option("--host", required=True, metavar="NAME", help="This machine, as the others reach it.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8786, show_default=True, help="It listens here."
)
@credentials_options
def scheduler(host: str, port: int, credentials: Path | None, unencrypted: bool) -> None:
    """Hand out the runs of a grid to the workers that come (`ctlib worker`), until Ctrl-C.

    The file of credentials is made if it is missing. Only those who can read it may join.
    """
    import asyncio

    from ctlib.grid import serve_scheduler

    address = f"{'tcp' if unencrypted else 'tls'}://{host}:{port}"
    security = _credentials(address, credentials, unencrypted)
    try:
        asyncio.run(serve_scheduler(host, port, security, lambda told: click.echo(f"Scheduler at {told}")))
    except OSError as error:
        raise Refused(
            f"No scheduler at {address}: {error.strerror or error}; see --host and --port."
        ) from error


@click.command(short_help="Compute for a scheduler: one worker, or one per GPU.")
@click.argument("scheduler", metavar="ADDRESS")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="GPUs to use.  [default: all]")
@click.option(
    "--runs-a-gpu",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Workers that share a GPU.",
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="GPUs that each worker takes.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of workers, if no GPU is used.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads per worker."
)
@click.option(
    "--memory",
    "--memory-limit",
    metavar="SIZE",
    help="Memory per worker, for example 16GB: a run that needs more is stopped.",
)
@click.option(
    "--patience",
    "--death-timeout",
    type=float,
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a scheduler that does not answer.",
)
@click.option("--lifetime", type=float, default=0, metavar="SECONDS", help="Stop after so long; 0 for never.")
@click.option("--name", help="Name of the worker.  [default: host and process]")
@click.option(
    "--local-directory", type=click.Path(path_type=Path), help="Folder for the files that Dask writes."
)
@click.option("--interface", help="Network interface, for example ib0.")
@click.option("--nthreads", hidden=True, help="Set by queues, and not used: a worker has one run at a time.")
@click.option("--protocol", hidden=True, help="Set by queues, and not used: the address says it.")
@click.option(
    "--tls-cert", hidden=True, help="Set by queues, and not used: the file of credentials holds it."
)
@click.option("--tls-key", hidden=True, help="Set by queues, and not used: the file of credentials holds it.")
@credentials_options
def worker(
    scheduler: str,
    gpus: int | None,
    runs_a_gpu: int,
    devices: int,
    workers: int,
    threads: int,
    memory: str | None,
    patience: float,
    lifetime: float,
    name: str | None,
    local_directory: Path | None,
    interface: str | None,
    credentials: Path | None,
    unencrypted: bool,
    **_set_by_queues: str | None,
) -> None:
    """Compute the runs of the Dask scheduler at ADDRESS (tls://host:port), until Ctrl-C.

    Each worker has one run at a time, and one GPU, or its part of one, if there are any. The machine must see the
    work folder under the same path. If a worker ends, its run continues elsewhere from the last
    checkpoint. A worker waits for a scheduler that does not answer.
    """
    import asyncio

    with doing(LOADING):
        from ctlib.grid import Cluster, serve_worker, worker_options

    if not Cluster.at(scheduler):
        raise Refused(f"ADDRESS is {scheduler!r}; give the address of a Dask scheduler, tls://host:port.")
    security = _credentials(scheduler, credentials, unencrypted, patience)
    try:
        asked = worker_options(gpus, workers, threads, memory, name, runs_a_gpu, devices)
    except ValueError as error:
        raise Refused(str(error)) from error
    where = {"local_directory": local_directory and str(local_directory), "interface": interface}
    click.echo(
        f"Waiting for the scheduler at {scheduler}, {patience:g} s at most; Ctrl-C ends the worker.", err=True
    )
    one_each = [one | where for one in asked]
    why = asyncio.run(serve_worker(scheduler, one_each, patience, lifetime, security))
    click.echo(f"The worker ended: {why}.")
    if why.startswith("no scheduler"):
        raise SystemExit(1)


COMMANDS = (fetch, scan, prepare, verify, networks, scheduler, worker)
