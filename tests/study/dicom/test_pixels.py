"""What voxels are is checked against the arrays that files were made from, and against pydicom."""

import errno
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames

from pipeline.errors import StudyError
from pipeline.study import StudyConfig, find_series, read_study
from pipeline.study.dicom import pixels
from pipeline.study.dicom.pixels import load_voxels
from tests.dicom_files import (
    make_enhanced,
    make_series,
    make_slice,
    positions_along,
    save,
    save_series,
    voxels,
)


def load(folder):
    (series,) = find_series([folder])
    assert series.refusal is None
    return load_voxels(series)[..., 0]


def image_of(stored_KJI):
    """What a CT of these stored values shows, in the order of voxels: HU = stored - 1024."""
    return stored_KJI.transpose(2, 1, 0).astype(np.float32) - 1024


def test_a_voxel_is_where_its_row_column_and_slice_say(tmp_path):
    stored_KJI = voxels()
    save_series(make_series(stored_KJI), tmp_path)
    data_IJK = load(tmp_path)
    assert data_IJK.shape == (7, 6, 5)
    assert data_IJK[6, 2, 3] == stored_KJI[3, 2, 6] - 1024.0


def test_each_slice_has_its_own_rescale(tmp_path):
    stored_KJI = voxels()

    def rescale(index):
        return {"RescaleSlope": 0.5 + index, "RescaleIntercept": -100.25 * index}

    slices = make_series(stored_KJI, each=rescale, Modality="MR", RescaleType=None)
    for one in slices:
        one.SOPClassUID = uid.MRImageStorage
    paths = save_series(slices, tmp_path)
    data_IJK = load(tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        k = dataset.InstanceNumber - 1
        expected = dataset.pixel_array * float(dataset.RescaleSlope) + float(
            dataset.RescaleIntercept
        )
        np.testing.assert_array_equal(data_IJK[..., k].T, expected.astype(np.float32))


def test_mr_without_rescale_keeps_its_stored_values(tmp_path):
    stored_KJI = voxels()
    gone = dict.fromkeys(("RescaleSlope", "RescaleIntercept", "RescaleType"))
    save_series(make_series(stored_KJI, Modality="MR", **gone), tmp_path)
    np.testing.assert_array_equal(load(tmp_path), stored_KJI.transpose(2, 1, 0))


@pytest.mark.parametrize("kind", ["i2", "u2", "i1", "u1", "i4", "u4"])
def test_signed_and_unsigned_values_of_each_size(tmp_path, kind):
    limits = np.iinfo(kind)
    stored_KJI = np.random.default_rng(0).integers(
        max(limits.min, -(2**22)), min(limits.max, 2**22), (3, 4, 5)
    )
    save_series(make_series(stored_KJI.astype(kind)), tmp_path)
    np.testing.assert_array_equal(load(tmp_path), image_of(stored_KJI))


@pytest.mark.parametrize(("kind", "low"), [("i2", -2048), ("u2", 0)])
def test_bits_above_the_stored_ones_are_no_values(tmp_path, kind, low):
    stored_KJI = np.random.default_rng(0).integers(low, low + 4096, (3, 4, 5)).astype(kind)
    drawn_KJI = (stored_KJI & 0x0FFF) | np.array(0x5000, dtype=kind)
    save_series(make_series(drawn_KJI, BitsStored=12, HighBit=11), tmp_path)
    np.testing.assert_array_equal(load(tmp_path), image_of(stored_KJI))


COMPRESSED = {
    "RLE": uid.RLELossless,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
}


@pytest.mark.parametrize("kind", ["u2", "i2"])
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_slices_are_those_that_went_in(tmp_path, name, kind):
    low = 0 if kind == "u2" else -2000
    stored_KJI = np.random.default_rng(0).integers(low, low + 4000, (3, 40, 36)).astype(kind)
    slices = make_series(stored_KJI, each=lambda index: {"RescaleSlope": 1 + index})
    for one in slices:
        one.compress(COMPRESSED[name])
    save_series(slices, tmp_path)
    expected = stored_KJI * np.arange(1, 4)[:, None, None] - 1024
    np.testing.assert_array_equal(load(tmp_path), expected.transpose(2, 1, 0).astype(np.float32))


@pytest.mark.parametrize("option", ["+e1", "+e14"])
def test_jpeg_lossless_is_read(tmp_path, option):
    """`+e14` is the first-order prediction that most archives hold, `+e1` any other."""
    tool = shutil.which("dcmcjpeg")
    if tool is None:
        pytest.skip("dcmcjpeg (Debian's dcmtk) is not installed")
    stored_KJI = np.random.default_rng(0).integers(0, 4000, (3, 40, 36)).astype(np.uint16)
    words = [] if option == "+e14" else ["+el"]
    for path in save_series(make_series(stored_KJI), tmp_path / "plain"):
        target = tmp_path / "jpeg" / path.name
        target.parent.mkdir(exist_ok=True)
        subprocess.run([tool, *words, path, target], check=True, capture_output=True)
    np.testing.assert_array_equal(load(tmp_path / "jpeg"), image_of(stored_KJI))


def test_12_bit_jpeg_is_read_with_its_loss(tmp_path):
    tool = shutil.which("dcmcjpeg")
    if tool is None:
        pytest.skip("dcmcjpeg (Debian's dcmtk) is not installed")
    ramp = np.add.outer(np.arange(40), np.arange(36)) * 40
    stored_KJI = np.stack([ramp, ramp + 100, ramp + 200]).astype(np.uint16)
    for path in save_series(make_series(stored_KJI, BitsStored=12, HighBit=11), tmp_path / "plain"):
        target = tmp_path / "jpeg" / path.name
        target.parent.mkdir(exist_ok=True)
        words = [tool, "+ee", "+q", "95", path, target]
        subprocess.run(words, check=True, capture_output=True)
    (series,) = find_series([tmp_path / "jpeg"])
    assert series.warnings == ("its images went through lossy compression",)
    assert np.abs(load(tmp_path / "jpeg") - image_of(stored_KJI)).max() < 40


def test_stored_bits_that_do_not_fit_are_damage(tmp_path):
    save_series(make_series(voxels(), BitsStored=12, HighBit=3), tmp_path)
    (series,) = find_series([tmp_path])
    with pytest.raises(StudyError, match=r"series 1: .*damaged"):
        load_voxels(series)


def test_deflated_and_big_endian_files_are_read(tmp_path):
    stored_KJI = voxels(3)
    slices = make_series(stored_KJI)
    for one in slices:
        one.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    save_series(slices, tmp_path / "deflated")
    np.testing.assert_array_equal(load(tmp_path / "deflated"), image_of(stored_KJI))
    swapped = make_series(stored_KJI.astype(">u2"))
    for one in swapped:
        one.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    save_series(swapped, tmp_path / "big")
    np.testing.assert_array_equal(load(tmp_path / "big"), image_of(stored_KJI))


def test_big_endian_files_without_meta_information_are_read(tmp_path):
    stored_KJI = voxels(3)
    for index, one in enumerate(make_series(stored_KJI.astype(">u2"))):
        del one.file_meta
        one.save_as(tmp_path / f"{index}.dcm", implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(load(tmp_path), image_of(stored_KJI))


def test_bytes_in_big_endian_words_are_in_order(tmp_path):
    stored_KJI = voxels(3, columns=6).astype(np.uint8)
    for index, one in enumerate(make_series(stored_KJI)):
        one.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        one.PixelData = stored_KJI[index].view("<u2").astype(">u2").tobytes()
        path = save(one, tmp_path / f"{index}.dcm")
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, stored_KJI[index])
    np.testing.assert_array_equal(load(tmp_path), image_of(stored_KJI))


def test_lossy_compression_is_warned_about(tmp_path):
    stored_KJI = np.random.default_rng(0).integers(0, 4000, (3, 40, 36)).astype(np.uint16)
    slices = make_series(stored_KJI)
    for one in slices:
        one.compress(uid.JPEGLSNearLossless, jls_error=2)
        one.LossyImageCompression = "01"
    save_series(slices, tmp_path)
    (series,) = find_series([tmp_path])
    assert series.warnings == ("its images went through lossy compression",)
    assert np.abs(load(tmp_path) - image_of(stored_KJI)).max() <= 2


def test_dark_padding_stays(tmp_path):
    stored_KJI = np.full((3, 4, 5), 1000, dtype=np.int16)
    stored_KJI[:, 0, 0] = -2000
    save_series(make_series(stored_KJI, PixelPaddingValue=-2000), tmp_path)
    data_IJK = load(tmp_path)
    assert data_IJK[0, 0, 0] == -3024
    assert data_IJK[1, 1, 1] == -24


def test_padding_that_needs_more_bits_than_are_stored_is_no_intensity(tmp_path):
    """-2000 as a word without a sign is 63536; of its lowest 12 bits, 2096 would be left."""
    stored_KJI = np.random.default_rng(0).integers(100, 2000, (3, 4, 5)).astype("u2")
    stored_KJI[:, 0] = 63536
    changes = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 63536}
    save_series(make_series(stored_KJI, **changes), tmp_path)
    expected = stored_KJI.copy()
    expected[:, 0] = stored_KJI[:, 1:].min()
    np.testing.assert_array_equal(load(tmp_path), image_of(expected))


@pytest.mark.parametrize("limit", [None, 32760])
def test_padding_brighter_than_the_image_becomes_its_darkest(tmp_path, limit):
    stored_KJI = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    stored_KJI[1, 0, 0] = 32767
    stored_KJI[1, 0, 1] = 32767 if limit is None else 32762
    more = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    save_series(make_series(stored_KJI, PixelPaddingValue=32767, **more), tmp_path)
    data_IJK = load(tmp_path)
    assert data_IJK[0, 0, 1] == data_IJK[1, 0, 1] == -1024
    assert data_IJK.max() == 59 - 1024


def test_frames_have_their_own_place_and_rescale(tmp_path):
    stored_KJI = voxels(4)
    positions = positions_along(count=4)[::-1]
    save(make_enhanced(stored_KJI, positions), tmp_path / "one")
    data_IJK = load(tmp_path)
    for frame in range(4):
        expected = stored_KJI[frame].T * (frame + 1.0) - 1000
        np.testing.assert_array_equal(data_IJK[..., 3 - frame], expected)


def test_compressed_frames_are_read(tmp_path):
    stored_KJI = voxels(4, 40, 36)
    dataset = make_enhanced(stored_KJI, positions_along(count=4))
    dataset.compress(uid.RLELossless)
    save(dataset, tmp_path / "one")
    expected = stored_KJI * np.arange(1, 5)[:, None, None] - 1000
    np.testing.assert_array_equal(load(tmp_path), expected.transpose(2, 1, 0).astype(np.float32))


@pytest.mark.parametrize("has_bot", [True, False])
def test_compressed_frames_of_several_fragments_are_read(tmp_path, has_bot):
    """With a table of their offsets, or told by the end of each frame's stream."""
    stored_KJI = voxels(4, 40, 36)
    dataset = make_enhanced(stored_KJI, positions_along(count=4))
    dataset.compress(uid.JPEGLSLossless)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=4))
    expected = stored_KJI * np.arange(1, 5)[:, None, None] - 1000
    dataset.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=has_bot)
    save(dataset, tmp_path / "one")
    np.testing.assert_array_equal(load(tmp_path), expected.transpose(2, 1, 0).astype(np.float32))


def test_compressed_frames_with_extended_offsets_are_read(tmp_path):
    stored_KJI = voxels(4, 40, 36)
    dataset = make_enhanced(stored_KJI, positions_along(count=4))
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=4))
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
        encapsulate_extended(frames)
    )
    save(dataset, tmp_path / "one")
    expected = stored_KJI * np.arange(1, 5)[:, None, None] - 1000
    np.testing.assert_array_equal(load(tmp_path), expected.transpose(2, 1, 0).astype(np.float32))


@pytest.mark.parametrize("count", [3, 5])
def test_another_number_of_compressed_frames_is_damage(tmp_path, count):
    dataset = make_enhanced(voxels(4, 40, 36), positions_along(count=4))
    dataset.compress(uid.RLELossless)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=4))
    dataset.PixelData = encapsulate((frames * 2)[:count])
    save(dataset, tmp_path / "one")
    (series,) = find_series([tmp_path])
    with pytest.raises(StudyError, match=r"series 1: .*damaged"):
        load_voxels(series)


def test_compressed_pixels_that_are_called_plain_are_damage(tmp_path):
    """Those of noise are larger than plain ones, and could be taken for these."""
    slices = make_series(voxels(3, 40, 36) * 16)
    for one in slices:
        one.compress(uid.RLELossless)
    rle, plain = b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"
    for path in save_series(slices, tmp_path):
        path.write_bytes(path.read_bytes().replace(rle, plain))
    (series,) = find_series([tmp_path])
    with pytest.raises(StudyError, match=r"series 1: .*damaged"):
        load_voxels(series)


@pytest.mark.parametrize("cut", [10, 100])
def test_a_torn_compressed_file_is_refused_when_it_is_read(tmp_path, cut):
    slices = make_series(voxels(3, 40, 36))
    for one in slices:
        one.compress(uid.RLELossless)
    paths = save_series(slices, tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-cut])
    (series,) = find_series([tmp_path])
    with pytest.raises(StudyError, match=r"series 1: .*damaged"):
        load_voxels(series)


def test_damaged_compressed_data_are_refused(tmp_path):
    slices = make_series(voxels(3, 40, 36))
    for one in slices:
        one.compress(uid.JPEG2000Lossless)
    slices[1].PixelData = encapsulate([b"\xff\x4f" + bytes(300)])
    save_series(slices, tmp_path)
    (series,) = find_series([tmp_path])
    with pytest.raises(StudyError, match=r"series 1: .*damaged"):
        load_voxels(series)


def test_a_file_that_went_away_or_changed_is_named(tmp_path):
    paths = save_series(make_series(voxels(3)), tmp_path)
    (series,) = find_series([tmp_path])
    save(make_slice(voxels(1, 3, 3)[0]), paths[0])
    with pytest.raises(StudyError, match=r"series 1: .*damaged"):
        load_voxels(series)
    paths[0].unlink()
    with pytest.raises(StudyError, match=r"series 1: one of its files is gone\. Check the folder"):
        read_study([series], case="a", num_channels=1, config=StudyConfig())


def test_nothing_of_the_patient_reaches_the_decoder(tmp_path, monkeypatch):
    slices = make_series(voxels(3, 40, 36))
    for one in slices:
        one.compress(uid.RLELossless)
    save_series(slices, tmp_path)
    written = []
    original = pydicom.Dataset.save_as

    def keep(self, path, **options):
        content = io.BytesIO()
        original(self, content, **options)
        written.append(content.getvalue())
        original(self, path, **options)

    monkeypatch.setattr(pydicom.Dataset, "save_as", keep)
    load(tmp_path)
    assert len(written) == 3
    assert not any(b"Doe" in content or b"MRN-4711" in content for content in written)


def refused_by_system(number):
    def refuse(*words, **_):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_full_folder_for_temporary_files_is_no_damage(tmp_path, monkeypatch):
    slices = make_series(voxels())
    for one in slices:
        one.compress(uid.RLELossless, generate_instance_uid=False)
    save_series(slices, tmp_path)
    monkeypatch.setattr("pydicom.dataset.Dataset.save_as", refused_by_system(errno.ENOSPC))
    with pytest.raises(OSError, match=r"No space left|disk is full") as error:
        load(tmp_path)
    assert error.value.errno == errno.ENOSPC


def test_a_share_that_fails_is_named(tmp_path, monkeypatch):
    save_series(make_series(voxels()), tmp_path)
    (series,) = find_series([tmp_path])
    monkeypatch.setattr(pixels, "open_ordinary", refused_by_system(errno.EIO))
    expected = r"series 1: one of its files cannot be read \(Input/output error\)\. Check its disk"
    with pytest.raises(StudyError, match=expected) as error:
        load_voxels(series)
    assert isinstance(error.value.__cause__, OSError)


def test_a_frame_larger_than_its_header_says_is_not_decoded(tmp_path):
    """JPEG 2000 of 64 x 64 pixels, whose frame header claims 60,000 columns."""
    slices = make_series(voxels(3, 64, 64))
    for one in slices:
        one.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
        size = one.PixelData.index(b"\xff\x4f\xff\x51") + 12
        changed = (60_000).to_bytes(4, "big")
        one.PixelData = one.PixelData[:size] + changed + one.PixelData[size + 4 :]
    save_series(slices, tmp_path)
    with pytest.raises(StudyError, match="the pixels of an image file are damaged"):
        load(tmp_path)


def test_what_decodes_pixels_is_named_where_it_is_missing(tmp_path, monkeypatch):
    slices = make_series(voxels())
    for one in slices:
        one.compress(uid.RLELossless)
    save_series(slices, tmp_path)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(StudyError, match=r"^series 1: the package SimpleITK is missing\. Install"):
        read_study([tmp_path], case="a", num_channels=1)
