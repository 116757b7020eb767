import hashlib
from dataclasses import replace

import pytest
import torch

from pipeline.cohort import StudyInput
from pipeline.cohort.recipe import device_name, make_recipe
from pipeline.errors import StudyError


def test_inputs_are_recorded_by_name_and_content(tmp_path, model):
    (tmp_path / "a_0000.nii").write_bytes(b"one")
    (tmp_path / "a_0001.nii").write_bytes(b"two")
    paths = (tmp_path / "a_0000.nii", tmp_path / "a_0001.nii")
    recipe = make_recipe(StudyInput("a", paths), model)
    assert [(file.name, file.sha256) for file in recipe.inputs] == [
        ("a_0000.nii", hashlib.sha256(b"one").hexdigest()),
        ("a_0001.nii", hashlib.sha256(b"two").hexdigest()),
    ]
    assert recipe.model.sha256 == model.sha256
    assert recipe.settings["study"] == {
        "non_finite": "refuse", "allow_label_maps": False, "max_voxels": 2**31,
    }  # fmt: skip


def test_members_and_mirroring_are_recorded(tmp_path, model):
    (tmp_path / "a.nii").write_bytes(b"one")
    study = StudyInput("a", (tmp_path / "a.nii",))
    plain = make_recipe(study, model)
    assert plain.settings["num_members"] == len(model.networks)
    assert plain.settings["inference"]["mirror"] is False
    description = model.description.model_copy(
        update={
            "mirror_axes": ("R",),
            "inference": model.description.inference.model_copy(update={"mirror": True}),
        }
    )
    mirrored = make_recipe(study, replace(model, description=description))
    assert mirrored != plain
    assert mirrored.settings["mirror_axes"] == ["R"]
    assert mirrored.settings["inference"]["mirror"] is True


def test_voxels_beside_a_text_header_count_as_content(tmp_path, model):
    """Whatever their file is called: else a stale mask would pass for a complete one."""
    (tmp_path / "a.mhd").write_bytes(b"NDims = 3\nElementDataFile = voxels.dat\n")
    (tmp_path / "voxels.dat").write_bytes(b"voxels")
    before = make_recipe(StudyInput("a", (tmp_path / "a.mhd",)), model)
    (tmp_path / "voxels.dat").write_bytes(b"others")
    assert make_recipe(StudyInput("a", (tmp_path / "a.mhd",)), model) != before


def test_a_missing_input_is_refused(tmp_path, model):
    with pytest.raises(StudyError, match=r"^a\.nii: cannot be read"):
        make_recipe(StudyInput("a", (tmp_path / "a.nii",)), model)


def test_the_cpu_is_named():
    assert device_name(torch.device("cpu")) == "cpu"
