"""The command line: `python -m ctlib --help`. What is heavy is imported where it is used."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from ctlib import __version__
from ctlib.analysis import preregistration
from ctlib.cli import grid
from ctlib.cli.data import COMMANDS, Refused, check_input, identity_at, load, show
from ctlib.core import DEFAULT_KEY, HOME, Places, Workspace, display_path, parameters
from ctlib.grid import maintenance

STOPPED = "Stopped. What was finished is kept; the same command continues from there."


def _workspace(profile: str, places: Places) -> Workspace:
    return Workspace.at(next(iter(load(profile, (), places).values()))["work_dir"])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ctlib")
def cli() -> None:
    """Does a 3D network pretrained on natural video need fewer labelled patients to learn a chest-CT task?

    Four notebooks give the answer. `run` executes them with the parameters of a profile (a folder of
    params/) and writes their reports. What is finished is not computed again.

    \b
    First steps     run demo; then open reports/demo/index.html
    Your own data   scan data; run folder; params folder lists the parameters
    Public CT       fetch, prepare, verify, run
    Many runs       plan, run or worker, runs, retry, prune

    Each command has its own --help. More is in the README.
    """


for command in (*COMMANDS, *grid.COMMANDS):
    cli.add_command(command)


@cli.command(short_help="Execute the notebooks of a profile and write its reports.")
@click.argument("profile")
@click.option(
    "--only",
    multiple=True,
    metavar="NOTEBOOK",
    help="Run only this notebook: 03, or its name. May be repeated.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NOTEBOOK.KEY=VALUE",
    help="Change a parameter: 03_finetune_grid.seeds='[0]'. Without NOTEBOOK: in every notebook that has it. "
    "May be repeated.",
)
@click.option("--again", is_flag=True, help="Execute the notebooks even if nothing has changed.")
@click.pass_obj
def run(places: Places, profile: str, only: tuple[str, ...], overrides: tuple[str, ...], again: bool) -> None:
    """Execute the notebooks of PROFILE and write reports/PROFILE/index.html.

    \b
    python -m ctlib run demo
    python -m ctlib run demo --only 03 --only 04 --set 03_finetune_grid.seeds='[0]'

    All parameters of all notebooks are checked before anything runs. If all notebooks were executed to
    the end and nothing has changed since then (data, parameters, notebooks, code, packages), only the
    reports are written again.
    """
    values = load(profile, overrides, places)
    try:
        preregistration.require(profile, places)
    except parameters.ParameterError as error:
        raise Refused(str(error)) from error
    names = _chosen(profile, only, list(values), places)
    if "01_explore_data" in names:
        check_input(values["01_explore_data"])
    from ctlib.cli import notebooks, reports, staleness
    from ctlib.core import Bar

    if not only and not again and staleness.nothing_changed(profile, values, places):
        click.echo("Nothing has changed since all notebooks were executed; --again executes them anyway.")
        for name in names:
            _report(profile, name, values, places)
        click.echo(f"Read {display_path(_index(profile, values, places))}")
        return
    bar = Bar(len(names))
    for position, name in enumerate(names, start=1):
        failed: notebooks.NotebookFailed | None = None
        with bar.notebook(name, position, notebooks.progress_path(name, values[name])) as on_section:
            try:
                notebooks.execute(name, values[name], on_section, places)
            except notebooks.NotebookFailed as error:
                failed = error
        story, _ = _report(profile, name, values, places)
        told = f"{name} {story.status}, {reports.duration(story.timing.get('duration'))}"
        click.echo(f"[{position} of {len(names)}] {told}: {display_path(_page(profile, name, places))}")
        if failed:
            _index(profile, values, places)
            raise Refused(str(failed)) if failed.is_input else click.ClickException(str(failed))
    work = Workspace.at(values[names[0]]["work_dir"])
    if not only and maintenance.listed(work, only_failed=True).empty:
        staleness.keep(profile, values, places)
    click.echo(f"Read {display_path(_index(profile, values, places))}")


def _chosen(profile: str, only: Sequence[str], names: list[str], places: Places) -> list[str]:
    """The notebooks to run, in their order."""
    chosen = []
    for name in only:
        found = places.find(name)
        if found not in names:
            near = "" if found else parameters.nearest_name(name, names)
            raise Refused(f"--only {name}: profile {profile!r} has no such notebook{near}; it has {names}.")
        chosen.append(found)
    return [name for name in names if name in chosen] if chosen else names


def _page(profile: str, name: str, places: Places) -> Path:
    return places.reports / profile / f"{name}.html"


def _report(
    profile: str, name: str, values: dict[str, dict[str, Any]], places: Places
) -> tuple[Any, list[str]]:
    from ctlib.cli import notebooks, reports, staleness

    try:
        executed = notebooks.executed_path(name, values[name])
        stale = staleness.reasons(name, reports.Executed.read(executed).book, profile, places)
        page = _page(profile, name, places)
        return reports.render(executed, page, profile, list(values), stale), stale
    except reports.ReportError as error:
        raise click.ClickException(str(error)) from error


def _index(profile: str, values: dict[str, dict[str, Any]], places: Places) -> Path:
    from ctlib.cli import notebooks, reports

    try:
        executed = {name: notebooks.executed_path(name, values[name]) for name in values}
        page = reports.index(profile, executed, places)
        reports.profiles(places)
        return page
    except reports.ReportError as error:
        raise click.ClickException(str(error)) from error


@cli.command(short_help="Write the reports again, without running anything.")
@click.argument("profile")
@click.option("--pdf", is_flag=True, help="Also print each report as a PDF. Needs Chromium.")
@click.pass_obj
def report(places: Places, profile: str, pdf: bool) -> None:
    """Write the reports of PROFILE again, from the notebooks as they were last executed.

    \b
    python -m ctlib report demo
    python -m ctlib report demo --pdf

    It says which reports are stale: older than a table, a parameter, the notebook or the code that they
    were made from. reports/index.html lists all profiles that have reports.
    """
    from ctlib.cli import notebooks

    values, pages = load(profile, (), places), []
    if not any(notebooks.executed_path(name, values[name]).is_file() for name in values):
        raise Refused(f"profile {profile} was not run here; run `python -m ctlib run {profile}` first.")
    for name in values:
        if notebooks.executed_path(name, values[name]).is_file():
            story, stale = _report(profile, name, values, places)
            pages.append(_page(profile, name, places))
            told = f", stale: {'; '.join(stale)}" if stale else ""
            click.echo(f"{name} {story.status}{told}: {display_path(pages[-1])}")
        else:
            click.echo(f"{name} was not run")
    pages.append(_index(profile, values, places))
    if pdf:
        _print(pages)
    click.echo(f"Read {display_path(pages[-1])}")


def _print(pages: Sequence[Path]) -> None:
    from ctlib.cli import reports

    try:
        for page in pages:
            click.echo(display_path(reports.print_pdf(page)))
    except reports.ReportError as error:
        raise click.ClickException(str(error)) from error


@cli.command(short_help="List the runs of a profile.")
@click.argument("profile")
@click.option("--failed", is_flag=True, help="Only failed runs, with the reason.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per run.")
@click.pass_obj
def runs(places: Places, profile: str, failed: bool, as_json: bool) -> None:
    """List all runs of PROFILE that were started, also while a grid computes.

    One row per run: its id, settings, status, validation AUROC and seconds. With --failed, also the
    last line of its error.
    """
    frame = maintenance.listed(_workspace(profile, places), failed)
    if as_json:
        click.echo(frame.to_json(orient="records"))
    elif frame.empty:
        click.echo("No run has failed." if failed else "No run was started; notebook 03_finetune_grid does.")
    else:
        show(frame.drop(columns="lr" if failed else ["lr", "error"]))


@cli.command(short_help="Score the clips of one series with a finished run.")
@click.argument("run_id")
@click.argument("series", type=click.Path(path_type=Path))
@click.option("--profile", default="demo", show_default=True, metavar="PROFILE", help="Profile of the run.")
@click.pass_obj
def predict(places: Places, run_id: str, series: Path, profile: str) -> None:
    """Score the clips of SERIES with the finished run RUN_ID.

    SERIES is a folder of DICOM files, or a NIfTI, MetaImage or NRRD file.

    Writes a table and a figure into work/PROFILE/predict/. `python -m ctlib runs PROFILE` lists the
    runs. This shows that the software works. It is no diagnosis, and for research only.
    """
    from ctlib.analysis import predict as predicting

    try:
        key = load(profile, (), places).get("01_explore_data", {}).get("id_key", DEFAULT_KEY)
        workspace = _workspace(profile, places)
        scored = predicting.predict(workspace, run_id, series, identity_at(key, workspace.root))
    except predicting.PredictError as error:
        raise Refused(str(error)) from error
    show(scored.table)
    for path in scored.files:
        click.echo(display_path(path))
    click.echo(predicting.DISCLAIMER)


@cli.command(short_help="Compare two tables of predictions, from any two models.")
@click.argument("first", metavar="A.csv", type=click.Path(path_type=Path))
@click.argument("second", metavar="B.csv", type=click.Path(path_type=Path))
@click.option("--margin", default=0.05, show_default=True, help="Difference in AUROC that does not matter.")
@click.option("--level", default=0.95, show_default=True, help="Level of the intervals.")
@click.option("--replicates", default=10_000, show_default=True, help="Number of bootstrap replicates.")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@click.option(
    "--figure", type=click.Path(path_type=Path), help="Also draw the differences: a .png or .svg file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def compare(
    first: Path, second: Path, margin: float, level: float, replicates: int, seed: int, figure: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare the AUROCs of A.csv and B.csv: tables of predictions of the same exams, from any two models.

    \b
    python -m ctlib compare ours.csv theirs.csv --margin 0.03 --figure difference.svg

    Columns: patient or study (or both), label (1 for disease) and score; if there are several networks,
    seeds or folds, also network, seed and fold. The bootstrap resamples patients, each with all exams, and
    seeds; the networks are fixed. As in 04_analyze, one test asks whether there is a difference, another
    whether it lies within the margin.
    """
    from ctlib.analysis import compare as comparing
    from ctlib.metrics import Bootstrap

    if not 0.5 <= level < 1 or not 0 <= margin < 1 or replicates < 100:
        raise Refused(
            f"--level {level}, --margin {margin}, --replicates {replicates}: give --level from 0.5 to below 1, "
            "--margin from 0 to below 1, --replicates of 100 or more."
        )
    try:
        found = comparing.compare(first, second, Bootstrap(replicates, seed, level), margin)
    except comparing.CompareError as error:
        raise Refused(str(error)) from error
    if as_json:
        click.echo(json.dumps(comparing.as_object(found), indent=1))
    else:
        show(found.aurocs.dropna(axis=1, how="all"))
        show(found.differences)
        click.echo(found.sentence())
    if figure is not None:
        comparing.draw(found, figure)
        click.echo(display_path(figure), err=as_json)


def _hush() -> None:
    """Nobody reads the output of the interrupted cell any more; asyncio would print errors at exit."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def _terminated(number: int, frame: Any) -> NoReturn:
    _hush()
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None, places: Places = HOME) -> NoReturn:
    """Entry point: exits 0, 1 (something failed), 2 (wrong input), 130 (Ctrl-C) or 143 (terminated)."""
    signal.signal(signal.SIGTERM, _terminated)  # as Ctrl-C: the kernel is ended, what was shown is kept
    try:
        code = cli.main(args=arguments, prog_name="python -m ctlib", standalone_mode=False, obj=places)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _hush()
        click.echo(STOPPED, err=True)
        code = 130
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
