"""The command line: `ctlib --help`. What is heavy is imported where it is used."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from ctlib import __version__
from ctlib.analysis import preregistration
from ctlib.cli import gpu_check, grid, notebooks
from ctlib.cli.data import (
    COMMANDS,
    LOADING,
    Refused,
    check_input,
    identity_at,
    load,
    profile_argument,
    profiles,
    set_option,
    show,
)
from ctlib.cli.notebooks import Limits
from ctlib.core import (
    DEFAULT_KEY,
    HOME,
    Places,
    Workspace,
    command,
    display_path,
    doing,
    nearest_name,
    parameters,
)
from ctlib.grid import maintenance

STOPPED = "Stopped. What was finished is kept; the same command continues from there."


_log = logging.getLogger("ctlib.cli")
_log.addHandler(
    logging.NullHandler()
)  # what is logged is shown already; without a handler, errors would be twice


def say(text: str, quietly: bool = False) -> None:
    """Print a line, and log it; on stderr where stdout is for JSON."""
    click.echo(text, err=quietly)
    _log.info(text)


def _workspace(profile: str, places: Places, overrides: Sequence[str] = ()) -> Workspace:
    return Workspace.at(next(iter(load(profile, overrides, places).values()))["work_dir"])


class Logged(click.Group):
    """Commands whose refusals and failures stand in the log, too."""

    def invoke(self, ctx: click.Context) -> Any:
        """The command, as click does."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            _log.error(error.format_message())
            raise
        except (click.Abort, KeyboardInterrupt):
            _log.warning(STOPPED)
            raise


@click.group(cls=Logged, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ctlib")
@click.option(
    "--log-file", type=click.Path(path_type=Path, dir_okay=False), help="Append a log to this file."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level of what is logged.",
)
@click.pass_context
def cli(context: click.Context, log_file: Path | None, log_level: str) -> None:
    """Does a 3D network pretrained on natural video need fewer labelled patients to learn a chest-CT task?

    Four notebooks give the answer. `run` executes them with the parameters of a profile (a folder of
    params/) and writes their reports. What is finished is not computed again.

    \b
    First steps     run demo; then open work/demo/reports/index.html
    Your own data   scan data; run folder; params folder lists the parameters
    Public CT       fetch, prepare, verify, run
    Many runs       plan, run or worker, runs, retry, prune

    Each command has its own --help. More is in the README. Completion by the Tab key in bash (or zsh, fish):
    eval "$(_CTLIB_COMPLETE=bash_source ctlib)".
    """
    if log_file is None:
        return
    try:
        handler = logging.FileHandler(log_file, encoding="utf-8")
    except OSError as error:
        raise Refused(f"--log-file {display_path(log_file)} cannot be written: {error.strerror}.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger, before = logging.getLogger("ctlib"), logging.getLogger("ctlib").level
    logger.addHandler(handler)
    logger.setLevel(log_level.upper())

    def end() -> None:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()

    context.call_on_close(end)
    _log.info("ctlib %s: %s", __version__, shlex.join(sys.argv[1:]))


for one in (*COMMANDS, *grid.COMMANDS, gpu_check.gpu_check):
    cli.add_command(one)


@cli.command(short_help="Execute the notebooks of a profile and write its reports.")
@profile_argument
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
@click.option("--allow-failed", is_flag=True, help="Exit with 0 although runs failed.")
@click.option(
    "--silence-limit",
    type=click.FloatRange(min=0),
    default=Limits.silence_s,
    show_default=True,
    metavar="SECONDS",
    help="End a notebook of which a cell shows nothing for so long; 0 for no limit. A run that ends counts.",
)
@click.option(
    "--start-limit",
    type=click.IntRange(min=1),
    default=Limits.start_s,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the kernel of a notebook.",
)
@click.pass_obj
def run(
    places: Places, profile: str, only: tuple[str, ...], overrides: tuple[str, ...], again: bool, allow_failed: bool,
    silence_limit: float, start_limit: int,
) -> None:  # fmt: skip
    """Execute the notebooks of PROFILE and write their reports into reports/ of its work folder.

    \b
    ctlib run demo
    ctlib run demo --only 03 --only 04 --set 03_finetune_grid.seeds='[0]' --set work_dir=work/trial

    All parameters of all notebooks are checked before anything runs. If all notebooks were executed to
    the end and nothing has changed since then (data, parameters, notebooks, code, packages), only the
    reports are written again. If a notebook or a run of the grid failed, the reason and the next command
    are printed last, and the exit status is 1.
    """
    values = load(profile, overrides, places)
    try:
        preregistration.require(profile, places)
    except parameters.ParameterError as error:
        raise Refused(str(error)) from error
    names = _chosen(profile, only, list(values), places)
    work = Workspace.at(values[names[0]]["work_dir"])
    _require_own(profile, work)
    if "01_explore_data" in names:
        with doing("Comparing labels with files"):
            check_input(values["01_explore_data"])
    with doing(LOADING):
        from ctlib.cli import reports, staleness
        from ctlib.core import Bar

    with doing("Looking for what has changed since the last run"):
        unchanged = not only and not again and staleness.nothing_changed(profile, values, places)
    if unchanged:
        say("Nothing has changed since all notebooks were executed; --again executes them anyway.")
        for name in names:
            with doing(f"Writing the report of {name}"):
                _report(profile, name, values, places, work.reports)
        say(f"Read {display_path(_index(profile, values, places, work.reports))}")
        return
    if later := {name: values[name] for name in names[1:] if name in grid.NAMED}:  # the first says so itself
        grid.check_names(later)
    bar = Bar(len(names))
    for position, name in enumerate(names, start=1):
        failed: notebooks.NotebookFailed | None = None
        _log.info("%s begins", name)
        with bar.notebook(name, position, notebooks.progress_path(name, values[name])) as on_section:
            try:
                limits = Limits(start_limit, silence_limit)
                notebooks.execute(name, values[name], on_section, places, overrides, limits)
            except notebooks.NotebookFailed as error:
                failed = error
        story, _, page = _report(profile, name, values, places, work.reports)
        told = f"{name} {story.status}, {reports.duration(story.timing.get('duration'))}"
        say(f"[{position} of {len(names)}] {told}: {display_path(page)}")
        if failed:
            _index(profile, values, places, work.reports)
            raise Refused(str(failed)) if failed.is_input else click.ClickException(str(failed))
    if not only and maintenance.listed(work, only_failed=True).empty:
        staleness.keep(profile, values, places)
    say(f"Read {display_path(_index(profile, values, places, work.reports))}")
    if grid.GRID in names or "04_analyze" in names:
        _tell_failed(profile, work, allow_failed)


def _require_own(profile: str, work: Workspace) -> None:
    """Refuse a work folder of another profile, whose notebooks, tables and reports would be replaced."""
    for path in sorted(work.notebooks.glob("*.ipynb")):
        other = notebooks.profile_of(path)
        if other not in ("", profile):
            raise Refused(
                f"{display_path(work.root)} holds notebooks and reports of profile {other!r}: give profile "
                f"{profile!r} a work_dir of its own, in its files or with --set work_dir=work/{profile}."
            )


def _tell_failed(profile: str, work: Workspace, allow_failed: bool) -> None:
    """Say which runs of the grid failed, why, and what to do."""
    lines = maintenance.failures(work)
    if not lines:
        return
    listed, again = command("runs", profile, "--failed"), command("retry", profile)
    told = "\n".join(
        [
            *lines,
            f"`{listed}` lists them. When the cause is gone: `{again}`, then `{command('run', profile)}`.",
        ]
    )
    if not allow_failed:
        raise click.ClickException(told)
    click.echo(told, err=True)


def _chosen(profile: str, only: Sequence[str], names: list[str], places: Places) -> list[str]:
    """The notebooks to run, in their order."""
    chosen = []
    for name in only:
        found = places.find(name)
        if found not in names:
            near = "" if found else nearest_name(name, names)
            raise Refused(f"--only {name}: profile {profile!r} has no such notebook{near}; it has {names}.")
        chosen.append(found)
    return [name for name in names if name in chosen] if chosen else names


def _report(
    profile: str, name: str, values: dict[str, dict[str, Any]], places: Places, folder: Path
) -> tuple[Any, list[str], Path]:
    """Write the page of a notebook: what it tells, why it is outdated, and where it lies."""
    from ctlib.cli import reports, staleness

    try:
        executed, page = notebooks.executed_path(name, values[name]), folder / f"{name}.html"
        stale = staleness.reasons(name, reports.Executed.read(executed).book, profile, places)
        above = reports.everything(places, folder)
        return reports.render(executed, page, profile, list(values), stale, above, places), stale, page
    except reports.ReportError as error:
        raise click.ClickException(str(error)) from error


def _index(profile: str, values: dict[str, dict[str, Any]], places: Places, folder: Path) -> Path:
    """Write the index of a profile, and the page of all profiles that lists it."""
    from ctlib.cli import reports

    try:
        executed = {name: notebooks.executed_path(name, values[name]) for name in values}
        page = reports.index(profile, executed, places, folder)
        if reports.everything(places, folder):
            reports.profiles(places, folder)
        return page
    except reports.ReportError as error:
        raise click.ClickException(str(error)) from error


@cli.command(short_help="Write the reports again, without running anything.")
@profile_argument
@set_option
@click.option("--pdf", is_flag=True, help="Also print each report as a PDF. Needs Chromium.")
@click.option("--publish", is_flag=True, help="Into reports/PROFILE, to be committed: for maintainers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per notebook.")
@click.pass_obj
def report(
    places: Places, profile: str, overrides: tuple[str, ...], pdf: bool, publish: bool, as_json: bool
) -> None:
    """Write the reports of PROFILE again, from the notebooks as they were last executed.

    \b
    ctlib report demo
    ctlib report demo --pdf

    It says which reports are outdated: older than a table, a parameter, the notebook or the code that they
    were made from. work/index.html lists all work folders in work/ that have reports.
    """
    values, pages = load(profile, overrides, places), []
    work = Workspace.at(next(iter(values.values()))["work_dir"])
    folder = places.reports / profile if publish else work.reports
    _require_own(profile, work)
    if not any(notebooks.executed_path(name, values[name]).is_file() for name in values):
        raise Refused(f"profile {profile} was not run here; run `{command('run', profile)}` first.")
    rows: list[dict[str, Any]] = []
    for name in values:
        rows.append({"notebook": name, "status": "not run", "set": [], "stale": [], "page": None})
        if notebooks.executed_path(name, values[name]).is_file():
            with doing(f"Writing the report of {name}"):
                story, stale, page = _report(profile, name, values, places, folder)
            pages.append(page)
            rows[-1] |= {
                "status": story.status,
                "set": story.settings,
                "stale": stale,
                "page": display_path(page),
            }
            told = f", with --set {shlex.join(story.settings)}" if story.settings else ""
            told += f", outdated: {'; '.join(stale)}" if stale else ""
            say(f"{name} {story.status}{told}: {display_path(page)}", as_json)
        else:
            say(f"{name} was not run", as_json)
    pages.append(_index(profile, values, places, folder))
    if pdf:
        for printed in _print(pages):
            say(display_path(printed), as_json)
        _index(profile, values, places, folder)  # which now has links to them
    say(f"Read {display_path(pages[-1])}", as_json)
    if as_json:
        click.echo(json.dumps(rows))


def _print(pages: Sequence[Path]) -> Iterator[Path]:
    from ctlib.cli import reports

    try:
        yield from map(reports.print_pdf, pages)
    except reports.ReportError as error:
        raise click.ClickException(str(error)) from error


@cli.command(short_help="List the runs of a profile.")
@profile_argument
@set_option
@click.option("--failed", is_flag=True, help="Only failed runs, with the reason.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per run.")
@click.pass_obj
def runs(places: Places, profile: str, overrides: tuple[str, ...], failed: bool, as_json: bool) -> None:
    """List all runs of PROFILE that were started, also while a grid computes.

    One row per run: its id, settings, status, validation AUROC, seconds and memory, of the machine and of the
    GPU. Of runs that are otherwise alike, also the settings in which they differ. With --failed, also the reason.
    """
    workspace = _workspace(profile, places, overrides)
    frame = maintenance.listed(workspace, failed)
    telling = maintenance.differences(workspace, frame)
    if as_json:
        click.echo(telling.to_json(orient="records"))
    elif frame.empty:
        click.echo("No run has failed." if failed else "No run was started; notebook 03_finetune_grid does.")
    else:
        empty = [name for name in maintenance.MEMORY if telling[name].isna().all()]
        show(telling.drop(columns=[*empty, *([] if failed else ["error"])]))


@cli.command(short_help="Score the clips of one series with a finished run.")
@click.argument("run_id")
@click.argument("series", type=click.Path(path_type=Path))
@click.option(
    "--profile",
    default="demo",
    show_default=True,
    metavar="PROFILE",
    shell_complete=profiles,
    help="Profile of the run.",
)
@set_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: the clips, and the files that were written."
)
@click.pass_obj
def predict(
    places: Places, run_id: str, series: Path, profile: str, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Score the clips of SERIES with the finished run RUN_ID.

    SERIES is a folder of DICOM files, or a NIfTI, MetaImage or NRRD file.

    Writes a table and a figure into work/PROFILE/predict/. `ctlib runs PROFILE` lists the
    runs. This shows that the software works. It is no diagnosis, and for research only.
    """
    key = load(profile, overrides, places).get("01_explore_data", {}).get("id_key", DEFAULT_KEY)
    workspace = _workspace(profile, places, overrides)
    try:
        maintenance.require_finished(workspace, run_id)
    except maintenance.HousekeepingError as error:
        raise Refused(f"{error} Of another profile than {profile}? Give --profile.") from error
    if not series.exists():
        raise Refused(
            f"{display_path(series)} is missing; give a folder of DICOM files of one series, or a file."
        )
    with doing(LOADING):
        from ctlib.analysis import predict as predicting
    try:
        with doing(f"Reading {display_path(series)} and scoring its clips"):
            scored = predicting.predict(workspace, run_id, series, identity_at(key, workspace.root))
    except predicting.PredictError as error:
        raise Refused(str(error)) from error
    if as_json:
        files = [display_path(path) for path in scored.files]
        clips = json.loads(scored.table.to_json(orient="records"))
        click.echo(
            json.dumps({"run_id": run_id, "clips": clips, "files": files, "note": predicting.DISCLAIMER})
        )
        return
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
    ctlib compare ours.csv theirs.csv --margin 0.03 --figure difference.svg

    Columns: patient or study (or both), label (1 for disease) and score; if there are several networks,
    seeds or folds, also network, seed and fold. The bootstrap resamples patients, each with all exams, and
    seeds; the networks are fixed. As in 04_analyze, one test asks whether there is a difference, another
    whether it lies within the margin.
    """
    with doing(LOADING):
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
        code = cli.main(args=arguments, prog_name="ctlib", standalone_mode=False, obj=places)
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
