import hashlib
from dataclasses import replace

import pytest
import torch

from pipeline.cohort.recipe import describe_clean_up, device_name, is_current, make_recipe
from pipeline.errors import StudyError
from pipeline.inputs import find_studies
from pipeline.output import FileRecord, GridRecord, Provenance, Timing
from pipeline.postprocessing import NO_FIELD, NOT_APPLIED, PostprocessingConfig
from pipeline.study import StudyInput
from tests.dicom_files import make_series, save_series, voxels


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


def test_a_device_is_named_whichever_of_several_it_is(monkeypatch):
    assert device_name(torch.device("cpu")) == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    for device in ("cuda", "cuda:0", "cuda:3"):
        assert device_name(torch.device(device)) == "cuda (NVIDIA A100)"


def test_a_study_that_lacked_memory_for_post_processing_is_done_again(tmp_path, model):
    (tmp_path / "a.nii").write_bytes(b"one")
    (tmp_path / "a_seg.nii.gz").write_bytes(b"mask")
    wanted = {"mask": tmp_path / "a_seg.nii.gz"}
    recipe = make_recipe(StudyInput("a", (tmp_path / "a.nii",)), model)
    grid = GridRecord(shape=(1, 1, 1), spacing_mm=(1.0, 1.0, 1.0), axis_codes="RAS")
    previous = Provenance(
        case="a",
        recipe=recipe,
        outputs={"mask": FileRecord.of(wanted["mask"])},
        labels={"x": 1},
        volumes_ml={"x": 0.0},
        grid=grid,
        warnings=("odd",),
        timing=Timing.of({"load": 1.0}, 1),
        device="cpu",
    )
    assert is_current(previous, recipe, wanted)
    lacking = previous.model_copy(update={"warnings": (f"{NO_FIELD}: it needs 9.0 GB of memory",)})
    assert not is_current(lacking, recipe, wanted)
    assert not is_current(previous, recipe.model_copy(update={"inputs": ()}), wanted)
    wanted["mask"].write_bytes(b"other")
    assert not is_current(previous, recipe, wanted)


def test_the_decision_on_post_processing_is_recorded():
    rules = [{"label": "liver", "keep_largest": 1}, {"label": "lesion", "fill_holes": "3d"}]
    config = PostprocessingConfig.model_validate(
        {"crf": {}, "rules": rules, "largest_change": {"liver": 0.1}}
    )
    refusal = f"{NOT_APPLIED}: it would change 20.0% of liver, more than the 10.0% seen"
    record = describe_clean_up(config, ("the spacing is odd", refusal))
    assert record.asked == (
        "conditional random field", "liver: keep_largest 1", "lesion: fill_holes 3d",
    )  # fmt: skip
    assert record.refused == (refusal,)
    assert record.largest_change == {"liver": 0.1}
    lacking = describe_clean_up(config, (f"{NO_FIELD}: it needs 9.0 GB of memory",))
    assert lacking.refused == (f"{NO_FIELD}: it needs 9.0 GB of memory",)
    assert describe_clean_up(PostprocessingConfig(), ()).asked == ()


def test_a_dicom_input_is_recorded_by_its_files_in_geometric_order(tmp_path, model):
    paths = save_series(make_series(voxels()), tmp_path / "Doe", order=[3, 0, 4, 1, 2])
    (study,) = find_studies([tmp_path], num_channels=1, out=None)
    (record,) = make_recipe(study, model).inputs
    contents = b"".join(paths[name].read_bytes() for name in (1, 3, 4, 0, 2))
    assert record.sha256 == hashlib.sha256(contents).hexdigest()
    assert record.name == study.case
    paths[0].unlink()
    with pytest.raises(StudyError) as caught:
        make_recipe(study, model)
    assert str(caught.value).startswith(f"{study.case}: cannot be read")
