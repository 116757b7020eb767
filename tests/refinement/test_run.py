import json
import logging
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import ConfigError, StudyError
from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.refinement import Outputs, RefinementConfig, refine_files
from pipeline.refinement.run import NO_LABEL
from pipeline.system.ownership import REPLACED
from pipeline.system.private import PRIVATE

VALUES = np.array([0, 3, 300])


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def spacing_mm(path):
    affine = nib.load(path).affine
    return np.linalg.norm(affine[:3, :3], axis=0).tolist()


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_geometry_is_repeated_bit_for_bit(case, kind):
    request = case.request(kind)
    refine_files(request)
    given = nib.load(request.segmentation).header
    written = nib.load(request.outputs.mask).header
    fields = "quatern_b quatern_c quatern_d qoffset_x qoffset_y qoffset_z srow_x srow_y srow_z"
    for field in [*fields.split(), "qform_code", "sform_code"]:
        assert written[field].tobytes() == given[field].tobytes(), field
    assert written["pixdim"][:4].tobytes() == given["pixdim"][:4].tobytes()
    assert written.get_xyzt_units()[0] == "mm"
    assert (int(written["qform_code"]), int(written["sform_code"])) == (1, 4)
    assert written["descrip"].item() == b""
    assert written.get_data_dtype() == (np.uint16 if kind == "labels" else np.uint8)


def test_labels_are_those_that_the_field_gives_on_arrays(case):
    config = CrfConfig(theta_position_mm=4, weight_appearance=8)
    request = case.request(config=RefinementConfig(**config.model_dump(), band_mm=3))
    record = refine_files(request)
    given = voxels(request.segmentation).astype(np.uint16)
    wanted = Crf(config).refine_labels(
        case.image_IJK[None], given, spacing_mm(request.segmentation), band_mm=3
    )
    np.testing.assert_array_equal(voxels(request.outputs.mask), wanted)
    assert record.changed_voxels == np.count_nonzero(given != wanted) > 0


def test_probabilities_are_refined_as_on_arrays_and_label_is_class(case):
    request = case.request("probabilities")
    record = refine_files(request)
    wanted = Crf(CrfConfig()).refine_probabilities(
        case.image_IJK[None], case.probability_CIJK, spacing_mm(request.segmentation)
    )
    np.testing.assert_array_equal(voxels(request.outputs.mask), wanted)
    assert list(record.labels) == [0, 1, 2]
    before = np.bincount(case.probability_CIJK.argmax(axis=0).ravel(), minlength=3)
    assert [change.voxels_before for change in record.labels.values()] == before.tolist()


def test_several_channels_in_one_file_or_in_files(case):
    other = np.random.default_rng(1).normal(0, 1, case.image_IJK.shape).astype(np.float32)
    second = case.save("second.nii.gz", other)
    both = case.save("both.nii.gz", np.stack([case.image_IJK, other], axis=-1))
    request = case.request()
    masks = []
    for images in ((*request.images, second), (both,)):
        refine_files(replace(request, images=images))
        masks.append(voxels(request.outputs.mask))
    np.testing.assert_array_equal(*masks)


def test_record_names_files_by_content_and_nothing_of_the_patient(case):
    request = case.request(picture=case.folder / "out" / "refined.png")
    refine_files(request)
    text = request.outputs.record.read_text()
    record = json.loads(text)
    assert [each["name"] for each in record["images"]] == ["image.nii.gz"]
    assert len(record["segmentation"]["sha256"]) == 64
    assert set(record["outputs"]) == {"mask", "picture"}
    assert record["settings"]["band_mm"] == 4
    assert set(record["timing"]["seconds"]) == {"read", "refine", "write"}
    assert "DOE" not in text
    assert str(case.folder) not in text
    assert request.outputs.picture.read_bytes()[:4] == b"\x89PNG"


def test_same_input_same_bytes(case):
    first, second = (refine_files(case.request()).outputs for _ in range(2))
    assert first == second


def test_stopped_while_writing_the_earlier_mask_and_its_record_are_kept(case, monkeypatch):
    request = case.request()
    request.outputs.mask.parent.mkdir()
    request.outputs.mask.write_bytes(b"earlier")
    request.outputs.record.write_text("{}")

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.output.nifti.append", stop)
    with pytest.raises(KeyboardInterrupt):
        refine_files(request)
    out = request.outputs.mask.parent
    assert [path.name for path in out.iterdir()] == [PRIVATE]
    kept = {path.name: path.read_bytes() for path in (out / REPLACED).glob("*/*")}
    assert kept == {"refined.nii.gz": b"earlier", "refined.json": b"{}"}


@pytest.mark.parametrize("taken", ["refined.nii.gz", "refined.json", "refined.png"])
def test_what_lies_there_is_refused_by_name_before_any_work(case, taken):
    request = case.request(picture=case.folder / "out" / "refined.png")
    request = replace(request, outputs=replace(request.outputs, replace=False))
    (case.folder / "out").mkdir()
    (case.folder / "out" / taken).write_text("precious")
    with pytest.raises(ConfigError, match=rf"{taken}: exists already.*--replace"):
        refine_files(request)
    assert [path.name for path in (case.folder / "out").iterdir()] == [taken]
    assert (case.folder / "out" / taken).read_text() == "precious"


def test_stopped_while_refining_leaves_nothing(case, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.refinement.run.Crf.refine_labels", stop)
    with pytest.raises(KeyboardInterrupt):
        refine_files(case.request())
    assert list((case.folder / "out").iterdir()) == []


def test_refuses_to_overwrite_an_input(case):
    request = case.request()
    outputs = Outputs(request.segmentation)
    with pytest.raises(ConfigError, match=r"labels.nii.gz: is an input"):
        refine_files(replace(request, outputs=outputs))


def test_an_empty_mask_stays_empty_and_is_said(case, caplog):
    path = case.save("empty.nii.gz", np.zeros(case.image_IJK.shape, np.int16))
    with caplog.at_level(logging.WARNING, "pipeline"):
        record = refine_files(case.request(segmentation=path))
    assert record.changed_voxels == 0
    assert NO_LABEL in record.warnings
    assert NO_LABEL in caplog.text


def test_a_band_of_few_voxels_is_said(case):
    record = refine_files(case.request(config=RefinementConfig(band_mm=2.5)))
    assert "band_mm=2.5 is less than 2 voxels of 1.5 mm" in " ".join(record.warnings)
    assert refine_files(case.request()).warnings == ()


def test_a_label_that_all_but_vanishes_is_said(case):
    config = RefinementConfig(weight_appearance=0, weight_smoothness=60, theta_smoothness_mm=9)
    record = refine_files(case.request(config=config))
    change = record.labels[300]
    text = f"label 300 went from {change.voxels_before} to {change.voxels_after} voxels"
    assert text in " ".join(record.warnings)


def test_a_band_is_for_labels(case):
    with pytest.raises(ConfigError, match="band_mm"):
        refine_files(case.request("probabilities", config=RefinementConfig(band_mm=2)))


def test_compatibility_must_fit_the_labels(case):
    config = RefinementConfig(compatibility=((0, 1), (1, 0)))
    with pytest.raises(ConfigError, match="for 2 classes, not for 3"):
        refine_files(case.request(config=config))


def test_too_little_memory_says_what_to_do(case):
    with pytest.raises(StudyError, match=r"takes .* GB of memory.*Raise --max-memory"):
        refine_files(case.request(max_bytes=10**6))
    assert not (case.folder / "out").exists()


def test_values_that_are_no_numbers_are_refused_or_repaired(case):
    image = case.image_IJK.copy()
    image[3, 3, 3] = np.nan
    path = case.save("image.nii.gz", image, codes=(2, 1))
    request = case.request(images=(path,))
    with pytest.raises(StudyError, match=r"image.nii.gz: 1 of 5760 voxels are NaN"):
        refine_files(request)
    config = RefinementConfig.model_validate({"study": {"non_finite": "repair"}})
    assert "1 of 5760" in refine_files(replace(request, config=config)).warnings[0]
