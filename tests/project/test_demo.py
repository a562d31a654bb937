"""All four notebooks, end to end: killed in the middle of the grid, run again, and looked at.

The profile `smoke` for each change, which takes two minutes; the demo, nightly, for its figures too.
`CTLIB_DEMO_TIMES=FILE` keeps the times that were taken.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import papermill
import pytest
from lab_page import CHROMIUM, NO_CHROMIUM, LabPage, chromium, jupyterlab

from ctlib.cli.data import load
from ctlib.cli.reports import remote_addresses
from ctlib.core import tables
from ctlib.core.workspace import HOME, NOTEBOOKS, PROJECT, Workspace
from ctlib.training.results import finished
from ctlib.training.run import Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3 * 3600)]
RUNS_BEFORE_KILL = {"smoke": 4, "demo": 12}
PROFILES = ["smoke", pytest.param("demo", marks=pytest.mark.nightly)]


@dataclass
class Demo:
    profile: str
    settings: dict[str, dict]  # parameters of each notebook, in the test's folder
    work: Workspace
    seconds: dict[str, float]
    before_kill: dict[str, int]  # result.json's time of change, by run id
    in_flight: list[str]  # runs that were under way


def moved(profile: str, folder: Path) -> list[str]:
    """Settings for `--set` that let all that a profile writes lie in a folder of the test."""
    inside, found = f"work/{profile}", {}
    for values in load(profile, (), HOME).values():
        found |= {k: v.replace(inside, str(folder / profile)) for k, v in values.items() if inside in str(v)}
    return [f"{name}={value}" for name, value in found.items()]


def command(profile: str, folder: Path, changes: Sequence[str] = ()) -> list[str]:
    """`ctlib run PROFILE`, with its work and its reports in a folder of the test, and more `--set`."""
    given = [*moved(profile, folder), *changes]
    arguments = ["run", profile] + [part for one in given for part in ("--set", one)]
    return [sys.executable, "-P", "-m", "ctlib", *arguments]


def results(work: Workspace) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in work.runs.glob("*/result.json")}


def processes_naming(text: str) -> list[str]:
    """Command lines of living processes that name a text (workers and kernels inherit it or not)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:
            continue
    return found


def under_way(work: Workspace) -> list[str]:
    """Runs that were begun and are not finished."""
    begun = (path.parent for path in work.runs.glob("*/run.json"))
    return sorted(run.name for run in begun if not (run / "result.json").exists())


@pytest.fixture(scope="module", params=PROFILES)
def demo(request, tmp_path_factory):
    profile, folder = request.param, tmp_path_factory.mktemp("e2e")
    work, seconds = Workspace(folder / profile), {}
    environment = {**os.environ, "CTLIB_TEST_MARK": str(folder)}
    started = time.monotonic()
    first = subprocess.Popen(command(profile, folder), cwd=folder, env=environment)
    while len(results(work)) < RUNS_BEFORE_KILL[profile] or not under_way(work):
        assert first.poll() is None, "it ended before the grid was under way"
        time.sleep(0.05)
    before = results(work)
    first.send_signal(signal.SIGKILL)
    first.wait()
    seconds["until killed"] = time.monotonic() - started
    deadline = time.monotonic() + 30
    while processes_naming(str(folder)):
        assert time.monotonic() < deadline, processes_naming(str(folder))
        time.sleep(0.2)
    before |= results(work)
    in_flight = under_way(work)
    started = time.monotonic()
    subprocess.run(command(profile, folder), cwd=folder, check=True, timeout=2 * 3600)
    seconds["resumed"] = time.monotonic() - started
    settings = load(profile, moved(profile, folder), HOME)
    yield Demo(profile, settings, work, seconds, before, in_flight)
    if path := os.environ.get("CTLIB_DEMO_TIMES"):
        Path(path).write_text(json.dumps(seconds))


def test_what_was_finished_before_the_kill_was_kept(demo):
    assert len(demo.before_kill) >= RUNS_BEFORE_KILL[demo.profile]
    assert demo.before_kill.items() <= results(demo.work).items()


def test_every_run_is_finished(demo):
    runs = tables.read("runs", demo.work.table("runs"))
    settings = demo.settings["03_finetune_grid"]
    arms = [settings[name] for name in ("tasks", "backbones", "inits", "fractions", "seeds")]
    assert len(runs) == pd.MultiIndex.from_product(arms).size
    controls = tables.read("controls", demo.work.table("controls"))
    assert set(controls["control"]) == set(settings["controls"])
    assert set(controls["backbone"]) == set(settings["control_backbones"])
    assert (runs["status"] == "finished").all() and (controls["status"] == "finished").all()
    assert set(results(demo.work)) == {*runs["run_id"], *controls["run_id"]}


def test_runs_that_were_under_way_equal_quiet_ones(demo, tmp_path):
    assert demo.in_flight
    quiet = Workspace(tmp_path / "quiet")
    quiet.root.mkdir()
    for name in ("tables", "store", "weights"):
        (quiet.root / name).symlink_to(demo.work.root / name)
    for run_id in demo.in_flight[:2]:
        stored = json.loads((demo.work.runs / run_id / "run.json").read_text())
        assert stored.pop("run_id") == run_id
        code = (
            "from ctlib.core.parallel import pin_threads; from ctlib.training import finetune, run; pin_threads(1); "
            f"finetune.execute({str(quiet.root)!r}, run.Run(**{stored!r}))"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        for name in ("predictions", "curves"):
            files = [space.runs / run_id / f"{name}.parquet" for space in (demo.work, quiet)]
            pd.testing.assert_frame_equal(*(tables.read(name, file) for file in files), check_exact=True)
        assert finished(quiet, Run(**stored))


def test_four_reports_and_an_index_without_errors_or_remote_addresses(demo):
    pages = sorted(demo.work.reports.glob("*.html"))
    assert [page.stem for page in pages] == [*demo.settings, "index"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        limit = 8_000_000 if 'class="ct-scroller"' in text else 2_000_000  # exams to scroll through
        assert len(text.encode()) < limit, page
        assert remote_addresses(text) == []
        assert "Traceback" not in text


def test_the_analysis_states_the_effect_on_each_task(demo):
    text = (demo.work.reports / "04_analyze.html").read_text(encoding="utf-8")
    effects = tables.read("effects", demo.work.table("effects"))
    means = effects[effects["backbone"].str.startswith("mean of")]
    grid = demo.settings["03_finetune_grid"]
    assert set(means["task"]) == set(grid["tasks"]) and (means["reason"] == "").all()
    for row in means.itertuples():
        assert row.low < row.effect < row.high and row.n_seeds == len(grid["seeds"]) and row.n_patients > 10
        assert f"{row.effect:+.3f}".replace("-", "\N{MINUS SIGN}") in text


def test_reports_open_in_a_browser_without_a_network(demo, browser):
    failures = []
    page = browser.new_context(offline=True).new_page()
    page.on("requestfailed", lambda request: failures.append(request.url[:200]))
    page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: failures.append(str(error)))
    for path in sorted(demo.work.reports.glob("*.html")):
        page.goto(path.as_uri())
        assert page.title()
    assert failures == []


def test_a_second_run_is_quick_and_computes_nothing_again(demo, tmp_path):
    before = results(demo.work)
    started = time.monotonic()
    done = subprocess.run(
        command(demo.profile, demo.work.root.parent), check=True, timeout=900, capture_output=True, text=True
    )
    demo.seconds["again"] = time.monotonic() - started
    assert results(demo.work) == before and "Nothing has changed" in done.stdout
    assert demo.seconds["again"] < 60  # 4 s were measured, quiet: only the reports are written


def test_it_is_small(demo):
    size = sum(path.stat().st_size for path in demo.work.root.rglob("*") if path.is_file())
    assert size < 1.5e9, f"its work holds {size / 1e9:.2f} GB"


@pytest.mark.skipif(not CHROMIUM.exists(), reason=NO_CHROMIUM)
@pytest.mark.nightly  # minutes in a browser; seen to fail once beside other work, why is not known yet
def test_every_notebook_runs_by_run_all_in_jupyterlab(demo, tmp_path):
    """With the network cut; what is computed already is not computed again; 01 shows a volume.

    The page saves notebooks by itself, so it is given copies.
    """
    before = results(demo.work)
    shutil.copytree(PROJECT / "notebooks", tmp_path / "notebooks")
    for name in demo.settings:
        book = papermill.iorw.load_notebook_node(str(PROJECT / "notebooks" / f"{name}.ipynb"))
        book = papermill.parameterize.parameterize_notebook(book, demo.settings[name])
        papermill.iorw.write_ipynb(book, str(tmp_path / "notebooks" / f"{name}.ipynb"))
    with jupyterlab(tmp_path) as address, chromium() as browser:
        with contextlib.closing(LabPage(browser, address)) as page:
            page.open("notebooks/start.md")
            links = page.tab.locator(".jp-RenderedMarkdown a[href*='.ipynb']")
            links.first.wait_for()
            assert [link.inner_text() for link in links.all()] == list(NOTEBOOKS)
            links.nth(NOTEBOOKS.index("04_analyze")).click()
            page.tab.locator("h1", has_text="Analyze: does video pretraining help?").first.wait_for()
        for name in demo.settings:
            with contextlib.closing(LabPage(browser, address)) as page:
                page.open(f"notebooks/{name}.ipynb")
                page.run_all(timeout_ms=1_200_000)
                if name.startswith("01"):
                    assert page.until(lambda pixels: pixels.max() > 100).std() > 10
                assert page.asked == [] and page.errors == []
                page.tab.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    assert results(demo.work) == before
