"""What looks like an image and is not read is told by name, once for each image."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.inputs.unread import has_unread_name, is_no_image, sort_unread


def touch(folder, *names):
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def found(folder, *names):
    return sort_unread(touch(folder, *names), b"")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.gipl", "ITK-SNAP"),
        ("a.gipl.gz", "packed as .gz"),
        ("a.GIPL", "ITK-SNAP"),
        ("a.vtk", "3D Slicer"),
        ("a.vti", "3D Slicer"),
        ("a.mnc", "mnc2nii"),
        ("a.mif", "mrconvert"),
        ("a.v", "dcm2niix"),
        ("a.ecat", "dcm2niix"),
        ("a.nii.bz2", "packed as .bz2"),
        ("a.nii.xz", "packed as .xz"),
        ("a.nii.zst", "packed as .zst"),
        ("a.nrrd.gz", "packed as .gz"),
        ("a.nii.zip", "Unpack it"),
        ("a.zip", "archive"),
        ("a.tar", "archive"),
        ("a.tar.gz", "archive"),
        ("a.tgz", "archive"),
        ("a.7z", "archive"),
        ("a.npy", "affine"),
        ("a.raw", ".mhd or .nhdr"),
        ("a.img", ".hdr"),
        ("a.nii.gz.part", "not whole"),
        ("a.nii.gz~", "not whole"),
        ("a.nii.gz.2", "not whole"),
        ("a.nii.gz.dvc", "not whole"),
        ("a.nii.gz (1)", "not whole"),
        ("a.nii.gz_old", "not whole"),
        ("a.nrrd - Kopie", "not whole"),
        ("a.nii.gz.uploading", "not whole"),
        ("#a.mha#", "not whole"),
    ],
)
def test_each_image_is_refused_by_name_with_a_remedy(tmp_path, name, text):
    (study,) = found(tmp_path, name, "notes.txt").unread
    assert study.case == name
    assert study.sources == (tmp_path / name,)
    assert text in study.refusal
    assert study.refusal.endswith(".")
    assert has_unread_name(tmp_path / name)


@pytest.mark.parametrize(
    "names",
    [
        ("a.par", "a.rec"),
        ("A.PAR", "A.REC"),
        ("a+orig.HEAD", "a+orig.BRIK"),
        ("a+orig.HEAD", "a+orig.BRIK.gz"),
        ("a.mih", "a.dat"),
        ("a.hv", "a.v"),
    ],
)
def test_a_header_and_its_voxels_are_one(tmp_path, names):
    (study,) = found(tmp_path, *names).unread
    assert study.case == names[0]


def test_the_slices_of_a_folder_are_one(tmp_path):
    names = [f"{folder}/{n}.dcm.gz" for folder in ("a", "b") for n in range(3)]
    studies = found(tmp_path, *names, "a/1.tif", "a/2.tif").unread
    assert sorted(study.refusal[:20] for study in studies) == [
        "2 file(s) .tif of a ", "3 file(s) .dcm.gz of", "3 file(s) .dcm.gz of",
    ]  # fmt: skip
    assert len({study.case for study in studies}) == 3


@pytest.mark.parametrize(
    "name",
    ["a.txt", "a.csv", "a.csv.gz", "a.json", "a.png", "a.py", "README", "a.bval", "a.nii.gz.md5"],
)
def test_what_is_plainly_no_image_is_not_mentioned(tmp_path, name):
    assert is_no_image(Path(name))
    result = found(tmp_path, name)
    assert (result.unread, result.num_unknown) == ((), 0)


def test_what_may_be_anything_is_counted(tmp_path):
    result = found(tmp_path, "a.xyz", "b.bin", "noending")
    assert (result.unread, result.num_unknown) == ((), 3)


def test_raw_voxels_that_a_header_names_are_its_own(tmp_path):
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = b.raw\n"
    (tmp_path / "a.mhd").write_text(header)
    (study,) = found(tmp_path, "b.raw", "c.raw").unread
    assert study.case == "c.raw"


def test_a_header_that_does_not_tell_hides_no_voxels_but_those_called_like_it(tmp_path):
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = "
    (tmp_path / "a.mhd").write_text(f"{header}LIST\na_1.raw\na_2.raw\n")
    (tmp_path / "long.mhd").write_text(f"{header}{'y' * 5000}\n")
    studies = found(tmp_path, "a_1.raw", "a_2.raw", "c.raw", "lonely.img").unread
    assert [study.case for study in studies] == ["c.raw", "lonely.img"]


def test_an_image_without_its_ending_is_told_by_its_content(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "a")
    (tmp_path / "b.xyz").write_bytes(b"NRRD0004\n")
    texts = [s.refusal for s in sort_unread([tmp_path / "a", tmp_path / "b.xyz"], b"").unread]
    assert ["end in .nii." in texts[0], "end in .nrrd." in texts[1]] == [True, True]


def test_notes_about_an_image_that_is_there_are_none(tmp_path):
    touch(tmp_path, "a.nii.gz")
    assert found(tmp_path, "a.nii.gz.dvc").unread == ()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x")
    assert sort_unread([tmp_path / "x"], b"").num_unknown == 1


@pytest.mark.parametrize("name", ["a.nii.gz.md5", "a.nii.gz.json", "a.niix", "a.dcm.txt", "mha"])
def test_what_lies_beside_an_image_under_its_name_is_none(tmp_path, name):
    assert found(tmp_path, name).unread == ()
    assert not has_unread_name(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes(), "end in .nii.gz."),
        (b"NRRD0004\ntype: uint8\n", "Unpack it, and rename it to end in .nrrd."),
    ],
)
def test_packed_images_are_told_by_their_content(tmp_path, content, remedy):
    path = tmp_path / "a.bin"
    path.write_bytes(gzip.compress(content))
    (study,) = sort_unread([path], b"").unread
    assert study.refusal.endswith(remedy)
    path.write_bytes(gzip.compress(content)[:10] + b"\xff" * 400)
    assert sort_unread([path], b"").unread == ()
