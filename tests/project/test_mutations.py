"""The faults of benchmarks/faults.py fit the code of today, and benchmarks/mutations.py judges them right."""

import ast
import importlib
import subprocess
import sys

import pytest

from ctlib.core.workspace import PROJECT


@pytest.fixture(scope="module")
def mutations():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT / "benchmarks"))
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the small project needs none: half the time
        yield importlib.import_module("mutations")
    for name in ("mutations", "faults"):
        del sys.modules[name]


def test_each_fault_can_be_applied_once_and_leaves_code_that_can_be_read(mutations, tmp_path):
    assert len(mutations.FAULTS) >= 20
    assert len({fault.name for fault in mutations.FAULTS}) == len(mutations.FAULTS)
    for fault in mutations.FAULTS:
        copy = tmp_path / fault.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((PROJECT / fault.file).read_text())
        fault.apply(tmp_path)
        assert copy.read_text() != (PROJECT / fault.file).read_text(), fault.name
        ast.parse(copy.read_text())


def test_the_tests_that_a_fault_names_are_there(mutations):
    for fault in mutations.FAULTS:
        for named in fault.tests:
            file, _, function = named.partition("::")
            assert f"def {function}" in (PROJECT / file).read_text(), f"{fault.name}: {named}"


def test_a_text_that_is_not_there_once_is_an_error_that_names_the_fault(mutations, tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    for old, n in (("z", 0), ("1", 2)):
        with pytest.raises(mutations.FaultError, match=rf"fault 'no x': .* stands {n} times in a\.py"):
            mutations.Fault("no x", "a.py", old, "2", "", ()).apply(tmp_path)
    assert (tmp_path / "a.py").read_text() == "x = 1\ny = 1\n"


# ---- faults of a small project ---------------------------------------------------------

judging = pytest.mark.slow  # each starts pytest several times, a second each
CODE = """
def double(x):
    return 2 * x


def half(x):
    return x / 2


def third(x):
    return x / 3


BROKEN = 0
"""
TESTS = """
import pytest
import thing


@pytest.mark.parametrize("x", [0, 1])
def test_double(x):
    assert thing.double(x) == 2 * x


@pytest.mark.slow
def test_half():
    assert thing.half(2) == 1


def test_broken():
    assert thing.BROKEN == 1
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "thing.py").write_text(CODE)
    (folder / "test_thing.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    e2e: e\n    slow: s\n    nightly: n\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    (folder / "left.txt").write_text("not tracked")
    return folder


@pytest.fixture(scope="module")
def unchanged(project, mutations, tmp_path_factory):
    return mutations.copied(project, tmp_path_factory.mktemp("unchanged"))


def judged(mutations, unchanged, old, new, named, quick=True):
    fault = mutations.Fault("a fault", "thing.py", old, new, "", (f"test_thing.py{named}",))
    return mutations.judge(fault, unchanged, quick)


def test_a_copy_holds_what_is_tracked_in_a_repository_of_its_own(project, unchanged):
    assert {path.name for path in unchanged.iterdir()} == {".git", "thing.py", "test_thing.py", "pytest.ini"}
    assert (unchanged / "thing.py").read_text() == CODE


@judging
def test_a_fault_is_noticed_by_a_fast_test_a_slow_one_or_none(mutations, unchanged):
    fast = judged(mutations, unchanged, "2 * x", "3 * x", "::test_double")
    slow = judged(mutations, unchanged, "x / 2", "x / 4", "::test_half")
    none = judged(mutations, unchanged, "x / 3", "x / 4", "::test_double")
    assert (fast.test, fast.fast) == ("test_thing.py::test_double", True)
    assert (slow.test, slow.fast) == ("test_thing.py::test_half", False)
    assert none.test == "" and "NOT NOTICED" in str(none) and (unchanged / "thing.py").read_text() == CODE
    assert mutations.unfounded([fast, slow, none], unchanged) == []
    assert mutations.totals([fast, slow, none], quick=False) == [
        "fast set notices 1 of 3, whole suite 2 of 3",
        "not noticed: a fault",
    ]


@judging
def test_a_test_that_fails_anyway_notices_nothing(mutations, unchanged):
    verdict = judged(mutations, unchanged, "2 * x", "3 * x", "::test_broken")
    assert verdict.test == "test_thing.py::test_broken"
    assert mutations.unfounded([verdict], unchanged) == [
        "fault 'a fault': test_thing.py::test_broken fails without a fault too; repair it first"
    ]


@judging
def test_other_tests_are_asked_where_the_named_ones_notice_nothing(mutations, unchanged):
    found = judged(mutations, unchanged, "2 * x", "3 * x", "::test_half", quick=False)
    assert (found.test, found.fast) == ("test_thing.py::test_double", True)


@judging
def test_a_fault_whose_tests_cannot_run_is_named(mutations, unchanged):
    for new, named in (("3 *", "::test_double"), ("3 * x", "::test_gone")):
        with pytest.raises(mutations.FaultError, match="fault 'a fault': the tests did not run"):
            judged(mutations, unchanged, "2 * x", new, named)
