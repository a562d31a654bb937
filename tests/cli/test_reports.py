import base64
import re

import nbformat
import pandas as pd
import pytest
from nbformat import v4
from sample_project import markdown, project

from ctlib.cli import reports
from ctlib.cli.notebooks import HEADER_TYPE
from ctlib.cli.reports import index_page as overview
from ctlib.cli.reports.executed import Thumbnail
from ctlib.core import Places
from ctlib.visualization import RESULT_TYPE
from ctlib.visualization.html import table_html

SVG = base64.b64encode(
    b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="300"><rect width="900" height="300"/></svg>'
).decode()
FIGURE = (
    f'<figure class="ct-figure"><img src="data:image/svg+xml;base64,{SVG}" alt="A bar" width="900"/>'
    "<figcaption>One bar; 88 patients.</figcaption></figure>"
)
ROWS = "<tr>" + "".join(f"<td>a cell of column {i}</td>" for i in range(12)) + "</tr>"
TABLE = f'<table class="ct-table"><caption>Wide</caption><tbody>{ROWS}</tbody></table>'
FACTS = {
    "parameters": [["rate", "0.25", "per <step>"]],
    "versions": {"Python": "3.11.7", "torch": "2.14.1"},
    "commit": "abcdef1234 + changes",
    "device": "a processor, 2 cores, no GPU",
}
START, END = "2026-11-23T20:00:00+00:00", "2026-11-23T20:06:12+00:00"


def run(source, outputs, tags=()):
    made = v4.new_code_cell(source, outputs=outputs, execution_count=1)
    made.metadata["tags"] = list(tags)
    return made


def html(text):
    return v4.new_output("display_data", data={"text/html": text, "text/plain": "plain"})


def says(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def executed(path, *cells, start=START, end=END, given=()):
    """An executed copy, as papermill leaves it."""
    header = v4.new_output("display_data", data={HEADER_TYPE: FACTS, "text/plain": "x"})
    opening = "# Look at it\n\n**Question** Is it *there*?\n\n**Reads** `files`.\n\nA line more."
    book = v4.new_notebook(
        cells=[
            v4.new_markdown_cell(opening),
            run("import setup_of_this", []),
            run("rate = 0.5", [], ["parameters"]),
            run("rate = 0.25", [], ["injected-parameters"]),
            run("header()", [header]),
            *cells,
        ]
    )
    book.metadata["papermill"] = {
        "start_time": start,
        "end_time": end,
        "duration": 372.0,
        "parameters": dict(given),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


def good(path, **times):
    return executed(
        path,
        v4.new_markdown_cell(
            "## First & foremost\n\nA sentence with `code` and a [link](https://example.org/a)."
        ),
        run("print('secret' + '<b>')", [says("one\ntwo <b>\n"), says("careful", "stderr")]),
        run("show()", [html(FIGURE)], ["headline"]),
        v4.new_markdown_cell("### Deeper\n\nMore."),
        run("table()", [html(TABLE)]),
        v4.new_markdown_cell("## What this shows, and what it does not\n\nSomething."),
        run("find()", [says("The effect is 0.089.\n\nThe null <held>.\n"), html(TABLE)], ["finding"]),
        **times,
    )


def result(path):
    """A copy that leaves a result for the index, as `04_analyze` does."""
    row = {"question": "Does it help?", "compared": "video − random", "task": "t at 100 %"}
    row |= {"difference": "+0.170 (+0.076 to +0.263)", "answer": "gain"}
    more = {
        "asked": "Does it help in t?",
        "tiles": [{"name": "Method check", "word": "not passed", "good": False}],
        "claims": [
            {"verdict": "supported", "sentence": "Claim 1, it helps: supported."},
            {"verdict": "not asked", "sentence": "Claim 2, it helps more: not asked."},
        ],
        "caveats": ["Weakest point: few."],
    }
    shown = f'<div class="result">{table_html(pd.DataFrame([row]), "Result, 88 patients.")}</div>'
    left = v4.new_output("display_data", data={"text/html": shown, RESULT_TYPE: more})
    figure = html(FIGURE.replace('class="ct-figure"', 'class="ct-figure ct-chart" id="figure-effect"'))
    return executed(
        path, v4.new_markdown_cell("## Result"), run("show_result()", [left, figure], ["headline"])
    )


def broken(path):
    colours = ["\x1b[31mValueError\x1b[39m                    Traceback", "\x1b[32m----> 1\x1b[39m fit(-1)"]
    error = v4.new_output("error", ename="ValueError", evalue="lr is -1\nmore", traceback=colours)
    return executed(path, v4.new_markdown_cell("## The runs"), run("fit(-1)", [error]))


@pytest.fixture
def page(tmp_path):
    target = tmp_path / "reports" / "01_look.html"
    reports.render(good(tmp_path / "01_look.ipynb"), target, "demo", ["01_look", "02_more"])
    return target.read_text()


def text_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<body") :]).split())


def test_the_head_asks_and_dates_and_the_foot_says_how_the_page_was_made(page):
    """What was found comes before hashes and machines: the first screen is for the answer."""
    head, foot = (
        text_of(page[: page.index("</header>")]),
        text_of("<body" + page.split('id="made"')[1]),
    )
    for part in ("Look at it", "Is it *there*?", "Profile demo", "23 November 2026, 20:00 UTC"):
        assert part in head, part
    for part in (
        "6 min 12 s", "abcdef1234 + changes", "a processor, 2 cores", "Python 3.11.7, torch 2.14.1",
        "rate 0.25 per &lt;step&gt;", "Reads files .",
    ):  # fmt: skip
        assert part in foot and part not in head, part


def test_a_question_that_showed_nothing_has_no_section(tmp_path):
    def asked(title, outputs, *tags, ran=True):
        cell = run(f"answer({title!r})", outputs, tags)
        cell.execution_count = 1 if ran else None
        return [v4.new_markdown_cell(f"## {title}\n\nA text."), cell]

    cells = [*asked("Silent", [], "optional"), *asked("Loud", [html(TABLE)], "optional"), *asked("Plain", [])]
    cells += asked("Not reached", [], "optional", ran=False)
    reports.render(executed(tmp_path / "04.ipynb", *cells), tmp_path / "04.html", "demo")
    heads = re.findall(r"<h2[^>]*>([^<]+)", (tmp_path / "04.html").read_text())
    assert [head for head in heads if head in ("Silent", "Loud", "Plain", "Not reached")] == [
        "Loud", "Plain", "Not reached",
    ]  # fmt: skip


def test_the_contents_link_to_the_headings(page):
    links = re.findall(r'<li class="h(\d)"><a href="#([^"]+)">([^<]*)', page)
    assert [(level, name) for level, _, name in links[: len(links) // 2]] == [
        ("2", "First &amp; foremost"), ("3", "Deeper"), ("2", "What this shows, and what it does not"),
    ]  # fmt: skip
    assert all(f'id="{link}"' in page for _, link, _ in links)


def test_a_line_a_run_is_one_box_not_one_each(tmp_path):
    book = executed(tmp_path / "03_step.ipynb", run("grid()", [says("run 1\n"), says("run 2\n")]))
    reports.render(book, tmp_path / "page.html", "small")
    assert (tmp_path / "page.html").read_text().count('<pre class="stream">') == 1


def test_code_is_folded_and_set_up_is_told_once(page):
    assert page.count('<details class="code">') == 4 and '<details class="code" open' not in page
    body = page[page.index("<main ") : page.index('id="made"')]
    assert "setup_of_this" in page and "setup_of_this" not in body and "rate = 0.25" not in body


def test_output_is_shown_as_text_not_as_markup(page):
    assert "two &lt;b&gt;" in page and "two <b>" not in page
    assert '<div class="finding"><p>The effect is 0.089.</p><p>The null &lt;held&gt;.</p></div>' in page
    assert FIGURE.split("base64,")[1][:40] in page and "One bar; 88 patients." in page


def test_a_page_loads_nothing(page):
    assert reports.remote_addresses(page) == []
    assert "https://example.org/a" in page  # a link to follow is no address to load
    assert not re.search(r"<script[^>]+src|require\.js|mathjax", page, re.IGNORECASE)


@pytest.mark.parametrize(
    "found",
    [
        '<img alt="x" src="https://example.org/i.png">',
        "<script src=//example.org/a.js></script>",
        '<link rel="stylesheet" href="http://example.org/a.css">',
        "<style>body { background: url(https://example.org/a.png) }</style>",
    ],
)
def test_a_page_that_would_load_something_is_not_written(tmp_path, found):
    book = executed(tmp_path / "01_look.ipynb", run("show()", [html(found)]))
    with pytest.raises(reports.ReportError, match=r"would load (https?:)?//example.org/\w"):
        reports.render(book, tmp_path / "a.html", "demo")
    assert not (tmp_path / "a.html").exists()


def test_a_failed_notebook_says_at_the_top_where_and_why(tmp_path):
    story = reports.render(broken(tmp_path / "02_more.ipynb"), tmp_path / "a.html", "demo")
    page = (tmp_path / "a.html").read_text()
    assert story.status == "failed"
    head = text_of(page[: page.index("</header>")])
    assert "This notebook failed. Cell [1] of section “The runs”: ValueError: lr is -1" in head
    assert 'id="stopped"' in page and '<details class="code" open="">' in page
    assert "\x1b" not in page and '<span class="ansi-red-fg">ValueError</span>' in page


def test_one_that_was_killed_is_not_called_done(tmp_path):
    path = good(tmp_path / "01_look.ipynb", end=None)
    assert reports.render(path, tmp_path / "a.html", "demo").status == "interrupted"
    assert "This notebook did not finish." in (tmp_path / "a.html").read_text()


def test_a_copy_that_was_cut_off_is_named(tmp_path):
    path = good(tmp_path / "01_look.ipynb")
    path.write_text(path.read_text()[:300])
    with pytest.raises(
        reports.ReportError, match=r"01_look.ipynb is no readable notebook.*run 01_look again"
    ):
        reports.render(path, tmp_path / "a.html", "demo")


def test_findings_and_picture_follow_their_tags(tmp_path):
    story = reports.Executed.read(good(tmp_path / "01_look.ipynb"))
    assert story.findings == ["The effect is 0.089.", "The null <held>."]
    assert story.pictures == [Thumbnail(f"data:image/svg+xml;base64,{SVG}", "A bar", False)]
    assert reports.Executed.read(broken(tmp_path / "b.ipynb")).pictures == []


@pytest.fixture
def study(tmp_path):
    """Places of four notebooks: done, failed, done, not run."""
    places = project(tmp_path, *[[markdown("## A")]] * 4)
    paths = {name: tmp_path / "work" / f"{name}.ipynb" for name in places.names}
    good(paths["01_step"])
    broken(paths["02_step"])
    good(paths["03_step"])
    return places, paths


def test_the_index_tells_all_notebooks_apart(study):
    places, paths = study
    (places.reports / "small").mkdir(parents=True)
    (places.reports / "small" / "03_step.pdf").write_text("printed before")
    page = reports.index("small", paths, places).read_text()
    entries = page.split('<li class="entry')[1:]
    assert [re.search(r'class="pill [\w-]+">([\w ]+)', e)[1] for e in entries] == [
        "done", "failed", "done", "not run",
    ]  # fmt: skip
    assert "The effect is 0.089." in entries[0] and 'href="01_step.html"' in entries[0]
    assert "&#39;The runs&#39;: ValueError: lr is -1" in entries[1]
    assert ['href="03_step.pdf"' in e for e in entries] == [False, False, True, False]
    assert 'href="04_step.html"' not in entries[3] and "Does step 4 work?" in entries[3]
    assert "Expected beforehand: a line." in entries[3] and "Nothing that matters." in entries[3]


def test_without_a_result_the_index_says_what_the_last_notebook_found_so_far(study):
    places, paths = study
    page = reports.index("small", paths, places).read_text()
    answer = page[page.index("What was found so far") : page.index('<li class="entry')]
    assert "<p>The effect is 0.089.</p>" in answer and "<h1>Is it *there*?</h1>" in page
    last = page.split('<li class="entry')[3]
    assert "The effect is 0.089." not in last  # it is said once


def test_the_index_begins_with_the_table_of_the_page_and_what_is_beside_it(study):
    places, paths = study
    result(paths["03_step"])
    page = reports.index("small", paths, places).read_text()
    words = text_of(page[: page.index('id="pages"')])
    for part in (
        "Does it help in t?", "Method check not passed", "Pages up to date 2 of 4 not finished, 3 of 4 outdated",
        "video − random t at 100 % +0.170 (+0.076 to +0.263) gain", "Claims of Ke et al. (MIDL 2023): 1 supported, "
        "1 not asked", "Claim 1, it helps: supported.", "Weakest point: few.",
    ):  # fmt: skip
        assert part in words, part
    assert words.index("Method check") < words.index("+0.170") < words.index("Weakest")
    reports.render(paths["03_step"], places.reports / "a.html", "small")
    row = re.compile(r"<td[^>]*>\+0\.170 \(\+0\.076 to \+0\.263\)</td><td[^>]*>gain</td>")
    assert row.search(page) and row.search((places.reports / "a.html").read_text())  # one row, on both
    assert page.count(SVG) == 1 and 'href="03_step.html#figure-effect"' in page


def test_the_index_and_the_report_say_what_is_outdated(study):
    places, paths = study
    page = reports.index("small", paths, places).read_text()  # the executed copies are of other notebooks
    assert "2 of 4 not finished, 3 of 4 outdated" in text_of(page)
    entries = page.split('<li class="entry')[1:]
    assert ["Outdated: its notebook has changed." in e for e in entries] == [True, True, True, False]
    reports.render(paths["01_step"], places.reports / "a.html", "small", stale=["table runs has changed"])
    head = text_of((places.reports / "a.html").read_text())
    assert "Outdated: table runs has changed." in head and "ctlib run small --only 01" in head
    assert "stale" not in text_of(page.split("<script")[0]) + head.split(" const made")[0]


@pytest.mark.parametrize(
    ("makers", "kind", "said"),
    [
        (
            {"lidc": ["Phantom Beta", None]},
            "synthetic",
            "SYNTHETIC CHESTS: a test of the method. Nothing here is",
        ),
        (
            {"lidc": ["GE"]},
            "real",
            "Patients. Cohort lidc: 1 exam of 1 patient, CC BY 3.0 (LIDC-IDRI, TCIA).",
        ),
        ({"folder": ["GE", None]}, "real", "Cohort folder: 2 exams of 2 patients, data/mine."),
        (
            {"folder": ["GE"], "lidc": ["Phantom Beta"]},
            "synthetic",
            "SYNTHETIC CHESTS (only cohort lidc): a test",
        ),
        ({}, "none", "No exams were read yet."),
    ],
)
def test_every_page_begins_with_what_its_data_are(tmp_path, makers, kind, said):
    """By the makers in the tables of the workspace, whatever the profile is called."""
    for name, values in makers.items():
        ids = [f"p{i}" for i in range(len(values))]
        series = pd.DataFrame({"manufacturer": values, "patient_id": ids, "study_uid": ids})
        path = tmp_path / "tables" / name / "series.parquet"
        path.parent.mkdir(parents=True)
        series.to_parquet(path)
    book = good(tmp_path / "notebooks" / "01_look.ipynb", given={"folder_root": "data/mine"})
    places = Places(tmp_path / "n", tmp_path / "params", tmp_path / "reports", ("01_look",))
    reports.render(book, tmp_path / "a.html", "any", places=places)
    index = reports.index("any", {"01_look": book}, places)
    for page in (tmp_path / "a.html", index):
        body = page.read_text().split("<body>")[1]
        [band] = re.findall(r'<aside [^>]*class="band (\w+)"[^>]*>(.*?)</aside>', body)
        words = re.sub("<[^>]+>", "", band[1])
        assert band[0] == kind and said in words and len(body.split('class="band')[0]) < 150


def test_a_page_of_printed_figures_says_so(tmp_path):
    given = {"cells_file": "cells.csv", "source": "A paper, Table 1"}
    book = good(tmp_path / "notebooks" / "00_published.ipynb", given=given)
    reports.render(book, tmp_path / "a.html", "any")
    told = "Figures printed in a paper: A paper, Table 1. Nothing was computed here from exams of patients."
    assert told in text_of((tmp_path / "a.html").read_text())


def test_the_first_of_an_abbreviation_in_a_section_has_a_title_and_code_has_none(tmp_path):
    text = "## HU\n\nHU, then HU. `HU`\n\nHUGE"
    book = executed(tmp_path / "01_look.ipynb", *(v4.new_markdown_cell(text) for _ in "ab"), run("'HU'", []))
    reports.render(book, tmp_path / "a.html", "any")
    page = (tmp_path / "a.html").read_text().split('id="main"')[1]
    assert page.count('<abbr title="Hounsfield units: air is -1000, water is 0">HU</abbr>') == 2


def test_each_page_has_a_glossary(page, study):
    index = reports.index("small", study[1], study[0]).read_text()
    for text in (page, index):
        terms = re.findall(r"<dt>(.+?)</dt><dd>", text[text.index('<details class="fold glossary">') :])
        assert {"interval", "margin", "inconclusive", "starting weights", "outdated"} <= set(terms)


def test_a_large_picture_stays_out_of_the_index(study, monkeypatch):
    places, paths = study
    result(paths["03_step"])
    monkeypatch.setattr(overview, "MAX_PICTURE_BYTES", 50)
    assert SVG not in reports.index("small", paths, places).read_text()


def test_the_page_of_all_profiles_lists_those_with_reports_and_those_without(study):
    places, paths = study
    (places.params / "later").mkdir()
    (places.params / "later" / "01_step.yaml").write_text("# Done some `day`.\n\nprofile: later\n")
    (places.reports / "old").mkdir(parents=True)
    (places.reports / "old" / "index.html").write_text("written before")
    index = reports.index("small", paths, places).read_text()
    assert 'href="../old/index.html"' in index and 'href="../index.html"' in index
    page = reports.profiles(places).read_text()
    names = re.findall(r'<h2><a href="([^"]+)">(\w+)</a></h2>', page)
    assert names == [("old/index.html", "old"), ("small/index.html", "small")]
    words = text_of(page)
    assert "Written by an earlier version" in words and "The effect is 0.089." in words
    assert "later Done some day. ctlib run later" in words
    assert words.count("outdated") == 3 and "04_step not run" in words and "No exams were read yet." in words
    result(paths["03_step"])
    reports.index("small", paths, places)
    words = text_of(reports.profiles(places).read_text())
    assert "Does it help in t?" in words and "+0.170 (+0.076 to +0.263) gain" in words


def test_in_a_browser_the_text_column_is_70_to_75_characters_and_code_is_hidden(tmp_path, browser):
    words = "an even text of ordinary words that is long enough to be broken into a number of lines " * 8
    book = executed(tmp_path / "01_look.ipynb", v4.new_markdown_cell(f"## Text\n\n{words}"), run("x = 1", []))
    reports.render(book, tmp_path / "01_look.html", "demo")
    tab = browser.new_page(viewport={"width": 1360, "height": 800})
    tab.goto((tmp_path / "01_look.html").as_uri())
    lines = tab.evaluate(
        """() => {
          const text = [...document.querySelectorAll('.prose p')].at(-1).firstChild;
          const range = document.createRange();
          const lines = {};
          for (let i = 0; i < text.length; i++) {
            range.setStart(text, i);
            range.setEnd(text, i + 1);
            const top = range.getBoundingClientRect().top;
            lines[top] = (lines[top] || 0) + 1;
          }
          return Object.values(lines);
        }"""
    )
    assert len(lines) > 5 and 66 <= sorted(lines)[len(lines) // 2] <= 76
    assert not tab.locator("details.code .highlight").first.is_visible()
    tab.locator("details.code summary").first.click()
    assert tab.locator("details.code .highlight").first.is_visible()
