"""A table that does not fit its schema is neither written nor read."""

import pandas as pd
import pytest

from ctlib.core import tables


def splits() -> pd.DataFrame:
    return pd.DataFrame({"patient_id": ["a", "b"], "split": ["train", "test"]})


def test_round_trip_keeps_order_and_types(tmp_path):
    frame = pd.DataFrame({"label": [1, None], "z_mm": [0, 2.5], "slice": [0, 1], "series_uid": ["s", "s"]})
    path = tables.write(frame, "slices", tmp_path / "slices.parquet")
    back = tables.read("slices", path)
    assert list(back.columns) == ["series_uid", "slice", "z_mm", "label"]
    assert back["label"].dtype == "Int64" and back["label"].isna().tolist() == [False, True]
    assert [p.name for p in tmp_path.iterdir()] == ["slices.parquet"]


def test_a_missing_and_an_unknown_column_are_named():
    with pytest.raises(tables.TableError, match=r"lacks \['split'\] and has unknown \['role'\]"):
        tables.check(splits().rename(columns={"split": "role"}), "splits")


def test_an_empty_value_is_named():
    frame = splits()
    frame.loc[1, "split"] = None
    with pytest.raises(tables.TableError, match="column 'split', row 1 is empty"):
        tables.check(frame, "splits")


def test_a_value_of_another_type_is_named():
    frame = pd.DataFrame({"series_uid": ["s"], "slice": ["first"], "z_mm": [1.0], "label": [0]})
    with pytest.raises(tables.TableError, match="column 'slice' does not hold int64"):
        tables.check(frame, "slices")


def test_a_broken_write_leaves_the_old_table(tmp_path):
    path = tables.write(splits(), "splits", tmp_path / "splits.parquet")
    with pytest.raises(tables.TableError):
        tables.write(splits().drop(columns="split"), "splits", path)
    assert len(tables.read("splits", path)) == 2


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "splits.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(tables.TableError, match=r"splits\.parquet is no Parquet table"):
        tables.read("splits", path)
    with pytest.raises(FileNotFoundError, match=r"other\.parquet is missing"):
        tables.read("splits", tmp_path / "other.parquet")


@pytest.mark.parametrize("name", tables.SCHEMAS)
def test_every_schema_has_an_empty_table(name):
    frame = tables.empty(name)
    assert len(frame) == 0 and list(frame.columns) == [column.name for column in tables.SCHEMAS[name]]
