"""A name that is planted everywhere in a series comes out nowhere.

The name stands in every text tag (UIDs too), in private tags, in the names of files and folders, and
in the CSV of labels. What is searched afterwards: all that was written (tables also by their
values), what the commands printed, and the executed notebook with its report.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dicom_writer as writer
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from ctlib.core.parallel import in_order
from ctlib.core.pseudonyms import Identity
from ctlib.core.workspace import PROJECT
from ctlib.datasets.prepare import Preparation
from ctlib.io.dicom_bytes import hushed
from ctlib.io.dicom_header import KEYWORDS
from ctlib.io.listing import scan_under_pseudonyms
from ctlib.visualization import summary_tables

SECRET = "Xqzdoe"
TEXT = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
KEPT = {"SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID", "PatientID"}
"""Those that tell series and patients apart: they hold the name and more."""
NEEDED = {
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"),
    *("PhotometricInterpretation", "Modality", "NumberOfFrames", "GantryDetectorTilt", "ImageType"),
}
"""With a name in these, no series is read; one series each is written to see what is said then."""


TAGS = [
    (Tag(tag), vr, keyword)
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items()
    if vr in TEXT and keyword and not retired and tag >> 16 not in (0, 2, 4, 0x7FE0)
]


def planted(ds, k, spared):
    """The data set with the name in every text tag of the standard but those that are spared; to be
    quick, that is every tag that is read and every tag of the first slice."""
    for tag, vr, keyword in TAGS:
        if keyword in spared or (k and tag not in KEYWORDS):
            continue
        value = f"{SECRET}.{k}" if keyword == "SOPInstanceUID" else SECRET
        value = f"{SECRET}^{ds.PatientID}" if keyword == "PatientID" else value
        value = f"{SECRET}.{ds[keyword].value}" if keyword in KEPT and keyword != "SOPInstanceUID" else value
        raw = value.encode().ljust(len(value) + len(value) % 2)
        ds[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)  # no value is checked
    block = ds.private_block(0x0011, SECRET, create=True)
    for n, vr in enumerate(("LO", "UT", "OB")):
        block.add_new(n, vr, SECRET.encode() if vr == "OB" else SECRET)
    return ds


def write(root):
    """Eight series that can be read, and those that cannot for their values."""
    rows = ["who,exam,ill,role"]
    with pydicom.config.disable_value_validation():
        for number in range(8):
            place = Path(f"{SECRET} {number}") / f"{SECRET}_study"
            found = writer.slices(writer.volume(number), uid=f"1.2.{number}")
            for ds in found:
                ds.PatientID = f"P{number}"
            found = [planted(ds, k, NEEDED) for k, ds in enumerate(found)]
            writer.write(root / place, found, [f"{SECRET}{k}.dcm" for k in range(len(found))])
            patient = number // 2
            role = ("train", "train", "val", "test")[patient]
            rows.append(f"{SECRET} {patient},{place.as_posix()},{patient % 2},{role}")
        for number, keyword in enumerate(sorted(NEEDED)):
            found = writer.slices(writer.volume(number), uid=f"1.3.{number}")
            found = [planted(ds, k, NEEDED - {keyword}) for k, ds in enumerate(found)]
            names = [f"{SECRET}{k}.dcm" for k in range(len(found))]
            writer.write(root / f"{SECRET} bad {keyword}", found, names)
    (root / f"{SECRET}.txt").write_text(SECRET)
    (root / f"{SECRET}.nii").write_bytes(SECRET.encode() * 100)
    csv = root.parent / "labels.csv"
    csv.write_text("\n".join([*rows, f"{SECRET} lost,{SECRET}/nowhere,1,test"]) + "\n")
    return csv


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    root = folder / "data"
    csv = write(root)
    return {"root": root, "csv": csv, "key": folder / "key"}


def parameters(source, work):
    from ctlib.core.parameters import load_profile

    values = load_profile("folder")["01_explore_data"]
    own = dict(work_dir=str(work), folder_root=str(source["root"]), folder_labels=str(source["csv"]))
    own |= dict(folder_columns=["exam", "ill", "who", "role", ""], id_key=str(source["key"]), workers=0)
    return {**values, **own, "matrix_px": 4, "split_shares": [0.5, 0.25, 0.25], "clip_length": 4}


def found_in(folder):
    """Files under a folder that hold the name, in their content, their values or their names."""
    hits = []
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder))
        if path.is_file():
            text += path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                text += pd.read_parquet(path).to_csv()
        if SECRET.lower() in text.lower():
            hits.append(str(path))
    return hits


def prepared(source, work):
    """All that `prepare` writes into the work folder, and what it says."""
    plan = Preparation.of(parameters(source, work))
    cohort = plan.stored("folder", in_order)
    plan.split(cohort)
    (work / "said.txt").write_text("\n".join(summary_tables.prepared(cohort)))
    return cohort


def test_prepare_tells_no_name(source, tmp_path):
    work = tmp_path / "work"
    cohort = prepared(source, work)
    assert len(cohort.series) == 8 and cohort.series["patient_id"].nunique() == 4
    assert cohort.series["n_files"].sum() + cohort.problems["n_files"].sum() == sum(
        path.is_file() for path in source["root"].rglob("*")
    )
    assert cohort.problems["reason"].str.contains("a text of 6 characters").any()
    assert np.unique(cohort.series["kernel"]).tolist() == ["other"]
    assert found_in(work) == []


def test_values_that_pydicom_would_repeat_are_not_heard(recwarn, caplog):
    header = pydicom.Dataset()
    with hushed():
        header.StudyInstanceUID = SECRET
        logging.getLogger("pydicom").warning(SECRET)
    assert not recwarn.list and SECRET not in caplog.text
    header.SeriesInstanceUID = SECRET
    assert SECRET in str(recwarn.pop().message)


def test_scan_tells_no_name_unless_it_is_asked(source):
    parts = scan_under_pseudonyms(source["root"], Identity(b"key"))
    text = "".join(part.to_csv() for part in parts)
    assert len(parts[0]) == 9 and SECRET.lower() not in text.lower()
    asked = scan_under_pseudonyms(source["root"], Identity(b"key"), paths=True)
    assert all(part["where"].str.contains(SECRET).all() for part in asked)


@pytest.mark.slow
def test_commands_and_reports_tell_no_name(source, tmp_path):
    """`scan`, `prepare` and notebook 01 as a user runs them; stderr and logs count too."""
    work, project = tmp_path / "work", tmp_path / "project"
    for name in ("notebooks", "params"):
        shutil.copytree(PROJECT / name, project / name)
    values = parameters(source, work) | {"profile": "private"}
    (project / "params" / "private").mkdir()
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    (project / "params" / "private" / "01_explore_data.yaml").write_text(text)
    places = ", ".join(f"Path({str(project / name)!r})" for name in ("notebooks", "params", "reports"))
    calls = [
        ["scan", str(source["root"]), "--id-key", str(source["key"])],
        ["scan", str(source["root"]), "--id-key", str(source["key"]), "--json"],
        ["prepare", "private"],
        ["verify", "private"],
        ["run", "private"],
    ]
    said = ""
    for call in calls:
        code = (
            "from pathlib import Path; from ctlib.cli.__main__ import main; from ctlib.core.workspace import Places; "
            f"main({call!r}, Places({places}))"
        )
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert "in 8 series" in said and (work / "reports" / "01_explore_data.html").is_file()
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "said.txt").write_text(said)
    assert [found_in(folder) for folder in (work, tmp_path / "said")] == [[], []]
