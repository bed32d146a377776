"""Where sets of variants and their caches lie, and how a folder tells whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.storage import set_folders


def test_folders_of_each_set_are_apart():
    assert [set_folders.stored(name).as_posix() for name in set_folders.SETS] == [
        *("variants/jpeg", "variants/control")
    ]
    assert [set_folders.listed(name).as_posix() for name in set_folders.SETS] == [
        *("variants/jpeg-on-the-fly", "variants/control-on-the-fly")
    ]


@pytest.mark.parametrize("features_dir", ["features", "../others/features", "/data/f", "."])
@pytest.mark.parametrize("name", set_folders.SETS)
def test_settings_of_a_folder_are_those_that_lead_to_it(name, features_dir):
    folder = set_folders.features(features_dir, name)
    assert set_folders.settings_of(folder) == (features_dir, name)


def test_features_of_the_control_set_lie_beside_the_others_whatever_ends_the_setting():
    assert set_folders.features("features/", "control") == "features-control"
    assert set_folders.features("features/", "jpeg") == "features"


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        *(("variants/jpeg", ""), ("variants/control", " --set control")),
        *(("features", ""), ("features-control", " --set control")),
        *(("features-controls", ""), ("variants/jpeg-on-the-fly", "")),
    ],
)
def test_flag_is_what_a_command_needs_to_fill_the_folder(folder, expected):
    assert set_folders.flag(Path(folder)) == expected
