"""The commands that deal with data, networks and machines: fetch, scan, prepare, verify, networks, worker.

`ctlib.cli.__main__` has the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctlib.core import DEFAULT_KEY, PROJECT, Identity, IdentityError, Places, display_path, parameters

if TYPE_CHECKING:
    import pandas as pd


class Refused(click.ClickException):
    """Wrong input: one line a problem, exit code 2, nothing was done."""

    exit_code = 2


def load(profile: str, overrides: Sequence[str], places: Places) -> dict[str, dict[str, Any]]:
    """The parameters of a profile, checked."""
    try:
        return parameters.load_profile(profile, overrides, places)
    except parameters.ParameterError as error:
        raise Refused(str(error)) from error


def identity_at(id_key: str, work: Path = PROJECT / "work") -> Identity:
    """The identity under a key."""
    try:
        return Identity.at(id_key, work)
    except IdentityError as error:
        raise Refused(str(error)) from error


def show(frame: pd.DataFrame) -> None:
    """Print a table, if it has rows."""
    if len(frame):
        click.echo(frame.to_string(index=False, max_colwidth=100, na_rep=""))


@click.command(short_help="List the volumes of a folder, and what is refused.")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object of the two lists.")
@click.option(
    "--paths", is_flag=True, help="Show where each series or file lies: such names may be people's."
)
@click.option(
    "--id-key",
    default=DEFAULT_KEY,
    show_default=True,
    metavar="FILE",
    help="File with the key of the pseudonyms, or 'public'.",
)
def scan(root: Path, as_json: bool, paths: bool, id_key: str) -> None:
    """List the CT volumes under ROOT (DICOM, NIfTI), and every file that is refused, with the reason.

    Each file under ROOT is counted once: n_files of both tables adds up to the number of files.
    Patients, UIDs and paths are shown by the pseudonyms that tables and reports have under the
    same key; with --paths the place stands beside each, so this finds a series of a report again.
    """
    if not root.is_dir():
        raise Refused(f"{display_path(root)} is no folder.")
    from ctlib.io import scan_under_pseudonyms

    series, problems = scan_under_pseudonyms(root, identity_at(id_key), paths)
    if as_json:
        parts = {"series": series, "problems": problems}
        click.echo(json.dumps({name: json.loads(t.to_json(orient="records")) for name, t in parts.items()}))
        return
    click.echo(f"{len(series)} series in {int(series['n_files'].sum())} files")
    show(series)
    click.echo(f"{int(problems['n_files'].sum())} files are refused")
    show(problems)


@click.command(short_help="Store the volumes of a profile's cohorts and split its patients.")
@click.argument("profile")
@click.option(
    "--cohort", "only", multiple=True, metavar="NAME", help="Only this cohort of the profile. Repeatable."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a parameter. Repeatable."
)
@click.pass_obj
def prepare(places: Places, profile: str, only: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Read the files of PROFILE's cohorts, store their volumes, write their tables and splits.

    The same as the first part of notebook 01, for machines where no notebook runs. What is stored
    already is not read again: after a kill, the same command goes on from there.
    """
    values = load(profile, overrides, places).get("01_explore_data")
    if values is None:
        raise Refused(f"profile {profile!r} has no 01_explore_data.yaml, which says what to prepare.")
    if unknown := [name for name in only if name not in values["cohorts"]]:
        near = parameters.nearest_name(unknown[0], values["cohorts"])
        raise Refused(f"--cohort {unknown[0]}: profile {profile!r} has no such cohort{near}.")
    from ctlib.core import Bar
    from ctlib.datasets import prepare as preparing
    from ctlib.grid import Engine
    from ctlib.visualization import summary_tables

    names = [name for name in values["cohorts"] if not only or name in only]
    bar = Bar(len(names))
    for position, name in enumerate(names, start=1):
        try:
            plan = preparing.Preparation.of(values)
            with bar.here(name, position), Engine(values["workers"], scheduler=values["scheduler"]) as engine:
                cohort = plan.stored(name, engine.map)
                plan.split(cohort)
        except preparing.FAULTS as error:
            raise click.ClickException(str(error)) from error
        for line in summary_tables.prepared(cohort):
            click.echo(line)


@click.command(short_help="Read every stored volume of a profile and compare it with its checksums.")
@click.argument("profile")
@click.pass_obj
def verify(places: Places, profile: str) -> None:
    """Find any damage in the stored volumes of PROFILE: every byte is read. Exits 1 where there is some."""
    values = load(profile, (), places).get("01_explore_data")
    if values is None:
        raise Refused(f"profile {profile!r} has no 01_explore_data.yaml, which says what is stored.")
    from ctlib.datasets import Preparation
    from ctlib.grid import Engine

    plan, n_damaged = Preparation.of(values), 0
    with Engine(values["workers"], scheduler=values["scheduler"]) as engine:
        for name in values["cohorts"]:
            if not plan.work.table("series", name).is_file():
                raise Refused(f"cohort {name} is not stored yet: `python -m ctlib prepare {profile}` first.")
            damaged = plan.store(name).verify(engine.map)
            n_damaged += len(damaged)
            click.echo(f"{name}: {len(damaged)} damaged series")
            show(damaged)
    if n_damaged:
        raise click.ClickException(f"{n_damaged} series are damaged: prepare them again.")


@click.command(short_help="Download a dataset: lidc, rspect.")
@click.argument("dataset", type=click.Choice(["lidc", "rspect"]))
@click.option("--patients", type=click.IntRange(min=1), metavar="N", help="Only the first N patients (lidc).")
@click.option("--to", type=click.Path(path_type=Path), help="Folder to fetch into.  [default: data/DATASET]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be fetched; needs no network.")
def fetch(dataset: str, patients: int | None, to: Path | None, yes: bool, dry_run: bool) -> None:
    """Download DATASET: lidc (no account needed) or rspect (with your own Kaggle account).

    First it tells what it would fetch, how large that is and how long it takes, and asks. What is
    complete is not fetched again: after an interruption, or for more patients, run it again.
    """
    from ctlib.datasets import download as fetching

    try:
        fetching.fetch(fetching.plan(dataset, to, patients), yes, dry_run)
    except fetching.FetchRefused as error:
        raise Refused(str(error)) from error
    except fetching.FetchError as error:
        raise click.ClickException(str(error)) from error


@click.command(short_help="Count and check all networks, as a table.")
@click.argument("keys", nargs=-1, metavar="[NETWORK]...")
@click.option(
    "--size",
    type=click.Choice(["full", "tiny", "both"]),
    default="both",
    show_default=True,
    help="Sizes of a network: the publisher's, the small one for a CPU, or both.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a row.")
def networks(keys: tuple[str, ...], size: str, as_json: bool) -> None:
    """Tell what each NETWORK costs, and whether it computes as it should: a table in Markdown.

    \b
    python -m ctlib networks slow_r50 my_nets:plain

    Without NETWORK: all of them, in a minute or two. A network of your own is module:function.
    Parameters are those without a head; multiply-adds and memory for training are those of one clip,
    the published one at full size. Seen on a small clip: features and gradients are finite, and
    whether slices in reverse order change the features, as they must where a network sees order.
    Exits 1 where one row fails.
    """
    from dataclasses import asdict

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
        click.echo(json.dumps([asdict(row) for row in seen]))
    if failed := [row for row in seen if row.problem]:
        told = "\n".join(f"  {row.backbone}, {row.size}: {row.problem}" for row in failed)
        raise click.ClickException(f"{len(failed)} of {len(seen)} networks fail:\n{told}")


@click.command(short_help="Compute for a scheduler: one worker, or one a GPU.")
@click.argument("scheduler", metavar="ADDRESS")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="GPUs to use.  [default: all in sight]")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many, where no GPU is used.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of a worker."
)
@click.option(
    "--memory",
    "--memory-limit",
    metavar="SIZE",
    help="Memory of a worker, as 16GB: a run that holds more is ended.",
)
@click.option(
    "--patience",
    "--death-timeout",
    type=float,
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long the scheduler may be away.",
)
@click.option("--lifetime", type=float, default=0, metavar="SECONDS", help="Leave after so long.")
@click.option("--name", help="Name of the worker.  [default: host and process]")
@click.option("--local-directory", type=click.Path(path_type=Path), help="Folder for what Dask writes.")
@click.option("--interface", help="Network interface, as ib0.")
@click.option(
    "--nthreads", hidden=True, help="Of a queue: a worker has one run at a time, whatever this says."
)
def worker(
    scheduler: str,
    gpus: int | None,
    workers: int,
    threads: int,
    memory: str | None,
    patience: float,
    lifetime: float,
    name: str | None,
    local_directory: Path | None,
    interface: str | None,
    nthreads: str | None,
) -> None:
    """Compute what the Dask scheduler at ADDRESS (tcp://host:port) hands out, until Ctrl-C.

    Each worker has one run at a time, and a GPU to itself where there are any. The machine must see the
    work folder under the same path. Runs go on from their checkpoints when a worker ends, and a worker
    waits for a scheduler that is away.
    """
    import asyncio

    from ctlib.grid import Cluster, serve_worker, worker_options

    if not Cluster.at(scheduler):
        raise Refused(f"ADDRESS is {scheduler!r}; give the address of a Dask scheduler, tcp://host:port.")
    try:
        asked = worker_options(gpus, workers, threads, memory, name)
    except ValueError as error:
        raise Refused(str(error)) from error
    where = {"local_directory": local_directory and str(local_directory), "interface": interface}
    why = asyncio.run(serve_worker(scheduler, [one | where for one in asked], patience, lifetime))
    click.echo(f"The worker ended: {why}.")
    if why.startswith("no scheduler"):
        raise SystemExit(1)


COMMANDS = (fetch, scan, prepare, verify, networks, worker)
