"""The README says what the committed reports say, and names what exists."""

import base64
import html
import re

import pytest

from ctlib.workspace import NOTEBOOKS, PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
ANALYSIS = PROJECT / "reports" / "demo" / "04_analyze.html"


def test_the_findings_are_those_of_the_committed_report():
    block = README.split("<!-- findings")[1].split("<!-- /findings -->")[0].split("-->")[1]
    findings = [line.removeprefix("- ").strip() for line in block.splitlines() if line.strip()]
    assert len(findings) == 4
    report = html.unescape(ANALYSIS.read_text(encoding="utf-8"))
    for finding in findings:
        assert finding in report


def test_the_figure_is_that_of_the_committed_report():
    figure = (PROJECT / "docs" / "demo_effect.svg").read_bytes()
    assert base64.b64encode(figure).decode() in ANALYSIS.read_text(encoding="utf-8")


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_notebook_has_its_row(notebook):
    assert re.search(rf"^\| `{notebook}` \|", README, re.MULTILINE)


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (PROJECT / target).exists(), target


def test_commands_are_those_of_the_command_line():
    from ctlib.__main__ import cli

    for name in re.findall(r"python -m ctlib (\w+)", README):
        assert name in cli.commands, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for name in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert name in targets, name
