"""The register of attempts is read, and refused where it is none."""

import re

import pytest

from ctlib.analysis.attempts import attempts
from ctlib.core.parameters import ParameterError
from ctlib.core.workspace import Places


def test_the_register_has_its_columns_and_each_attempt_a_plan(tmp_path):
    rows = attempts("demo")
    assert len(rows) >= 3 and all(re.fullmatch("[0-9a-f]{12}", row["plan"]) for row in rows)
    assert attempts("lidc") == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "attempts.csv").write_text("day,plan\n")
    with pytest.raises(ParameterError, match="has columns"):
        attempts("mine", Places(params=tmp_path))
