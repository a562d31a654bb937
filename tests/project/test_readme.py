"""The README says what the committed reports say, and names what exists."""

import base64
import html
import re

import pytest

from ctlib.analysis import preregistration
from ctlib.core.workspace import NOTEBOOKS, PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
ANALYSIS = PROJECT / "reports" / "demo" / "04_analyze.html"


def report():
    return html.unescape(re.sub("<[^>]+>", "", ANALYSIS.read_text(encoding="utf-8")))


def result(profile, page):
    """The cells of the table that a committed page begins with."""
    text = (PROJECT / "reports" / profile / f"{page}.html").read_text(encoding="utf-8")
    table = text.split('class="result"')[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
    return [[html.unescape(re.sub("<[^>]+>", "", cell)) for cell in row] for row in rows]


@pytest.mark.parametrize(
    ("profile", "page"), [("demo", "04_analyze"), ("nodules", "04_analyze"), ("published", "00_published")]
)
def test_an_index_says_what_its_page_says(profile, page):
    assert result(profile, "index") == result(profile, page) != []


def test_the_table_of_the_demo_has_each_question_its_numbers_and_its_word():
    row = r"^\| (.+\?) \| (.+) \| ([+−]\S+ \(.+\)) \| ([\d.]+) \| \*\*(.+)\*\* \| (.+) \|$"
    rows = re.findall(row, README, re.MULTILINE)
    questions = preregistration.read("demo").questions
    assert [row[0] for row in rows] == [asked.text for asked in questions]
    for row, asked in zip(rows, questions, strict=True):
        assert float(row[3]) == asked.margin and row[5] == (asked.wanted or "reported only")
        place = f"{asked.task} at {100 * asked.fraction:g} %"
        assert [row[0], row[1], place, row[2], row[4]] in result("demo", "index")
    [counts] = set(re.findall(r"\d+ networks, \d+ seeds, \d+ test patients(?=\.)", report()))
    assert counts in README


def test_nothing_is_called_passed_that_the_plan_does_not():
    passed = "Method check (phantoms, not patients): passed" in report()
    assert ("**passed**" in README) == passed and ("**not passed**" in README) != passed


def test_the_figure_is_that_of_the_committed_report():
    figure = (PROJECT / "docs" / "demo_effect.svg").read_bytes()
    assert base64.b64encode(figure).decode() in ANALYSIS.read_text(encoding="utf-8")


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_notebook_has_its_row(notebook):
    assert re.search(rf"^\| `{notebook}` \|", README, re.MULTILINE)


@pytest.mark.parametrize(
    "path", [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_linked_files_and_sections_exist(path):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", path.read_text(encoding="utf-8")):
        file = (path.parent / target) if target else path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w-]", "", one.lower().replace(" ", "-")) for one in headings}, (
                anchor
            )


def test_the_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 300


def test_commands_are_those_of_the_command_line():
    from ctlib.cli.__main__ import cli

    for name in re.findall(r"(?:^|`)ctlib (\w[\w-]*)", README, re.MULTILINE):
        assert name in cli.commands, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for name in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert name in targets, name


ROWS = [
    [cell.strip(" `") for cell in line.strip("|").split("|")]
    for line in (PROJECT / "docs" / "networks.md")
    .read_text()
    .split("<!-- networks")[1]
    .split("<!-- /networks -->")[0]
    .splitlines()
    if line.startswith("| `")
]


def test_the_table_of_networks_has_each_at_both_sizes_and_all_passed():
    from ctlib.models.registry import BACKBONES, spec

    assert [(row[0], row[1]) for row in ROWS] == [
        (key, size) for key in BACKBONES for size in ("full", "tiny")
    ]
    for key, _, sees, *_, features, gradients, order in ROWS:
        assert (sees, features, gradients) == (spec(key).sees, "finite", "finite")
        assert order == ("seen" if spec(key).sees_order else "not seen")


@pytest.mark.parametrize("row", [row for row in ROWS if row[1] == "tiny"], ids=lambda row: row[0])
def test_tiny_networks_cost_what_the_table_says(row):
    """To the three digits that are shown; those of full size are in tests/models/test_check.py."""
    from ctlib.models.cost import network_cost

    key, size, _, clip, *shown = row[:7]
    costs = network_cost(key, size, tuple(int(n) for n in clip.split(" x ")))
    for told, value in zip(
        shown, (costs.parameters / 1e6, costs.multiply_adds / 1e9, costs.saved_mb), strict=True
    ):
        assert float(told.split()[0].replace(",", "")) == pytest.approx(value, rel=0.006)


NODULES = PROJECT / "reports" / "nodules" / "04_analyze.html"


def test_the_lines_about_nodules_are_findings_of_the_committed_report():
    """Each difference with its interval stands in the report, in a sentence with the same comparison."""
    page = html.unescape(re.sub("<[^>]+>", "", NODULES.read_text(encoding="utf-8")))
    about = README.split("**3. Real nodules")[1].split("<p>")[0]
    for said in ("reader-rated malignancy of cropped nodules, estimated HU", "CC BY 3.0", "reports/nodules"):
        assert said in about
    lines = re.findall(r"^- (.+?)(?=^- |\Z)", about, re.MULTILINE | re.DOTALL)
    assert len(lines) == 4
    for line in lines:
        intervals = re.findall(r"[+−]\d\.\d{3} \([+−]\d\.\d{3} to [+−]\d\.\d{3}\)", " ".join(line.split()))
        assert intervals and all(interval in page for interval in intervals), line
    assert preregistration.read("nodules").hash in NODULES.read_text(encoding="utf-8")
