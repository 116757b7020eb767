"""No form of manifest may name a file elsewhere, whichever way, unless that is allowed."""

import json

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import load_manifest
from pipeline.manifest.rules import DataFolder

OUTSIDE = ["../secret.nii", "images/../../secret.nii", "/etc/passwd", "link/secret.nii", "link.nii"]


@pytest.fixture
def folder(tmp_path):
    """A data set, with a link to a folder outside and one to a file outside."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "secret.nii").write_bytes(b"x")
    (tmp_path / "set" / "link").symlink_to(tmp_path)
    (tmp_path / "set" / "link.nii").symlink_to(tmp_path / "secret.nii")
    return tmp_path / "set"


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_leads_out_is_refused(folder, name):
    with pytest.raises(ManifestError, match=r"^list\.csv:7: a path leads out .*--allow-outside"):
        DataFolder(folder).locate(name, "list.csv:7")
    assert DataFolder(folder, allow_outside=True).locate(name, "") == folder / name


@pytest.mark.parametrize("name", ["a.nii", "images/a.nii", "images/../a.nii", "./a.nii"])
def test_what_stays_inside_is_as_it_was(folder, name):
    assert DataFolder(folder).locate(name, "") == folder / name
    assert DataFolder(folder).locate(str(folder / name), "") == folder / name


def test_links_that_stay_inside_are_followed(folder, tmp_path):
    (folder / "images" / "b.nii").symlink_to(folder / "a.nii")
    assert DataFolder(folder).locate("images/b.nii", "") == folder / "images" / "b.nii"
    (tmp_path / "elsewhere").symlink_to(folder)
    through_link = DataFolder(tmp_path / "elsewhere")
    assert through_link.locate(str(folder / "a.nii"), "") == folder / "a.nii"


def test_a_relative_folder_will_do(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    place = DataFolder(folder.relative_to(folder.parent))
    assert place.locate(str(folder / "a.nii"), "") == folder / "a.nii"
    with pytest.raises(ManifestError, match="leads out"):
        place.locate("../secret.nii", "")


@pytest.mark.parametrize("name", ["circle/a.nii", "a\x00b.nii"])
def test_names_that_lead_nowhere_are_refused(folder, name):
    (folder / "circle").symlink_to(folder / "circle")
    with pytest.raises(ManifestError, match="leads out"):
        DataFolder(folder).locate(name, "")


def write_csv(folder, image, label):
    (folder / "list.csv").write_text(f"image,label\nimages/first.nii,\n{image},{label}\n")
    return folder / "list.csv", r"list\.csv:3: a path leads out"


def write_yaml(folder, image, label):
    write_csv(folder, image, label)
    text = "name: x\nchannels: [{name: T1, modality: MR}]\nlabels: {a: 1}\ncases: list.csv\n"
    (folder / "x.yaml").write_text(text)
    return folder / "x.yaml", r"list\.csv:3: a path leads out"


def write_decathlon(folder, image, label):
    data = {"modality": {"0": "MR"}, "training": [{"image": image, "label": label}]}
    (folder / "dataset.json").write_text(json.dumps(data))
    return folder, r"dataset\.json: training\[0\]: a path leads out"


def write_nnunet(folder, image, label):
    data = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "a": 1},
        "file_ending": ".nii",
        "dataset": {"p": {"images": [image], "label": label}},
    }
    (folder / "dataset.json").write_text(json.dumps(data))
    return folder, r"dataset\.json: dataset\.p: a path leads out"


@pytest.mark.parametrize("write", [write_csv, write_yaml, write_decathlon, write_nnunet])
@pytest.mark.parametrize(
    ("image", "label"),
    [(OUTSIDE[0], "l.nii"), ("a.nii", OUTSIDE[0]), (OUTSIDE[2], "l.nii"), (OUTSIDE[4], "l.nii")],
)
def test_every_form_names_the_row(folder, write, image, label):
    path, message = write(folder, image, label)
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(path)
    assert "passwd" not in str(caught.value)
    case = load_manifest(path, allow_outside=True).cases[-1]
    assert case.images == (folder / image,)
    assert case.label == folder / label


def test_links_in_a_raw_folder_are_paths_too(folder, tmp_path):
    write_nnunet(folder, "", "")
    data = json.loads((folder / "dataset.json").read_text())
    del data["dataset"]
    (folder / "dataset.json").write_text(json.dumps(data))
    (folder / "imagesTr").mkdir()
    (folder / "imagesTr" / "p_0000.nii").symlink_to(tmp_path / "secret.nii")
    with pytest.raises(ManifestError, match=r"p_0000\.nii: a path leads out"):
        load_manifest(folder)
    assert len(load_manifest(folder, allow_outside=True).cases) == 1


def test_a_manifest_cannot_permit_itself(folder):
    """Only the user can: a permission by the side that is guarded against is none."""
    path, message = write_yaml(folder, "../secret.nii", "")
    path.write_text(path.read_text() + "allow_outside: true\n")
    with pytest.raises(ManifestError, match=f"{message}.*permit this: --allow-outside"):
        load_manifest(path)
    images = load_manifest(path, allow_outside=True).cases[-1].images
    assert images == (folder / "../secret.nii",)


@pytest.mark.parametrize("root", ["/", "..", "../other", "link", "images/../.."])
def test_a_root_that_leads_out_needs_permission(folder, tmp_path, root):
    (tmp_path / "other").mkdir()
    path, _ = write_yaml(folder, "a.nii", "")
    path.write_text(f"{path.read_text()}root: {root}\n")
    with pytest.raises(ManifestError, match=r"x\.yaml: root: a path leads out .*--allow-outside"):
        load_manifest(path)
    assert load_manifest(path, allow_outside=True).cases[-1].images == (folder / root / "a.nii",)
    assert load_manifest(path, tmp_path).cases[-1].images == (tmp_path / "a.nii",)


def test_the_list_of_cases_is_no_file_elsewhere(folder, tmp_path):
    path, _ = write_yaml(folder, "a.nii", "")
    (folder / "list.csv").rename(tmp_path / "list.csv")
    path.write_text(path.read_text().replace("list.csv", "../list.csv"))
    with pytest.raises(ManifestError, match=r"x\.yaml: cases: a path leads out"):
        load_manifest(path)
    assert load_manifest(path, allow_outside=True).cases[-1].images == (folder / "a.nii",)


def test_another_root_makes_room(folder, tmp_path):
    path, _ = write_csv(folder, str(tmp_path / "secret.nii"), "")
    assert load_manifest(path, tmp_path).cases[-1].images == (tmp_path / "secret.nii",)
