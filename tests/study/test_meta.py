"""MetaImage is understood as ITK does, which reads all generated files too."""

import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StudyError
from pipeline.study import open_volume
from tests.study.test_nrrd import angle, coordinate, itk_affine, length

SHAPE = (3, 4, 5)
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
FIELDS = {
    "ObjectType": "Image",
    "NDims": "3",
    "DimSize": "3 4 5",
    "ElementType": "MET_SHORT",
    "ElementSpacing": "1 1 2",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
}
VOXELS = np.arange(60, dtype="<i2").reshape(SHAPE)
DATA = VOXELS.tobytes(order="F")


def written(fields):
    return "".join(f"{name} = {value}\n" for name, value in fields.items())


@st.composite
def headers(draw):
    """Return the fields of a header that ITK reads, and the voxels as they are in the file."""
    name = draw(st.sampled_from(sorted(TYPES)))
    is_big = draw(st.booleans())
    dtype = np.dtype(TYPES[name]).newbyteorder(">" if is_big else "<")
    data = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype).tobytes(order="F")
    matrix = nib.eulerangles.euler2mat(draw(angle), draw(angle), draw(angle))
    matrix = matrix[draw(st.permutations(range(3)))]
    of_matrix = draw(st.sampled_from(["TransformMatrix", "Rotation", "Orientation"]))
    of_offset = draw(st.sampled_from(["Offset", "Position", "Origin"]))
    of_order = draw(st.sampled_from(["ElementByteOrderMSB", "BinaryDataByteOrderMSB"]))
    fields = {
        "NDims": "3",
        "BinaryData": draw(st.sampled_from(["True", "true", "1"])),
        of_order: str(is_big),
        of_matrix: " ".join(repr(float(x)) for x in matrix.ravel()),
        of_offset: " ".join(repr(draw(coordinate)) for _ in range(3)),
        draw(st.sampled_from(["ElementSpacing", "ElementSize"])): " ".join(
            repr(draw(length)) for _ in range(3)
        ),
        "DimSize": "3 4 5",
        "Comment": "ElementDataFile = elsewhere",
        "ElementType": name,
    }
    if draw(st.booleans()):
        data = zlib.compress(data)
        fields |= {"CompressedData": "True", "CompressedDataSize": str(len(data))}
    elif draw(st.booleans()):
        data = b"12345" + data
        fields["HeaderSize"] = "-1"
    return fields, data


@settings(max_examples=60, deadline=None)
@given(headers(), st.booleans(), st.sampled_from([" = ", "=", "\t=  "]))
def test_all_is_as_itk_reads_it_to_the_last_bit(tmp_path_factory, header, detached, between):
    fields, data = header
    folder = tmp_path_factory.mktemp("meta")
    path = folder / ("a.mhd" if detached else "a.mha")
    fields = {**fields, "ElementDataFile": "a.zraw" if detached else "LOCAL"}
    text = "".join(f"{name}{between}{value}\n" for name, value in fields.items()).encode()
    (folder / "a.zraw").write_bytes(data)
    path.write_bytes(text + (b"" if detached else data))
    voxels, affine = itk_affine(path)
    file = open_volume(path)
    np.testing.assert_array_equal(file.load()[..., 0], voxels)
    np.testing.assert_array_equal(file.affine, affine)
    assert file.warnings == ()


@pytest.fixture
def write(tmp_path):
    def write(fields, last="ElementDataFile = LOCAL\n", data=DATA):
        (tmp_path / "a.mha").write_bytes((written(fields) + last).encode() + data)
        return tmp_path / "a.mha"

    return write


def test_fields_of_others_say_nothing(write):
    """SimpleITK writes all that a DICOM or NIfTI file says, on several lines if need be."""
    image = SimpleITK.GetImageFromArray(VOXELS.T)
    others = {"0010|0010": "X^\x1b$B", "dim[0]": "3", "with space": "a\nline: = b", "ü": "a: b=c"}
    for key, value in others.items():
        image.SetMetaData(key, value)
    path = write({}).with_name("b.mha")
    SimpleITK.WriteImage(image, str(path))
    assert b"line: = b" in path.read_bytes()
    file = open_volume(path)
    np.testing.assert_array_equal(file.load()[..., 0], VOXELS)
    assert file.warnings == ()
    SimpleITK.WriteImage(image, str(path.with_name("b.nrrd")))
    np.testing.assert_array_equal(open_volume(path.with_name("b.nrrd")).load()[..., 0], VOXELS)


def test_a_header_size_counts_from_the_start_of_the_file(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"1234567" + VOXELS.tobytes(order="F") + b"more")
    text = written({**FIELDS, "HeaderSize": "7"}) + "ElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(text)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.mhd").load()[..., 0], VOXELS)
    np.testing.assert_array_equal(itk_affine(tmp_path / "a.mhd")[0], VOXELS)


def test_a_negative_spacing_turns_the_axis_as_in_itk(write):
    path = write({**FIELDS, "ElementSpacing": "1 -1 2"})
    np.testing.assert_array_equal(open_volume(path).affine, itk_affine(path)[1])


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"ElementSpacing": "1 nan 2"}, "affine holds values that are not finite"),
        ({"ElementSpacing": "1 inf 2"}, "affine holds values that are not finite"),
        ({"ElementSpacing": "1 1e300 2"}, r"affine holds 1e\+300 mm"),
        ({"ElementSpacing": "1 0 2"}, "affine has spacing"),
        ({"ElementSpacing": "1 1"}, "ElementSpacing in the header is not 3 numbers"),
        ({"ElementSpacing": "1 1 x"}, "ElementSpacing in the header is not 3 numbers"),
        ({"DistanceUnits": "um"}, "DistanceUnits of the header says micron"),
        ({"DistanceUnits": "cm"}, "DistanceUnits of the header says centimetre"),
        ({"ObjectType": "Tube"}, "ObjectType in the header is not Image"),
        ({"BinaryData": "False"}, r"voxels are stored as text\. Convert"),
        ({"CompressedData": "yes"}, "CompressedData in the header is neither True nor False"),
        ({"Offset": "0 0 0", "Origin": "0 0 1"}, "Offset and Origin .* mean the same but differ"),
        ({"ElementNumberOfChannels": "3"}, "not plain numbers"),
        ({"ElementType": "MET_FLOAT_ARRAY"}, "not plain numbers"),
        ({"ElementType": "MET_STRING"}, "ElementType in the header is none of plain numbers"),
        ({"NDims": "99"}, "NDims in the header is 99"),
        ({"HeaderSize": "-2"}, "HeaderSize in the header is negative"),
        ({"HeaderSize": "-1", "CompressedData": "True"}, "HeaderSize in the header is negative"),
        ({"compresseddata": "True"}, "line 7 of the header is no field in its canonical form"),
        ({" CompressedData": "True"}, "line 7 of the header"),
        ({"CompressedData : True\nModality": "x"}, "line 7 of the header"),
        ({"Comment": "a\rDimSize = 9 9 9"}, "line 7 of the header"),
        ({"Offset": "0 0 0\rDimSize = 9 9 9"}, "Offset in the header has control characters"),
        ({"# CompressedData": "True"}, "line 7 of the header"),
        ({"Comment": "\0"}, "header has a NUL"),
        ({"Offset": "0 0 0\a"}, "Offset in the header has control characters"),
        ({"DimSize": "3 4"}, "DimSize in the header is not 3 whole number"),
        ({"CompressedData": "True", "CompressedDataSize": "9999"}, "promises 9999 bytes"),
        ({"CompressedData": "True"}, "compressed data are damaged"),
    ],
)
def test_what_cannot_be_trusted_is_refused(write, changed, found):
    with pytest.raises(StudyError, match=rf"^a\.mha: .*{found}"):
        open_volume(write({**FIELDS, **changed})).load()
    for name in ("DimSize", "ElementType", "NDims"):
        fields = {key: value for key, value in FIELDS.items() if key != name}
        with pytest.raises(StudyError, match=f"header lacks {name}"):
            open_volume(write(fields))


def test_a_field_that_is_given_twice_is_refused_unless_it_says_the_same(write):
    with pytest.raises(StudyError, match="header gives DimSize twice"):
        open_volume(write(FIELDS, "DimSize = 3 4 5\nElementDataFile = LOCAL\n"))
    open_volume(write({**FIELDS, "Offset": "0 0 0", "Origin": "0  0 0"}))


def test_a_stream_that_holds_more_than_its_voxels_is_refused(write):
    """ITK returns memory that was never written for these."""
    fields = {**FIELDS, "CompressedData": "True"}
    data = zlib.compress(VOXELS.tobytes(order="F"))
    np.testing.assert_array_equal(
        open_volume(write(fields, data=data + b"x")).load()[..., 0], VOXELS
    )
    more = zlib.compress(VOXELS.tobytes(order="F") + b"xx")
    with pytest.raises(StudyError, match="damaged, or more than the header promises"):
        open_volume(write(fields, data=more)).load()


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"ElementSpacing": None}, "header gives no spacing; 1 mm is taken"),
        ({"TransformMatrix": None}, "orientation unknown"),
        ({"ElementSize": "1 1 5"}, "voxels are 5 mm thick along K by ElementSize, but lie 2 mm"),
        (
            {"TransformMatrix": "2 0 0 0 1 0 0 0 1"},
            "1 x 1 x 2 mm by ElementSpacing, but",
        ),
        ({"ElementToIntensityFunctionSlope": "2"}, "it is not applied"),
        ({"DistanceUnits": "ell"}, "no known unit"),
    ],
)
def test_what_is_odd_is_told(write, changed, found):
    fields = {key: value for key, value in {**FIELDS, **changed}.items() if value is not None}
    (warning,) = open_volume(write(fields)).warnings
    assert found in warning
