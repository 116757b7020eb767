import contextlib
import os
import time

import numpy as np
import pytest
import SimpleITK

from pipeline.errors import StudyError
from pipeline.study import open_volume, read_study
from pipeline.study.reader import voxel_files
from pipeline.study.text_header import read_text_header

COMPRESSED = pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])


@pytest.fixture
def write(tmp_path, voxels):
    def write(suffix, compress):
        path = tmp_path / f"case{suffix}"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels.T), str(path), compress)
        return path

    return write


@COMPRESSED
@pytest.mark.parametrize("compress", [False, True])
def test_voxels_are_located(write, voxels, suffix, compress):
    path = write(suffix, compress)
    text = read_text_header(path)
    assert text.is_nrrd == (suffix in (".nrrd", ".nhdr"))
    assert (text.data_path == path) == (suffix in (".mha", ".nrrd"))
    if not compress:
        assert text.data_path.read_bytes()[text.offset :] == voxels.tobytes(order="F")


@COMPRESSED
def test_damaged_compressed_voxels_are_never_read_as_voxels(write, voxels, suffix):
    path = write(suffix, True)
    text = read_text_header(path)
    content = text.data_path.read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(text.offset + 12, len(content) - 8, size=40):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        text.data_path.write_bytes(damaged)
        with pytest.raises(StudyError, match=r"data are damaged|file ends before"):
            read_study([path], case="case", num_channels=1)
    text.data_path.write_bytes(content)
    study = read_study([path], case="case", num_channels=1)
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("how", ["up", "absolute"])
def test_a_header_takes_no_voxels_from_another_folder(tmp_path, write, suffix, how):
    """Else a header from elsewhere could make a mask of any file that the user may read."""
    path = write(suffix, False)
    data = read_text_header(path).data_path
    (tmp_path / "in").mkdir()
    name = f"../{data.name}" if how == "up" else str(data)
    moved = tmp_path / "in" / path.name
    moved.write_text(path.read_text("latin-1").replace(data.name, name), "latin-1")
    with pytest.raises(StudyError, match=r"takes its voxels from another folder\. Put both"):
        read_study([moved], case="x", num_channels=1)
    path.write_text(path.read_text("latin-1").replace(data.name, str(data)), "latin-1")
    assert voxel_files(path) == (data,), "an absolute path to the file beside it"


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_link_in_the_way_to_the_voxels_leads_nowhere_else(tmp_path, write, suffix):
    """By the text `link/../v.raw` lies beside the header; for the system it does not."""
    path = write(suffix, False)
    data = read_text_header(path).data_path
    (tmp_path / "else" / "deep").mkdir(parents=True)
    (tmp_path / "else" / "deep" / data.name).write_bytes(data.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "else" / "deep")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "else" / "deep")
    (tmp_path / "in" / data.name).write_bytes(data.read_bytes())
    text = path.read_text("latin-1")
    for name in (f"link/../{data.name}", f"link/{data.name}", f"./../in/{data.name}"):
        moved = tmp_path / "in" / path.name
        moved.write_text(text.replace(data.name, name), "latin-1")
        with pytest.raises(StudyError, match="takes its voxels from another folder"):
            read_study([moved], case="x", num_channels=1)


def test_a_pipe_in_the_place_of_voxels_is_named(tmp_path, write):
    path = write(".mhd", False)
    data = read_text_header(path).data_path
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(StudyError, match=rf"its voxels, {data.name}, is no ordinary file"):
        read_study([path], case="x", num_channels=1)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (
            b"a" * 300 + b".raw",
            r"is not to be had \(File name too long",
        ),
        (b"\xff\xe2\x80\xae.raw", "voxels, named in the header, is missing"),
        (b"gr\xc3\xb6\xc3\x9fe.raw", "voxels, größe.raw, is missing"),
        (b"loop/v.raw", r"is (not to be had|missing)"),
        (b"a.mhd/v.raw", r"is not to be had \(Not a directory"),
        (b"", "from another folder"),
        (b".", "from another folder|no ordinary file"),
        (b"raw", "voxels, raw, is no ordinary file"),
    ],
)
def test_a_name_that_is_no_file_is_told(tmp_path, name, found):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "raw").mkdir()
    head = b"NDims = 3\nDimSize = 1 1 2\nElementType = MET_UCHAR\nElementDataFile = "
    (tmp_path / "a.mhd").write_bytes(head + name + b"\n")
    with pytest.raises(StudyError, match=found) as error:
        open_volume(tmp_path / "a.mhd")
    assert str(error.value).isprintable()


def test_a_name_in_any_letters_is_found(tmp_path):
    head = "NDims = 3\nDimSize = 1 1 2\nElementType = MET_UCHAR\nElementDataFile = größe 1.raw\n"
    (tmp_path / "a.mhd").write_text(head, "utf-8")
    (tmp_path / "größe 1.raw").write_bytes(b"ab")
    assert open_volume(tmp_path / "a.mhd").load().ravel().tolist() == [97, 98]


def test_voxels_may_lie_below_their_header_and_be_a_link(tmp_path, write, voxels):
    path = write(".mhd", False)
    data = read_text_header(path).data_path
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "v.raw").symlink_to(data)
    path.write_text(path.read_text().replace(data.name, "raw/v.raw"))
    study = read_study([path], case="x", num_channels=1)
    assert study.volume.data_CIJK.size == voxels.size


def test_the_voxels_of_a_detached_header_are_named_by_the_header(tmp_path):
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1 1 2\nencoding: raw\ndata file: vox.dat\n"
    )
    (tmp_path / "a.nhdr").write_text(header, encoding="ascii")
    (tmp_path / "vox.dat").write_bytes(b"ab")
    assert voxel_files(tmp_path / "a.nhdr") == (tmp_path / "vox.dat",)
    assert voxel_files(tmp_path / "a.nii.gz") == ()


def test_voxels_in_several_files_are_refused(tmp_path):
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1 1 2\ndata file: LIST\n"
    (tmp_path / "a.nhdr").write_text(header, encoding="ascii")
    with pytest.raises(StudyError, match="voxels are spread over several files"):
        read_text_header(tmp_path / "a.nhdr")


def test_an_empty_value_does_not_swallow_the_next_line(tmp_path):
    """SimpleITK reads such files: an empty comment or modality is legal."""
    image = SimpleITK.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    header, voxels = (tmp_path / "a.mha").read_bytes().split(b"ElementDataFile", 1)
    odd = header + b"Modality =\nElementDataFile" + voxels
    (tmp_path / "a.mha").write_bytes(b"Comment = \n" + odd)
    fields = read_text_header(tmp_path / "a.mha").fields
    assert fields["ElementDataFile"] == "LOCAL"
    study = read_study([tmp_path / "a.mha"], case="a", num_channels=1)
    np.testing.assert_array_equal(study.volume.data_CIJK[0].T.ravel(), np.arange(24))


def test_a_header_of_many_segments_is_read(tmp_path):
    segments = "".join(f"Segment{n}_Tags:={'x' * 400}\n" for n in range(300))
    text = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1 1 2\nencoding: raw\n{segments}\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + b"ab")
    assert read_text_header(tmp_path / "a.nrrd").fields["sizes"] == "1 1 2"


@pytest.mark.parametrize(
    "text",
    [
        "a\n" * 1_900_000,
        "\n" * 3_900_000,
        "Offset = " + "1" * 3_900_000 + "x\n",
        "Offset = " + "1 " * 1_900_000 + "\n",
        "Offset = 1" + "1" * 60_000 + "x 1 1\n",
        "a" * 3_900_000 + "\n",
        "a" + " " * 3_900_000 + "\n",
        " " * 3_900_000 + "\n",
        "\r" * 3_900_000 + "\n",
    ],
)
def test_no_text_of_four_megabytes_takes_long(tmp_path, text):
    head = "NDims = 3\nDimSize = 1 1 2\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mha").write_text(f"{head}{text}ElementDataFile = LOCAL\nxx")
    fields = "type: uint8\ndimension: 3\nsizes: 1 1 2\nencoding: raw\nspace: RAS\n"
    nrrd = text.replace("Offset =", "space directions:").replace("\n\n", "\n#\n")
    (tmp_path / "a.nrrd").write_text(f"NRRD0005\n{fields}{nrrd}\nxx")
    for name in ("a.mha", "a.nrrd"):
        began = time.process_time()
        with contextlib.suppress(StudyError):
            open_volume(tmp_path / name)
        assert time.process_time() - began < 1
