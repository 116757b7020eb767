import json
from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import is_manifest, load_manifest

SHIPPED = sorted((Path(__file__).parents[2] / "data_manifests").glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.yaml", "no.yaml: there is no such file or folder. Check the path"),
        (
            "folder",
            "folder: the folder has no dataset.json. Name a folder that has one, or a .yaml",
        ),
        ("scan.txt", r"scan.txt: .txt is no manifest's suffix\. Use .yaml, .csv or .json"),
        ("scan", "scan: no suffix is no manifest's suffix"),
    ],
)
def test_what_is_no_manifest_is_refused(write_text, tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    for file in ("scan.txt", "scan"):
        write_text(file, "")
    with pytest.raises(ManifestError, match=message):
        load_manifest(tmp_path / name)


def test_a_bids_folder_is_called_studies_to_segment(write_text, tmp_path):
    write_text("bids/dataset_description.json", '{"BIDSVersion": "1.8.0"}')
    with pytest.raises(ManifestError, match=r"studies to segment.*[Tt]raining needs a manifest"):
        load_manifest(tmp_path / "bids")


def test_images_need_not_exist(write_text):
    assert not load_manifest(write_text("a.csv", "image\nnone.nii\n")).cases[0].images[0].exists()


def test_a_shipped_manifest_reads_its_data(shared_data):
    (path,) = SHIPPED
    manifest = load_manifest(path, shared_data / "Task04_Hippocampus")
    assert manifest.labels == {"anterior": 1, "posterior": 2}
    assert manifest.channels[0].modality == "MR"
    assert len(manifest.cases) == 200


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_manifest_asks_for_its_data(path, tmp_path):
    assert path.suffix == ".yaml"
    with pytest.raises(ManifestError, match=r"dataset.json does not exist\. .*data.root=FOLDER"):
        load_manifest(path, tmp_path)


def test_what_counts_as_a_manifest(tmp_path):
    assert is_manifest(tmp_path / "cases.csv")
    assert is_manifest(tmp_path / "dataset.json")
    assert not is_manifest(tmp_path / "scan.nii.gz")
    assert not is_manifest(tmp_path)
    (tmp_path / "dataset.json").touch()
    assert is_manifest(tmp_path)


@pytest.mark.parametrize(
    ("channel", "label", "message"),
    [
        ("\x1b[31mCT", "organ", r"channel '\\x1b\[31mCT' is no name\. Use 1 to 255 letters"),
        ("CT", "\u202eorgan", r"label '\\u202eorgan' is no name"),
        ("CT", "x" * 1000, r"label 'x{97}\.\.\.' is no name"),
    ],
)
def test_names_have_characters_that_are_seen(tmp_path, channel, label, message):
    path = tmp_path / "dataset.json"
    case = {"image": "a.nii.gz", "label": "b.nii.gz"}
    content = {"modality": {"0": channel}, "labels": {"0": "background", "1": label}}
    path.write_text(json.dumps({**content, "training": [case]}))
    with pytest.raises(ManifestError, match=message):
        load_manifest(path)
