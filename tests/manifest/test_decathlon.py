import json

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Channel, load_manifest

# As the Decathlon's own files are, shortened.
PROSTATE = {
    "name": "PROSTATE",
    "description": "Prostate transitional zone and peripheral zone segmentation",
    "reference": "Radboud University, Nijmegen Medical Centre",
    "licence": "CC-BY-SA 4.0",
    "relase": "1.0 04/05/2018",
    "tensorImageSize": "4D",
    "modality": {"0": "T2", "1": "ADC"},
    "labels": {"0": "background", "1": "PZ", "2": "TZ"},
    "numTraining": 2,
    "numTest": 1,
    "training": [
        {"image": "./imagesTr/prostate_16.nii.gz", "label": "./labelsTr/prostate_16.nii.gz"},
        {"image": "./imagesTr/._prostate_16.nii.gz", "label": "./labelsTr/._prostate_16.nii.gz"},
        {"image": "./imagesTr/prostate_04.nii.gz", "label": "./labelsTr/prostate_04.nii.gz"},
    ],
    "test": ["./imagesTs/prostate_08.nii.gz"],
}


def test_a_decathlon_file_is_read_as_it_is(write_json, tmp_path):
    manifest = load_manifest(write_json(PROSTATE))
    assert manifest.path == tmp_path / "dataset.json"
    assert manifest.name == "PROSTATE"
    assert manifest.origin == "Radboud University, Nijmegen Medical Centre"
    assert manifest.licence == "CC-BY-SA 4.0"
    assert manifest.channels == (Channel("T2", "MR"), Channel("ADC", "MR"))
    assert manifest.labels == {"PZ": 1, "TZ": 2}
    assert [case.name for case in manifest.cases] == ["prostate_16", "prostate_04", "prostate_08"]
    assert [case.split for case in manifest.cases] == [None, None, "test"]
    first, _, test = manifest.cases
    assert first.images == (tmp_path / "imagesTr/prostate_16.nii.gz",)
    assert first.label == tmp_path / "labelsTr/prostate_16.nii.gz"
    assert first.subject == "prostate_16"
    assert test.label is None


def test_the_folder_stands_for_its_file(write_json, tmp_path):
    assert load_manifest(tmp_path / write_json(PROSTATE).parent) == load_manifest(
        tmp_path / "dataset.json"
    )


def test_root_says_where_the_images_are(write_json, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    manifest = load_manifest(write_json(PROSTATE), tmp_path / "elsewhere")
    assert manifest.cases[0].images[0] == tmp_path / "elsewhere/imagesTr/prostate_16.nii.gz"


def test_channels_follow_their_numbers_not_their_order(write_json):
    modality = {str(n): f"c{n}" for n in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    manifest = load_manifest(write_json({**PROSTATE, "modality": modality}))
    assert [channel.name for channel in manifest.channels] == [f"c{n}" for n in range(11)]


def test_a_validation_list_decides_the_split(write_json):
    # MONAI's data lists may have one.
    entries = [{"image": ["v_0000.nii.gz", "v_0001.nii.gz"], "label": "v.nii.gz"}]
    manifest = load_manifest(write_json({**PROSTATE, "validation": entries, "test": []}))
    assert [(case.name, case.split) for case in manifest.cases] == [
        ("prostate_16", "train"),
        ("prostate_04", "train"),
        ("v", "validation"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": [], "test": []}, "dataset.json: no case is listed"),
        ({"modality": {}}, "dataset.json: 'modality' is {}"),
        ({"labels": {"background": 0, "PZ": 1}}, "names and values are swapped.* VALUE: NAME"),
        ({"modality": {"T2": "0"}}, "modality: numbers and names are swapped"),
        ({"labels": {"one": "PZ"}}, "dataset.json: labels: key 'one' is not a number"),
        ({"labels": {"1": "PZ", "01": "TZ"}}, "labels 'PZ' and 'TZ' both have the value 1"),
        ({"training": [{"label": "a.nii.gz"}]}, r"key 'training.0.image\S* is missing\. Add it"),
        (
            {"training": [{"image": "a/x.nii.gz"}, {"image": "b/x.nii.gz"}]},
            r"training\[1\]: case name 'x' is taken already, by .*training\[0\]",
        ),
        ({"training": [{"image": []}]}, r"training\[0\]: no image file is named"),
        ({"test": [""]}, r"test\[0\]: no image file is named"),
    ],
)
def test_what_does_not_hold_is_refused(write_json, changes, message):
    with pytest.raises(ManifestError, match=message):
        load_manifest(write_json({**PROSTATE, **changes}))


def test_without_modality_the_file_is_refused(write_json):
    data = {key: value for key, value in PROSTATE.items() if key != "modality"}
    with pytest.raises(ManifestError, match=r"dataset.json: key 'modality' is missing\. Add it"):
        load_manifest(write_json(data))


def test_the_real_file_is_read(shared_data):
    manifest = load_manifest(shared_data / "Task04_Hippocampus")
    assert len(manifest.cases) == 200
    assert manifest.channels == (Channel("MRI", "MR"),)
    assert manifest.labels == {"Anterior": 1, "Posterior": 2}
    assert all(path.is_file() for case in manifest.cases for path in (*case.images, case.label))


def test_a_number_that_no_channel_has_is_refused(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"modality": {"9" * 5000: "CT"}, "training": []}))
    with pytest.raises(ManifestError, match=r"key '9{97}\.\.\.' is not a number"):
        load_manifest(path)
