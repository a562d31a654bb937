"""Reports in a real browser with the network cut: what fails, what is in reach, what paper gets."""

import re
import shutil
import subprocess

import pandas as pd
import pytest
from chromium import WHY, axe_source
from nbformat import v4
from sample_project import markdown, project
from test_commands import called
from test_figures import FIGURES
from test_reports import broken, executed, good, html, result, run
from test_scroller import exam

from ctlib.cli import reports
from ctlib.visualization.html import figure_html, table_html
from ctlib.visualization.scroller import scroller_html

ROWS = 40
SIZES = {"desktop": (1360, 900), "phone": (390, 844)}


def frame():
    return pd.DataFrame(
        {
            "network": [f"net, {i % 7}" for i in range(ROWS)],
            "auroc": [None if i == 3 else (i * 37 % ROWS) / 81 for i in range(ROWS)],
            "n_patients": [1000 * i for i in range(ROWS)],
        }
    )


def rich(path):
    """An executed copy with all that a report can hold."""
    shown = figure_html(FIGURES["clip_scores"](), "Scores of clips", "Scores; 88 patients.")
    return executed(
        path,
        v4.new_markdown_cell("## Tables\n\nSome text with `code` and a [link](https://example.org/a)."),
        run("table()", [html(table_html(frame(), "Scores of networks"))]),
        v4.new_markdown_cell("## Figures\n\n### Deeper\n\nMore text."),
        run("show()", [html(shown)], ["headline"]),
        run("show_again()", [html(shown.replace("Scores of clips", "The second"))]),
        v4.new_markdown_cell("## Slices\n\nTurn them."),
        run("scroller()", [html(scroller_html([exam()], "Slices", "One exam."))]),
        run("print()", [v4.new_output("stream", name="stdout", text="a line\n" * 60)]),
        v4.new_markdown_cell("## What this shows, and what it does not\n\nSomething."),
        run("find()", [v4.new_output("stream", name="stdout", text="It is 0.5.\n")], ["finding"]),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reports of four notebooks (all that a report holds, failed, plain, not run), and both indices."""
    root = tmp_path_factory.mktemp("study")
    places = project(root, *[[markdown("## A")]] * 4)
    paths = {name: root / "work" / f"{name}.ipynb" for name in places.names}
    rich(paths["01_step"])
    broken(paths["02_step"])
    good(paths["03_step"])
    for name in places.names[:3]:
        stale = ["table runs has changed"] if name == "01_step" else []
        reports.render(paths[name], places.reports / "small" / f"{name}.html", "small", places.names, stale)
    reports.index("small", paths, places)
    reports.profiles(places)
    return places.reports


class Watched:
    """A page of a browser without a network; what goes wrong in it is noted."""

    def __init__(self, browser, size="desktop", **more):
        width, height = SIZES[size]
        self.context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **more)
        self.tab, self.wrong, self.asked = self.context.new_page(), [], []
        self.tab.on("requestfailed", lambda request: self.wrong.append(request.url[:100]))
        self.tab.on("console", lambda message: self.wrong.append(message.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url[:100]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.fixture
def tab(browser, folder):
    with Watched(browser, accept_downloads=True) as watched:
        watched.tab.goto((folder / "small" / "01_step.html").as_uri())
        yield watched.tab
        assert watched.wrong == []


def column(tab, n):
    return tab.locator(f"table.ct-table tbody tr:visible td:nth-child({n})").all_text_contents()


# ---- every page


@pytest.mark.parametrize("size", SIZES)
def test_nothing_fails_and_nothing_sticks_out(folder, browser, size):
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) == 5
    with Watched(browser, size) as watched:
        for path in pages:
            watched.tab.goto(path.as_uri())
            loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
            assert watched.tab.evaluate(loaded), path
            assert watched.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert watched.wrong == [] and all(url.startswith(("file:", "data:")) for url in watched.asked)


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        ("desktop", "light"),
        pytest.param("desktop", "dark", marks=pytest.mark.nightly),
        pytest.param("phone", "light", marks=pytest.mark.nightly),
        ("phone", "dark"),
    ],
)
def test_no_accessibility_fault(folder, browser, size, scheme):
    axe = axe_source()
    with Watched(browser, size, color_scheme=scheme) as watched:
        for path in sorted(folder.rglob("*.html")):
            watched.tab.goto(path.as_uri())
            watched.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            watched.tab.evaluate(axe)
            found = watched.tab.evaluate("axe.run(document, { resultTypes: ['violations'] })")
            faults = [
                f"{path.name}: {v['id']} ({v['impact']}) {v['nodes'][0]['html'][:200]}"
                for v in found["violations"]
            ]
            assert faults == []
            assert len(found["passes"]) > 10  # it did look


def test_links_between_the_pages_lead_somewhere(folder):
    for path in folder.rglob("*.html"):
        for link in re.findall(r'href="([^"#]+\.html)"', path.read_text()):
            assert (path.parent / link).resolve().is_file() or link == "04_step.html", (path, link)


# ---- what a reader sees first


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """The index of a profile of phantoms whose last notebook left a result, and its page."""
    root = tmp_path_factory.mktemp("answered")
    places = project(root, *[[markdown("## A")]] * 2)
    paths = {name: root / "work" / "notebooks" / f"{name}.ipynb" for name in places.names}
    good(paths["01_step"])
    result(paths["02_step"])
    table = root / "work" / "tables" / "lidc" / "series.parquet"
    table.parent.mkdir(parents=True)
    pd.DataFrame({"manufacturer": ["Phantom Beta"], "patient_id": ["a"], "study_uid": ["a"]}).to_parquet(
        table
    )
    page = places.reports / "small" / "02_step.html"
    reports.render(paths["02_step"], page, "small", places.names, places=places)
    return reports.index("small", paths, places), page


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_the_first_screen_of_an_index_says_whose_data_what_was_asked_and_what_came_out(
    answered, browser, size, scheme
):
    with Watched(browser, size, color_scheme=scheme) as watched:
        tab = watched.tab
        tab.set_viewport_size({"width": 1300 if size == "desktop" else 390, "height": 900})
        tab.goto(answered[0].as_uri())
        said = [
            "SYNTHETIC CHESTS", "Does it help in t?", "Method check", "not passed", "Pages up to date",
            "Does it help?", "+0.170 (+0.076 to +0.263)", "gain",
        ]  # fmt: skip
        boxes = [
            tab.get_by_text(text, exact=text != "SYNTHETIC CHESTS").first.bounding_box() for text in said
        ]
        for text, box in zip(said, boxes, strict=True):
            assert box["y"] >= 0 and box["y"] + box["height"] <= 900, text
            assert box["x"] >= 0 and box["x"] + box["width"] <= tab.viewport_size["width"], text
        tops = [boxes[said.index(text)]["y"] for text in ("SYNTHETIC CHESTS", "Does it help in t?", "gain")]
        assert tops == sorted(tops)
        colour = (
            "getComputedStyle(document.querySelector('.band')).backgroundColor.match(/\\d+/g).map(Number)"
        )
        red, green, blue = tab.evaluate(colour)
        assert red > green > blue + 60  # amber, whatever the scheme
        assert not tab.get_by_text("Claim 1, it helps").is_visible()
        tab.get_by_text("Claims of Ke et al. (MIDL 2023): 1 supported, 1 not asked").click()
        assert tab.get_by_text("Claim 1, it helps").is_visible()
        figure = tab.locator(".answer figure img").bounding_box()
        assert figure["width"] > 0.88 * tab.viewport_size["width"]


def test_a_page_begins_with_its_data_and_its_result_and_explains_its_words(answered, browser):
    with Watched(browser) as watched:
        tab = watched.tab
        tab.set_viewport_size({"width": 1300, "height": 900})
        tab.goto(answered[1].as_uri())
        for text in ("SYNTHETIC CHESTS", "+0.170 (+0.076 to +0.263)"):
            assert tab.get_by_text(text).first.bounding_box()["y"] < 850
        assert not tab.get_by_text("the interval lies above 0").first.is_visible()
        tab.get_by_text("Words used here").click()
        assert tab.get_by_text("the interval lies above 0").first.is_visible()
        assert watched.wrong == []


# ---- tables


def test_a_table_wider_than_its_frame_says_that_it_scrolls(tab):
    wide = pd.DataFrame({f"a long name of column {i}": ["unbreakable_content_of_a_cell"] for i in range(9)})
    assert tab.locator(".box.scrolls").count() == 0
    tab.evaluate("text => { document.querySelector('.box').innerHTML = text; }", table_html(wide, "Wide"))
    tab.wait_for_function("document.querySelector('.box').classList.contains('scrolls')")
    mark = "getComputedStyle(document.querySelector('.scrolls'), '::before').content"
    assert "scroll" in tab.evaluate(mark)


def test_a_long_table_is_folded_and_opens(tab):
    assert len(column(tab, 1)) == 12
    tab.get_by_role("button", name=f"Show all {ROWS} rows").click()
    assert len(column(tab, 1)) == ROWS


def test_a_table_sorts_by_mouse_and_keyboard_with_what_is_missing_last(tab):
    tab.get_by_role("button", name=f"Show all {ROWS} rows").click()
    before = column(tab, 2)
    head = tab.locator("table.ct-table th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = column(tab, 2)
    assert values[-1] == "–" and values[:-1] == sorted(values[:-1], key=float) != before
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    values = column(tab, 2)
    assert values[-1] == "–" and values[:-1] == sorted(values[:-1], key=float, reverse=True)
    tab.locator("table.ct-table th").nth(2).locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(tab, 3)[:3] == ["0", "1,000", "2,000"]  # as numbers, not as text
    tab.locator("table.ct-table th").nth(2).locator("button").click(click_count=2)
    assert column(tab, 2) == before


def test_a_table_is_taken_along_whole_and_unrounded(tab):
    with tab.expect_download() as started:
        tab.get_by_role("button", name="Download as CSV").click()
    assert started.value.suggested_filename == "scores-of-networks.csv"
    lines = started.value.path().read_text().splitlines()
    assert lines[0] == "network,AUROC,patients" and len(lines) == ROWS + 1
    assert lines[2] == f'"net, 1",{37 / 81},1000' and lines[4] == '"net, 3",,3000'
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.get_by_role("button", name="Copy: Scores of networks").click()
    tab.get_by_text(f"{ROWS} rows copied").wait_for()
    copied = tab.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied[0].split("\t") == ["network", "AUROC", "patients"] and len(copied) == ROWS + 1
    assert float(copied[2].split("\t")[1]) == 37 / 81


# ---- figures, contents


def test_a_figure_enlarges_by_mouse_and_keyboard_and_gives_the_focus_back(tab):
    dialog, first = tab.locator("dialog.zoom"), tab.get_by_role("button", name="Enlarge: Scores of clips")
    assert not dialog.is_visible()
    small = first.locator("img").bounding_box()["width"]
    first.focus()
    tab.keyboard.press("Enter")
    assert dialog.is_visible() and dialog.locator("img").bounding_box()["width"] > 1.2 * small
    assert "88 patients" in dialog.inner_text() and "1 of 2" in dialog.inner_text()
    tab.keyboard.press("ArrowRight")
    assert dialog.locator("img").get_attribute("alt") == "The second"
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    # the browser tells that a dialog has closed a moment later
    tab.wait_for_function("document.activeElement.getAttribute('aria-label') === 'Enlarge: The second'")
    first.locator("img").click()
    tab.mouse.click(3, 3)  # beside it
    assert not dialog.is_visible()


def test_the_contents_stay_in_sight_and_follow(tab):
    contents = tab.locator(".side nav")
    tab.get_by_role("heading", name="Slices").scroll_into_view_if_needed()
    tab.evaluate("document.querySelectorAll('h2')[2].scrollIntoView({ behavior: 'instant' })")
    tab.wait_for_function("document.querySelector('.side a.here')?.textContent === 'Slices'")
    assert 0 <= contents.bounding_box()["y"] < 100


def test_on_a_phone_the_contents_stick_to_the_top(browser, folder):
    with Watched(browser, "phone") as watched:
        tab = watched.tab
        tab.goto((folder / "small" / "01_step.html").as_uri())
        tab.evaluate("document.querySelectorAll('h2')[2].scrollIntoView({ behavior: 'instant' })")
        bar = tab.locator(".sheet > details.contents")
        tab.wait_for_function("document.querySelector('.now').textContent === 'Slices'")
        assert abs(bar.bounding_box()["y"]) < 2
        assert tab.locator("h2", has_text="Slices").bounding_box()["y"] > bar.bounding_box()["height"]


def test_on_a_phone_a_wide_figure_is_seen_whole(browser, folder):
    with Watched(browser, "phone") as watched:
        watched.tab.goto((folder / "small" / "01_step.html").as_uri())
        box = watched.tab.locator("figure.ct-figure img").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_on_a_phone_a_figure_is_larger_than_the_screen_and_scrolls(browser, folder):
    with Watched(browser, "phone") as watched:
        tab = watched.tab
        tab.goto((folder / "small" / "01_step.html").as_uri())
        tab.get_by_role("button", name="Enlarge: Scores of clips").click()
        assert tab.locator("dialog.zoom img").bounding_box()["width"] > 700
        tab.get_by_role("button", name="Fit").click()
        assert tab.locator("dialog.zoom img").bounding_box()["width"] < 390
        assert watched.wrong == []


def test_in_the_dark_charts_are_dark_and_bright_in_the_light(browser, folder):
    from io import BytesIO

    from PIL import Image, ImageStat

    light = {}
    for scheme in ("light", "dark"):
        with Watched(browser, color_scheme=scheme) as watched:
            watched.tab.goto((folder / "small" / "01_step.html").as_uri())
            shot = watched.tab.locator(".ct-chart img").first.screenshot()
            light[scheme] = ImageStat.Stat(Image.open(BytesIO(shot)).convert("L")).mean[0]
    assert light["light"] > 200 and light["dark"] < 60


# ---- paper


def test_the_command_prints_every_page_that_there_is_or_says_why_not(tmp_path, capsys, monkeypatch):
    places = project(tmp_path, [markdown("## A")])
    index = tmp_path / "work {rate}" / "reports" / "index.pdf"
    assert called(places, "run", "small") == 0
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        assert called(places, "report", "small", "--pdf") == 1
    assert "No PDF was written: none of chromium" in capsys.readouterr().err and not index.exists()
    if shutil.which("chromium") is None:
        pytest.skip(WHY)
    assert called(places, "report", "small", "--pdf") == 0
    assert "reports/index.pdf" in capsys.readouterr().out and index.read_bytes().startswith(b"%PDF")


@pytest.fixture(scope="module")
def printed(folder):
    if shutil.which("chromium") is None:
        pytest.skip(WHY)
    return reports.print_pdf(folder / "small" / "01_step.html")


def words_of(pdf):
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is missing, so the text of a PDF is NOT tested: install poppler-utils")
    done = subprocess.run(["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True)
    return done.stdout.split("\f")[:-1]


def test_the_pdf_has_all_rows_the_parameters_and_the_slices_but_no_buttons(printed):
    pages = words_of(printed)
    text = "\n".join(pages)
    assert 2 <= len(pages) <= 6
    rows = re.findall(r"^\s*net, \d\s+(\S+)\s+([\d,]+)$", text, re.MULTILINE)
    assert len(rows) == ROWS and rows[-1][1] == "39,000"  # whole rows: none is cut at the edge of a page
    assert "per <step>" in text and "Exam one" in text and "HU window mediastinum" in text
    assert "Show all" not in text and "Enlarge" not in text and "setup_of_this" not in text
    with_rows = [page for page in pages if re.search(r"net, \d", page)]
    assert all("patients" in page for page in with_rows)  # the head of a table stands on each page


def test_a_pdf_is_whole_or_not_there(folder, printed):
    assert printed.read_bytes().startswith(b"%PDF") and printed.read_bytes().rstrip().endswith(b"%%EOF")
    assert not [path for path in printed.parent.iterdir() if path.name.startswith(".")]


def test_without_a_browser_one_sentence_says_what_to_do(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(reports.ReportError, match=r"none of chromium, .* is on the PATH; install Chromium"):
        reports.print_pdf(folder / "small" / "01_step.html")


def test_a_browser_that_prints_nothing_is_named_and_the_old_pdf_stays(folder, tmp_path, monkeypatch):
    page = tmp_path / "a.html"
    page.write_text("x")
    page.with_suffix(".pdf").write_text("old")
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(
        reports.ReportError, match=r"a.pdf was not written: .*chromium printed nothing \(it broke"
    ):
        reports.print_pdf(page)
    assert page.with_suffix(".pdf").read_text() == "old"
