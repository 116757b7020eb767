import dataclasses
import hashlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.manifest import Channel
from pipeline.manifest.examine import examine_case
from pipeline.study import StudyConfig

CONFIG = StudyConfig()


def save(array, path, affine):
    nib.save(nib.Nifti1Image(array, affine), path)


def rewrite(path, change):
    image = nib.load(path)
    save(change(np.asanyarray(image.dataobj).copy()), path, image.affine)


def only(findings):
    (finding,) = findings
    return finding.severity, finding.found


def test_the_facts_of_a_good_case(write_case, make_manifest):
    # 6 x 7 x 5 voxels of 1 x 1 x 2 mm, as write_case makes them.
    case = write_case("a")
    facts, findings = examine_case(case, make_manifest(case), CONFIG)
    assert findings == []
    assert facts.case is case
    assert facts.spacing_mm == (1, 1, 2)
    assert facts.size_mm == (6, 7, 10)
    assert facts.values == {0, 1, 2}


def test_facts_are_in_the_order_r_a_s(write_case, make_manifest):
    # I runs to the feet (3 mm), J to the left (1 mm), K to the front (2 mm).
    affine = np.array([[0, -1, 0, 5], [0, 0, 2, 6], [-3, 0, 0, 7], [0, 0, 0, 1.0]])
    case = write_case("a", shape=(6, 7, 5), affine=affine)
    facts, _ = examine_case(case, make_manifest(case), CONFIG)
    assert facts.spacing_mm == pytest.approx((1, 2, 3))
    assert facts.size_mm == pytest.approx((7, 10, 18))


def test_a_mask_where_an_image_should_be(write_case, make_manifest):
    case = write_case("a")
    rewrite(case.images[0], lambda data: (data > 0).astype(np.uint8))
    config = StudyConfig(allow_label_maps=True)
    _, (finding,) = examine_case(case, make_manifest(case), config)
    assert finding.severity == "error"
    assert "channel T1" in finding.found
    assert "normalisation" in finding.remedy
    for scheme in ("none", "zscore", "rescale_0_1"):
        manifest = make_manifest(case, channels=(Channel("T1", "MR", scheme),))
        assert examine_case(case, manifest, config)[1] == []


def test_a_shifted_label_is_found(write_case, make_manifest):
    shifted = np.diag([1.0, 1.0, 2.0, 1.0])
    shifted[:3, 3] = 0.3, 0, 0.4
    case = write_case("a", label_affine=shifted)
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    severity, found = only(findings)
    assert severity == "error"
    # 0.3 of the 1 mm, and 0.2 of the 2 mm.
    assert "0.5 mm (0.3 voxels)" in found
    assert "Resample" in findings[0].remedy


def test_a_label_that_is_slightly_off_is_a_warning(write_case, make_manifest):
    shifted = np.diag([1.0, 1.0, 2.0, 1.0])
    shifted[2, 3] = 0.19
    _, findings = examine_case(write_case("a", label_affine=shifted), make_manifest(), CONFIG)
    severity, found = only(findings)
    assert severity == "warning"
    assert "0.19 mm" in found


def test_a_rounded_affine_is_no_shift(write_case, make_manifest):
    rounded = np.diag([1.0001, 1.0, 2.0, 1.0])
    case = write_case("a", label_affine=rounded)
    assert examine_case(case, make_manifest(case), CONFIG)[1] == []


def test_a_label_of_another_shape_is_found(write_case, make_manifest):
    case = write_case("a", label_shape=(6, 7, 6))
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    severity, found = only(findings)
    assert severity == "error"
    assert "grid (6, 7, 6) differs from (6, 7, 5)" in found


def test_undeclared_labels_are_listed(write_case, make_manifest):
    case = write_case("a")
    rewrite(case.label, lambda labels: np.where(labels == 2, 7, labels).astype(np.uint8))
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    assert only(findings) == ("error", "label values 7 are not declared (declared: 1, 2)")


def test_many_undeclared_labels_are_cut_short(write_case, make_manifest):
    case = write_case("a")
    rewrite(case.label, lambda labels: np.arange(labels.size, dtype=np.uint8).reshape(labels.shape))
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    assert "values 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ... are not" in only(findings)[1]


def test_an_empty_label_is_found(write_case, make_manifest):
    case = write_case("a")
    rewrite(case.label, np.zeros_like)
    facts, findings = examine_case(case, make_manifest(case), CONFIG)
    assert only(findings) == ("warning", "the label map is empty")
    assert facts.values == {0}


def test_nan_in_the_image_is_found(write_case, make_manifest):
    def spoil(image):
        image[1, 2, 3] = np.nan
        return image

    case = write_case("a")
    rewrite(case.images[0], spoil)
    facts, findings = examine_case(case, make_manifest(case), CONFIG)
    severity, found = only(findings)
    assert severity == "error"
    assert found.startswith("a.nii.gz: ")
    assert facts.spacing_mm is None
    # The label is looked at all the same.
    assert facts.values == {0, 1, 2}

    facts, findings = examine_case(case, make_manifest(case), StudyConfig(non_finite="repair"))
    assert only(findings)[0] == "warning"
    assert facts.spacing_mm is not None


def test_nan_in_the_label_is_found(write_case, make_manifest):
    case = write_case("a")
    rewrite(case.label, lambda labels: np.full(labels.shape, np.nan, np.float32))
    facts, findings = examine_case(case, make_manifest(case), CONFIG)
    assert only(findings)[0] == "error"
    assert facts.values is None


def test_missing_files_are_found(write_case, make_manifest):
    case = write_case("a")
    images = (case.images[0], case.images[0].with_name("x.nii"), case.images[0].with_name("y.nii"))
    case = dataclasses.replace(case, images=images, label=case.label.with_name("z.nii"))
    manifest = make_manifest(case, channels=tuple(Channel(name, "MR") for name in "abc"))
    _, findings = examine_case(case, manifest, CONFIG)
    assert [finding.found for finding in findings] == [
        "x.nii: the file does not exist (and 1 more)",
        "z.nii: the file does not exist",
    ]


def test_a_changed_file_is_found(write_case, make_manifest):
    case = dataclasses.replace(write_case("a"), sha256="0" * 64)
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    severity, found = only(findings)
    assert severity == "error"
    assert "not 000000000000... as the manifest says" in found


def test_channels_on_different_grids_are_found(write_case, make_manifest):
    one, two = write_case("a"), write_case("b", shape=(6, 7, 6))
    case = dataclasses.replace(one, images=one.images + two.images)
    manifest = make_manifest(case, channels=(Channel("T1", "MR"), Channel("T2", "MR")))
    assert only(examine_case(case, manifest, CONFIG)[1])[0] == "error"


def test_the_same_voxels_have_the_same_hash(write_case, make_manifest):
    cases = [write_case("a", seed=1), write_case("b", seed=1), write_case("c", seed=2)]
    # The same voxels in other words: float64, uncompressed.
    path = cases[1].images[0].with_name("b.nii")
    image = nib.load(cases[1].images[0])
    save(np.asarray(image.dataobj, np.float64), path, image.affine)
    cases[1] = dataclasses.replace(cases[1], images=(path,))
    a, b, c = (examine_case(case, make_manifest(case), CONFIG)[0].content for case in cases)
    assert a == b != c


def test_the_same_voxels_in_another_shape_have_another_hash(write_case, make_manifest):
    one, two = write_case("a", shape=(6, 7, 5)), write_case("b", shape=(7, 6, 5))
    image = nib.load(one.images[0])
    save(image.get_fdata(dtype=np.float32).reshape(7, 6, 5), two.images[0], image.affine)
    a, b = (examine_case(case, make_manifest(case), CONFIG)[0].content for case in (one, two))
    assert a != b


def test_an_unreadable_file_is_found(write_case, make_manifest, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.manifest.examine.read_label_map", refuse)
    case = write_case("a")
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    assert only(findings) == ("error", "a.nii.gz: Permission denied")


def test_a_study_too_large_for_memory_is_found(write_case, make_manifest, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr("pipeline.manifest.examine.read_study", refuse)
    case = write_case("a")
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    assert only(findings) == ("error", "the study does not fit in memory")


def test_the_ignored_value_is_no_undeclared_label(write_case, make_manifest):
    case = write_case("a")
    rewrite(case.label, lambda labels: np.where(labels == 0, 9, labels).astype(np.uint8))
    _, findings = examine_case(case, make_manifest(case, ignore_value=9), CONFIG)
    assert findings == []


def test_nothing_but_ignored_voxels_is_an_empty_label(write_case, make_manifest):
    case = write_case("a")
    rewrite(case.label, lambda labels: np.full_like(labels, 9))
    _, findings = examine_case(case, make_manifest(case, ignore_value=9), CONFIG)
    assert only(findings) == ("warning", "the label map is empty")


def test_a_label_that_is_not_annotated_is_unexpected(write_case, make_manifest):
    case = dataclasses.replace(write_case("a"), annotated=("front",))
    _, findings = examine_case(case, make_manifest(case), CONFIG)
    found = "label 'back' is in the label map, but not among the annotated ones"
    assert only(findings) == ("warning", found)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_in_a_file_of_their_own_count_for_the_hash(
    write_case, make_manifest, tmp_path, suffix
):
    case = write_case("a")
    header = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.ReadImage(case.images[0]), header)
    raw = tmp_path / "a.raw"
    whole = hashlib.sha256(header.read_bytes() + raw.read_bytes()).hexdigest()
    case = dataclasses.replace(case, images=(header,), sha256=whole)
    assert examine_case(case, make_manifest(case), CONFIG)[1] == []
    raw.write_bytes(raw.read_bytes()[::-1])
    assert "as the manifest says" in only(examine_case(case, make_manifest(case), CONFIG)[1])[1]
