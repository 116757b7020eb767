import nibabel as nib
import numpy as np
import pytest

from pipeline.manifest import Case, Channel, Manifest
from pipeline.patches.kept import LabelWatch, crop_box, kept_shares, name_thin
from pipeline.study import read_label_map, read_study
from pipeline.transforms.placement import place
from pipeline.transforms.preprocess import preprocess_labels

SHAPE = (40, 16, 16)
BALL = sum((np.indices(SHAPE)[axis] - centre) ** 2 for axis, centre in enumerate((8, 8, 8))) <= 16


@pytest.fixture
def write(tmp_path):
    """Write cases whose image is not `empty` in the first half, and hold label maps on them."""

    def write(labels, *, spacing_mm=(1, 1, 1), split=None, modality="MR", empty=0):
        cases = []
        for number, label_IJK in enumerate(labels):
            image = np.random.default_rng(number).normal(100, 8, SHAPE).astype(np.float32)
            image[20:] = empty
            # Flipped: positions in the file are no positions in RAS.
            affine = np.diag([-spacing_mm[0], *spacing_mm[1:], 1.0])
            files = [tmp_path / f"{kind}{number}.nii.gz" for kind in ("image", "label")]
            for file, voxels in zip(files, (image, label_IJK.astype(np.uint8)), strict=True):
                nib.save(nib.Nifti1Image(voxels, affine), file)
            cases.append(Case(f"c{number}", (files[0],), files[1], f"c{number}", split))
        labels = {"a": 1, "b": 2}
        channels = (Channel("T1", modality),)
        return Manifest(tmp_path / "m.yaml", "m", "", "", "", channels, labels, tuple(cases))

    return write


def watched(manifest, **settings):
    watch = LabelWatch(manifest, **settings)
    for case in manifest.cases:
        study = read_study(case.images, case=case.name, num_channels=1)
        watch.see(case, study, read_label_map(case.label))
    return watch


def listed(findings):
    return [(finding.case, finding.found) for finding in findings]


@pytest.mark.parametrize(("modality", "empty"), [("MR", 0), ("CT", -800)])
def test_a_label_outside_of_the_crop_is_named(write, modality, empty):
    inside, outside, both = (np.where(BALL, 1, 0) for _ in range(3))
    outside[32:36, 4, 4:8] = 2
    both[25:32, 4, 4] = 2
    manifest = write([inside, outside, both], modality=modality, empty=empty)
    # The image ends at voxel 20, the margin at 30: five of the seven voxels lie within it.
    assert listed(watched(manifest).cropped()) == [
        ("c1", "'b' has 16 voxels, all outside of the part that is not air or zero")
    ]
    (_, half) = listed(watched(manifest, crop_margin_mm=8).cropped())
    assert half == ("c2", "'b' has 7 voxels, 4 of them outside of the part that is not air or zero")


def test_a_label_that_the_working_grid_has_not_half_of_is_named(write):
    ball, line = np.where(BALL, 1, 0), np.where(BALL, 1, 0)
    line[2:14, 11, 11] = 2
    manifest = write([ball, line])
    watch = watched(manifest)
    assert watch.thinned((1, 1, 1)) == watch.thinned() == []
    (found,) = watch.thinned((0.9, 0.9, 0.9))
    assert (found.case, found.severity) == ("c1", "warning")
    assert all(word in found.found for word in ("'b'", "keeps", "0.9 x 0.9 x 0.9 mm"))


def test_without_a_spacing_the_median_of_the_cases_is_taken(write, tmp_path):
    line = np.where(BALL, 1, 0)
    line[2:14, 14, 14] = 2
    manifest = write([line, line, line])
    nib.save(
        nib.Nifti1Image(line.astype(np.uint8), np.diag([2, 2, 2, 1])), tmp_path / "label2.nii.gz"
    )
    image = np.random.default_rng(0).normal(100, 8, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([2, 2, 2, 1])), tmp_path / "image2.nii.gz")
    # Upwards, a voxel becomes eight or so.
    assert watched(manifest).thinned() == []
    assert [finding.case for finding in watched(manifest).thinned((2, 2, 2))] == ["c0", "c1"]


def test_shares_by_hand(write):
    label = np.zeros(SHAPE)
    label[4:12, 4:12, 4:12] = 1
    (case,) = write([label]).cases
    study = read_study(case.images, case="c0", num_channels=1)
    box = crop_box(study.volume, (Channel("T1", "MR"),), 10)
    assert box == ((10, 40), (0, 16), (0, 16))
    placement = place(study.volume.grid, study.volume.grid, ((0, 40), (0, 16), (0, 16)), (4, 4, 4))
    label_map = read_label_map(case.label)
    working = preprocess_labels(label_map, placement, [0, 2, 1])
    assert kept_shares(label_map, working, placement, [0, 2, 1]) == (None, 1)
    assert kept_shares(label_map, working * 0, placement, [0, 2, 1]) == (None, 0)


def test_thin_labels_by_hand():
    names = ["absent", "lost", "thin", "half", "whole"]
    found = name_thin("c", names, [None, 0.0, 0.494, 0.5, 1.2], (1, 1, 2.5))
    assert [finding.found.split()[:3] for finding in found] == [
        ["'lost'", "keeps", "nothing"],
        ["'thin'", "keeps", "49%"],
    ]
