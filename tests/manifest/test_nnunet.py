import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Channel, Region, load_manifest

BRAIN = {
    "channel_names": {"0": "FLAIR", "1": "T1w"},
    "labels": {"background": 0, "edema": 1, "tumour": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": "SimpleITKIO",
    "license": "CC-BY-SA 4.0",
}
FILES = [
    "imagesTr/BRATS_002_0001.nii.gz",
    "imagesTr/BRATS_002_0000.nii.gz",
    "imagesTr/BRATS_001_0000.nii.gz",
    "imagesTr/BRATS_001_0001.nii.gz",
    "imagesTr/._BRATS_001_0001.nii.gz",
    "imagesTr/.DS_Store",
    "imagesTr/notes.txt",
    "labelsTr/BRATS_001.nii.gz",
    "labelsTr/BRATS_002.nii.gz",
    "imagesTs/BRATS_485_0000.nii.gz",
    "imagesTs/BRATS_485_0001.nii.gz",
]


@pytest.fixture
def raw(write_json, write_text, tmp_path):
    """Write a raw folder with empty image files; return it."""

    def write(changes=None, files=FILES):
        for file in files:
            write_text(file, "")
        write_json({**BRAIN, **(changes or {})})
        return tmp_path

    return write


def test_a_raw_folder_is_read_as_it_is(raw, tmp_path):
    manifest = load_manifest(raw())
    assert manifest.name == tmp_path.name
    assert manifest.licence == "CC-BY-SA 4.0"
    assert manifest.channels == (Channel("FLAIR", "MR"), Channel("T1w", "MR"))
    assert manifest.labels == {"edema": 1, "tumour": 2}
    assert [(case.name, case.split) for case in manifest.cases] == [
        ("BRATS_001", None),
        ("BRATS_002", None),
        ("BRATS_485", "test"),
    ]
    images = tmp_path / "imagesTr"
    assert manifest.cases[1].images == (
        images / "BRATS_002_0000.nii.gz",
        images / "BRATS_002_0001.nii.gz",
    )
    assert manifest.cases[1].label == tmp_path / "labelsTr/BRATS_002.nii.gz"
    assert manifest.cases[2].label is None


def test_regions_and_the_ignored_value_are_read(raw):
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    manifest = load_manifest(raw({"labels": labels, "regions_class_order": [1, 2]}))
    assert manifest.labels == {"label 1": 1, "core": 2}
    assert manifest.regions == (
        Region("whole", ("label 1", "core"), "label 1"),
        Region("core", ("core",), "core"),
    )
    assert manifest.ignore_value == 3


def test_test_cases_may_have_labels(raw, tmp_path):
    manifest = load_manifest(raw(files=[*FILES, "labelsTs/BRATS_485.nii.gz"]))
    assert manifest.cases[2].label == tmp_path / "labelsTs/BRATS_485.nii.gz"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CT", Channel("CT", "CT", "ct")),
        ("ct", Channel("ct", "CT", "ct")),
        ("noNorm", Channel("noNorm", "other", "none")),
        ("nonorm", Channel("nonorm", "other", "none")),
        ("zscore", Channel("zscore", "other", "zscore")),
        ("rescale_to_0_1", Channel("rescale_to_0_1", "other", "rescale_0_1")),
        ("rgb_to_0_1", Channel("rgb_to_0_1", "other", "rgb_0_1")),
        ("PET", Channel("PET", "other")),
        ("CT venous", Channel("CT venous", "CT", "zscore")),
    ],
)
def test_names_of_channels_mean_what_they_mean_to_nnunet(raw, name, expected):
    channels = load_manifest(raw({"channel_names": {"0": name, "1": "T1w"}})).channels
    assert channels == (expected, Channel("T1w", "MR"))
    assert Channel("PET", "other").scheme == "zscore"


def test_a_missing_channel_or_label_is_left_to_the_check(raw):
    files = [file for file in FILES if file not in ("imagesTr/BRATS_001_0000.nii.gz", FILES[7])]
    first = load_manifest(raw(files=files)).cases[0]
    assert [image.is_file() for image in first.images] == [False, True]
    assert not first.label.is_file()


def test_the_key_dataset_names_the_files(raw, tmp_path):
    dataset = {
        "a": {"images": ["x/a_f.nii.gz", "x/a_t.nii.gz"], "label": "y/a.nii.gz"},
        "b": {"images": ["x/b_f.nii.gz", str(tmp_path / "x/b_t.nii.gz")], "label": "y/b.nii.gz"},
    }
    manifest = load_manifest(raw({"dataset": dataset}, files=[]))
    assert [case.name for case in manifest.cases] == ["a", "b"]
    assert manifest.cases[0].images == (tmp_path / "x/a_f.nii.gz", tmp_path / "x/a_t.nii.gz")
    assert manifest.cases[1].images[1] == tmp_path / "x/b_t.nii.gz"
    assert manifest.cases[0].label == tmp_path / "y/a.nii.gz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}},
            "dataset.json: regions_class_order: the key is missing, and there are 2 regions. List",
        ),
        ({"labels": {"a": 1, "b": 1}}, "labels 'a' and 'b' both have the value 1"),
        (
            {"channel_names": {"1": "FLAIR", "2": "T1w"}},
            "channel_names: channels are numbered 1, 2",
        ),
        (
            {"labels": {"0": "background", "1": "x"}},
            "labels: names and values are swapped .*nnU-Net v2 wants NAME: VALUE",
        ),
        (
            {"labels": {"background": "0", "x": "1"}},
            "label 'background' has the text '0'. Write the number 0",
        ),
        ({"labels": {"x": 1, "all": ["1", 2]}}, "label 'all' has the text '1'. Write the number"),
        ({"labels": ["background", "x"]}, "'labels' is .*should be keys and values"),
        ({"labels": {"x": None}}, "'labels.x' is nothing. It should be a whole number or a list"),
        ({"channel_names": {"T1": 0}}, "channel_names: numbers and names are swapped"),
        ({"channel_names": ["T1"]}, "'channel_names' is .*should be keys and values"),
        ({"file_ending": "nii.gz"}, "'file_ending' is 'nii.gz'"),
        ({"numTraining": 3}, "numTraining is 3, but imagesTr holds 2 cases. Copy the missing"),
        ({"channel_names": {"0": "FLAIR"}}, "BRATS_001_0001.nii.gz: the name does not end in one"),
        ({"dataset": {"a": {"images": ["x", "y", "z"], "label": "l"}}}, "dataset.a: 3 image files"),
    ],
)
def test_what_does_not_hold_is_refused(raw, changes, message):
    with pytest.raises(ManifestError, match=message):
        load_manifest(raw(changes))


def test_an_image_without_a_channel_number_is_refused(raw):
    with pytest.raises(ManifestError, match=r"x.nii.gz: the name .* Name images CASE_0000.nii.gz"):
        load_manifest(raw(files=[*FILES, "imagesTr/x.nii.gz"]))


def test_an_empty_folder_is_refused(raw):
    with pytest.raises(ManifestError, match="no case is listed"):
        load_manifest(raw({"numTraining": 0}, files=[]))
