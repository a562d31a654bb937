"""Settings are the notebooks' parameters, by name: none is forgotten, none is another's."""

import dataclasses

import pytest

from ctlib.core import parameters
from ctlib.core.workspace import project_path
from ctlib.grid.expand import AXES, settings_of
from ctlib.training.pretrain_ct import CtSource
from ctlib.training.pretrain_video import VideoSource
from ctlib.training.pretraining import Plan, PretrainSettings
from ctlib.training.run import Run

LOOKED_UP = {"data", "weights", "code", "contract", "control"}
"""Fields of a run that come from what lies in the workspace, or from its list of negative controls."""

OF_MODES = {"modes", "heads", "finetune_best", "frozen_backbones"}
"""Which runs there are; a run knows itself by its init."""


def values_of(notebook):
    return parameters.load_profile("demo")[notebook]


def names(kind):
    return {field.name for field in dataclasses.fields(kind)}


def test_every_setting_of_a_run_is_a_parameter_of_the_grid():
    values = values_of("03_finetune_grid")
    settings = settings_of(values)
    assert set(settings) == names(Run) - AXES - LOOKED_UP | {"exceptions", "leave_out"} | OF_MODES
    assert settings.pop("flaws") == ()
    assert settings == {name: values[name] for name in settings}


@pytest.mark.parametrize(("kind", "prefix"), [(PretrainSettings, "pretrain_"), (CtSource, "folder_")])
def test_every_setting_of_pretraining_is_a_parameter(kind, prefix):
    values = values_of("02_pretrain")
    of_both = {"lr": 1.0, "epochs": 99, "hu_window": "bone"}  # another notebook's, of the bare name
    made = kind.of(values | of_both)
    prefixed = {name.removeprefix(prefix) for name in values if name.startswith(prefix)}
    prefixed -= {"exceptions"}  # of single networks: the plan's, as the grid's are no setting of a run
    prefixed -= {"patients"}  # CtSource.pretrain_patients
    assert "exceptions" in names(Plan) - names(kind)
    assert prefixed and prefixed <= names(kind)
    for name in prefixed:
        assert getattr(made, name) == values[prefix + name]
    for name in names(kind) & values.keys() - prefixed:
        assert getattr(made, name) == values[name]


def test_a_source_of_videos_has_its_own_flip():
    values = values_of("02_pretrain") | {"video_flip": True, "flip": False, "videos_list": "list.txt"}
    made = VideoSource.of(values)
    assert made.flip and made.files.videos_list == "list.txt"
    assert made.files.root == project_path(values["videos_root"]) and made.source == values["videos_source"]
    assert made.heldout_share == values["heldout_share"] and made.files.labelled
    assert not CtSource.of(values).flip
    assert VideoSource.of(values | {"videos_root": ""}) is None
