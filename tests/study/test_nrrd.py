"""NRRD is understood as ITK does, which reads all generated files too."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StudyError
from pipeline.study import open_volume

SHAPE = (3, 4, 5)
TYPES = {
    "signed char": "i1", "uint8": "u1", "short": "i2", "unsigned short int": "u2", "int32_t": "i4",
    "uint": "u4", "longlong": "i8", "uint64": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
SPACES = ("left-posterior-superior", "RAS", "left-anterior-superior", "LPS", "scanner-xyz")
length = st.floats(0.1, 9, allow_subnormal=False)
coordinate = st.floats(-500, 500, allow_subnormal=False)
angle = st.floats(-3, 3)

HEAD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 3 4 5\nendian: little\nencoding: raw\n"
VOXELS = np.arange(60, dtype="<i2").reshape(SHAPE)
DATA = VOXELS.tobytes(order="F")


def itk_affine(path):
    """Return voxels and affine by SimpleITK alone, as float32 NIfTI fields hold the latter."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    n = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:2] *= -1
    return SimpleITK.GetArrayFromImage(image).T, (affine + 0.0).astype(np.float32)


@st.composite
def headers(draw):
    """Return the fields of a header that ITK reads, and the voxels as they are in the file."""
    name = draw(st.sampled_from(sorted(TYPES)))
    order = draw(st.sampled_from(["little", "big"]))
    dtype = np.dtype(TYPES[name]).newbyteorder("<" if order == "little" else ">")
    data = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype).tobytes(order="F")
    vectors = nib.eulerangles.euler2mat(draw(angle), draw(angle), draw(angle))
    vectors = vectors * [draw(length) for _ in range(3)]
    vectors = vectors[:, draw(st.permutations(range(3)))]
    written = ["(" + ",".join(repr(float(x)) for x in column) + ")" for column in vectors.T]
    fields = {"type": name, "dimension": "3", "space": draw(st.sampled_from(SPACES))}
    fields |= {"sizes": "3 4 5", "space directions": " ".join(written), "endian": order}
    fields["encoding"] = draw(st.sampled_from(["raw", "gzip", "gz"]))
    if draw(st.booleans()):
        fields["kinds"] = draw(st.sampled_from(["domain domain domain", "space space space"]))
    if draw(st.booleans()):
        fields["space origin"] = "(" + ",".join(repr(draw(coordinate)) for _ in range(3)) + ")"
    lines, skipped = draw(st.integers(0, 2)), draw(st.integers(0, 3))
    if lines:
        fields["line skip"] = str(lines)
    if skipped:
        fields["byte skip"] = str(skipped)
    if fields["encoding"] == "raw":
        data = b"\n" * lines + bytes(skipped) + data
        if draw(st.booleans()):
            fields["byte skip"] = "-1"
    else:
        data = b"\n" * lines + gzip.compress(bytes(skipped) + data)
    return fields, data


@settings(max_examples=60, deadline=None)
@given(headers(), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_all_is_as_itk_reads_it_to_the_last_bit(tmp_path_factory, header, detached, end):
    fields, data = header
    folder = tmp_path_factory.mktemp("nrrd")
    path = folder / ("a.nhdr" if detached else "a.nrrd")
    if detached:
        (folder / "a.raw").write_bytes(data)
        fields = {**fields, "data file": "a.raw"}
    text = f"NRRD0005{end}# a comment{end}key:=value: 1{end}"
    text += "".join(f"{name}: {value}{end}" for name, value in fields.items()) + end
    path.write_bytes(text.encode() + (b"" if detached else data))
    voxels, affine = itk_affine(path)
    file = open_volume(path)
    np.testing.assert_array_equal(file.load()[..., 0], voxels)
    np.testing.assert_array_equal(file.affine, affine)
    unknown = "orientation unknown, left and right cannot be told apart"
    assert file.warnings == ((unknown,) if fields["space"] == "scanner-xyz" else ())


@pytest.fixture
def write(tmp_path):
    def write(text, data=DATA, name="a.nrrd"):
        (tmp_path / name).write_bytes(text.encode() + b"\n" + data)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "more",
    [
        "spacings: 2 3 4\n",
        "spacings: 2 -3 4\n",
        "spacings: 2 3 4\naxis mins: 10 20 30\n",
        "spacings: 2 3 4\naxis mins: 10 20 30\ncenters: node node node\n",
        "space: RAS\nspace origin: (1,2,3)\n",
        "spacings: 2 nan 4\n",
        "sizes:=9 9 9\ndata file:=elsewhere\ncolour:=type: float\nkey:=\n",
        "SPACE: RAS\nspacedirections: (1, 0, 0) (0, 2, 0) (0, 0, 3)\nSpace Origin: (1, 2, 3)\n",
        "space dimension: 3\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n",
        "space: LPS\nspacings: nan nan nan\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n",
    ],
)
def test_rarer_ways_to_place_voxels_are_as_in_itk(write, more):
    text = HEAD + more
    if "spacings: nan" in more:
        with pytest.raises(StudyError):
            open_volume(write(text.replace("nan nan nan", "1 2 3")))
    path = write(text)
    voxels, affine = itk_affine(path)
    file = open_volume(path)
    np.testing.assert_array_equal(file.load()[..., 0], voxels)
    np.testing.assert_array_equal(file.affine, affine)


def test_four_dimensions_are_volumes(write):
    data = np.arange(120, dtype="<i2").reshape(*SHAPE, 2)
    head = HEAD.replace("dimension: 3", "dimension: 4").replace("3 4 5", "3 4 5 2")
    for more in (
        "space: RAS\nspace directions: (2,0,0) (0,3,0) (0,0,4) none\n"
        "kinds: domain domain domain list\n",
        "space: RAST\nspace directions: (2,0,0,0) (0,3,0,0) (0,0,4,0) (0,0,0,1)\n",
    ):
        file = open_volume(write(head + more, data.tobytes(order="F")))
        np.testing.assert_array_equal(file.load(), data)
        np.testing.assert_array_equal(file.affine, np.diag([2, 3, 4, 1]))
    odd = "space: RAST\nspace directions: (2,0,0,1) (0,3,0,0) (0,0,4,0) (0,0,0,1)\n"
    with pytest.raises(StudyError, match="mixes space and time"):
        open_volume(write(head + odd, data.tobytes(order="F")))


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("space: LPS\nspace: RAS\n", "header gives space twice"),
        ("space: LPS\nSPACE: RAS\n", "header gives space twice"),
        ("space: LPS\nspace dimension: 3\n", "space in the header is given twice"),
        ("space directions: (1,0,0) (0,1,0) (0,0,1)\n", "has no space to be in"),
        ("space: LPS\nspacings: 1 1 1\n", "stands beside a space"),
        ("space: upside-down\n", "space in the header is none that is known"),
        ('space: LPS\nspace units: "um" "um" "um"\n', "space units of the header says micron"),
        ("byte skip: -2\n", "is negative"),
        ("line skip: 99999999999\n", "more lines than a megabyte"),
        ("colour: red\n", "line 7 of the header is no field in its canonical form"),
        (" space: LPS\n", "line 7 of the header"),
        ("space:LPS\n", "line 7 of the header"),
        ("content: a\rspace: LPS\n", "carriage return alone"),
        ("content: \0\n", "header has a NUL"),
        ("content: \a\n", "content in the header has control char"),
        ("axis mins: 1 2 3\n", "without spacings"),
    ],
)  # fmt: skip
def test_what_two_programs_could_read_in_two_ways_is_refused(write, more, found):
    with pytest.raises(StudyError, match=rf"^a\.nrrd: .*{found}"):
        open_volume(write(HEAD + more))


def test_what_is_odd_about_spacing_is_told(write):
    text = HEAD + "space: LPS\n"
    assert "header gives no spacing; 1 mm is taken" in open_volume(write(text)).warnings
    text += "space directions: (1,0,0) (0,1,0) (0,0,2)\n"
    assert open_volume(write(text + 'space units: "mm" "mm" "mm"\n')).warnings == ()
    (warning,) = open_volume(write(text + "thicknesses: nan nan 5\n")).warnings
    assert warning == "voxels are 5 mm thick along K by thicknesses, but lie 2 mm apart"
