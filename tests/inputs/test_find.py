import hashlib
import hmac
import json
import os
import re
import unicodedata
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, ManifestError
from pipeline.inputs import BidsChoice, DataRoot, DicomOptions, find_studies
from pipeline.study import SeriesRule, StudyInput
from tests.dicom_files import make_series, make_slice, save, save_series, voxels

OUT = Path("no_such_output")


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(inputs, *, num_channels=1, out=OUT):
    studies = find_studies(inputs, num_channels=num_channels, out=out)
    return {study.case: study for study in studies}


def test_a_file_is_one_study(tmp_path):
    touch(tmp_path / "scan.v2.nii.gz")
    path = tmp_path / "scan.v2.nii.gz"
    assert find_studies([path], num_channels=1, out=OUT) == [StudyInput("scan.v2", (path,))]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".NII.GZ"])
def test_a_folder_gives_its_volumes_and_those_below(tmp_path, suffix):
    touch(tmp_path / f"a{suffix}", tmp_path / "below" / "deep" / f"b{suffix}")
    touch(tmp_path / "notes.txt", tmp_path / "table.csv", tmp_path / "a.json")
    assert set(found([tmp_path])) == {"a", "b"}


def test_hidden_files_and_folders_are_skipped(tmp_path):
    touch(tmp_path / "a.nii", tmp_path / "._a.nii", tmp_path / ".cache" / "b.nii")
    assert set(found([tmp_path])) == {"a"}


def test_an_input_folder_below_a_hidden_one_is_searched(tmp_path):
    touch(tmp_path / ".store" / "a.nii")
    assert set(found([tmp_path / ".store"])) == {"a"}


def test_the_output_folder_is_skipped(tmp_path):
    touch(tmp_path / "a.nii", tmp_path / "out" / "a_seg.nii.gz", tmp_path / "output" / "b.nii")
    assert set(found([tmp_path], out=tmp_path / "out")) == {"a", "b"}


def test_an_input_folder_inside_the_output_folder_is_searched(tmp_path):
    touch(tmp_path / "images" / "a.nii")
    assert set(found([tmp_path / "images"], out=tmp_path)) == {"a"}


def test_a_folder_cannot_be_input_and_output(tmp_path):
    touch(tmp_path / "a.nii")
    with pytest.raises(ConfigError, match="choose another one with --out"):
        found([tmp_path], out=tmp_path)


def test_a_file_named_twice_is_one_study(tmp_path):
    touch(tmp_path / "a.nii")
    assert len(found([tmp_path, tmp_path / "a.nii", tmp_path / "a.nii"])) == 1


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.nii: there is no such file or folder"):
        found([tmp_path / "gone.nii"])


def test_a_folder_without_studies_is_named(tmp_path):
    touch(tmp_path / "empty" / "notes.txt")
    with pytest.raises(ConfigError, match=r"empty: no studies found in this folder\. Name volumes"):
        found([tmp_path / "empty"])


def test_channels_are_joined_in_order(tmp_path):
    paths = [tmp_path / f"p_000{index}.nii.gz" for index in range(2)]
    touch(*reversed(paths))
    assert found([tmp_path], num_channels=2) == {"p": StudyInput("p", tuple(paths))}
    assert found(list(reversed(paths)), num_channels=2) == {"p": StudyInput("p", tuple(paths))}


def test_a_lone_first_channel_loses_its_suffix(tmp_path):
    path = tmp_path / "p_0000.nii.gz"
    touch(path)
    assert found([tmp_path]) == {"p": StudyInput("p", (path,))}


def test_a_file_for_all_channels_is_passed_as_it_is(tmp_path):
    path = tmp_path / "p.nii.gz"
    touch(path)
    assert found([tmp_path], num_channels=4) == {"p": StudyInput("p", (path,))}


def test_numbers_without_a_zeroth_are_names(tmp_path):
    touch(*(tmp_path / f"BraTS_{year}.nii.gz" for year in ("0001", "0002", "2021")))
    assert set(found([tmp_path])) == {"BraTS_0001", "BraTS_0002", "BraTS_2021"}


@pytest.mark.parametrize(
    ("numbers", "num_channels"),
    [(("0000", "0001"), 1), (("0000", "0002"), 2), (("0000", "0001", "0002"), 2)],
)
def test_channels_that_do_not_fit_the_model_are_refused(tmp_path, numbers, num_channels):
    touch(*(tmp_path / f"p_{number}.nii" for number in numbers))
    (study,) = found([tmp_path], num_channels=num_channels).values()
    assert study.case == "p"
    assert len(study.sources) == len(numbers)
    expected = f"look like {len(numbers)} channels of one study, but the model takes _0000 to "
    assert expected in study.refusal


def test_two_files_for_one_channel_are_refused(tmp_path):
    touch(tmp_path / "p_0000.nii", tmp_path / "p_0000.nii.gz")
    assert "each once" in found([tmp_path], num_channels=2)["p"].refusal


def test_channels_of_equal_stems_in_other_folders_stay_apart(tmp_path):
    for folder in "ab":
        touch(tmp_path / folder / "p_0000.nii", tmp_path / folder / "p_0001.nii")
    studies = found([tmp_path], num_channels=2)
    assert len(studies) == 2
    assert {study.sources for study in studies.values()} == {
        (tmp_path / folder / "p_0000.nii", tmp_path / folder / "p_0001.nii") for folder in "ab"
    }


def test_names_that_differ_by_letter_case_only_are_told_apart(tmp_path):
    touch(tmp_path / "x" / "Scan.nii", tmp_path / "y" / "scan.nii", tmp_path / "y" / "other.nii")
    names = set(found([tmp_path]))
    assert "other" in names
    assert len({name.casefold() for name in names}) == 3


def test_names_that_look_the_same_are_told_apart(tmp_path):
    """An accent is one character or two; some file systems take both for one name."""
    touch(tmp_path / "x" / "caf\u00e9.nii", tmp_path / "y" / "cafe\u0301.nii")
    names = set(found([tmp_path]))
    assert len({unicodedata.normalize("NFC", name) for name in names}) == 2


def test_equal_names_in_one_folder_keep_their_suffix(tmp_path):
    touch(tmp_path / "scan.nii.gz", tmp_path / "scan.nrrd")
    assert set(found([tmp_path])) == {"scan_nii_gz", "scan_nrrd"}


def test_names_do_not_depend_on_the_order_of_inputs(tmp_path):
    paths = [tmp_path / "x" / "scan.nii", tmp_path / "y" / "scan.nii", tmp_path / "c.nii"]
    touch(*paths)
    assert found(paths) == found(paths[::-1])


def test_an_input_is_never_overwritten(tmp_path):
    touch(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz", tmp_path / "b.nii.gz")
    inputs = [tmp_path / name for name in ("a.nii.gz", "a_seg.nii.gz", "b.nii.gz")]
    studies = found(inputs, out=tmp_path)
    assert "would be overwritten" in studies["a_seg"].refusal
    assert "name of another input" in studies["a"].refusal
    assert studies["b"].refusal is None
    assert {study.refusal for study in found(inputs, out=tmp_path / "out").values()} == {None}


def test_a_mask_of_an_earlier_run_among_the_inputs_stops_no_study(tmp_path):
    """As `scans/*.nii.gz` names it, the second time."""
    touch(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz")
    record = tmp_path / ".trivox" / "written" / "a_seg.nii.gz.sha256"
    record.parent.mkdir(parents=True)
    record.write_text(hashlib.sha256(b"x").hexdigest())
    studies = found([tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz"], out=tmp_path)
    assert studies["a"].refusal is None
    assert "would be overwritten" in studies["a_seg"].refusal


def test_names_in_one_folder_that_differ_by_letter_case_only_are_told_apart(tmp_path):
    touch(*(tmp_path / name for name in ("scan.nii.gz", "Scan.nii.gz", "c.nii.gz")))
    names = set(found([tmp_path]))
    assert "c" in names
    assert len({name.casefold() for name in names}) == 3
    assert names == set(found(sorted(tmp_path.iterdir(), reverse=True)))


@pytest.mark.parametrize("suffix", [".hdr", ".mgz", ".gipl", ".nii.bz2"])
def test_what_is_read_by_now_takes_no_name_from_what_was_read_before(tmp_path, suffix):
    touch(tmp_path / "scan.nii.gz", tmp_path / f"scan{suffix}")
    names = set(found([tmp_path]))
    assert "scan" in names
    assert len(names) == 2


@pytest.mark.parametrize(("length", "is_refused"), [(244, False), (245, True), (248, True)])
def test_a_name_that_no_output_can_have_is_refused(tmp_path, length, is_refused):
    """`_seg.nii.gz` has 11 bytes, and a file system takes 255."""
    touch(tmp_path / ("x" * length + ".nii"))
    (study,) = found([tmp_path]).values()
    assert (study.refusal is not None) == is_refused
    assert not is_refused or f"{length + 11} bytes" in study.refusal


def test_a_name_with_letters_of_several_bytes_is_refused_by_its_bytes(tmp_path):
    touch(tmp_path / ("\u00e9" * 123 + ".nii"))
    (study,) = found([tmp_path]).values()
    assert "257 bytes" in study.refusal


def test_a_path_that_cannot_be_is_told_in_one_short_line(tmp_path):
    with pytest.raises(ConfigError) as caught:
        found([tmp_path / ("y" * 5000)])
    assert "File name too long" in str(caught.value)
    assert len(str(caught.value)) < 400
    (tmp_path / "a.nii").symlink_to("a.nii")
    with pytest.raises(ConfigError, match="it is a link to nothing"):
        found([tmp_path / "a.nii"])


def test_a_link_that_leads_round_is_a_study_of_its_own(tmp_path):
    touch(tmp_path / "b.nii")
    (tmp_path / "a.nii").symlink_to("a.nii")
    assert set(found([tmp_path])) == {"a", "b"}


def test_all_that_looks_like_an_image_is_a_study_or_a_refusal(tmp_path):
    touch(*(tmp_path / name for name in ("a.nii", "b.gipl", "c.nii.bz2", "d.zip", "notes.txt")))
    os.mkfifo(tmp_path / "e.nii.gz")
    studies = found([tmp_path])
    assert set(studies) == {"a", "b.gipl", "c.nii.bz2", "d.zip", "e.nii.gz"}
    assert [case for case, study in studies.items() if study.refusal is None] == ["a"]


def test_a_dicom_series_is_one_study_named_by_a_hash(tmp_path):
    save_series(make_series(voxels()), tmp_path / "Doe_Jane")
    touch(tmp_path / "scan.nii")
    studies = found([tmp_path])
    (study,) = (study for case, study in studies.items() if case != "scan")
    assert study.refusal is None
    assert re.fullmatch(r"dicom_[0-9a-f]{10}", study.case)
    (source,) = study.sources
    assert source.grid.shape == (7, 6, 5)


def test_dicom_files_named_one_by_one_are_one_study(tmp_path):
    paths = save_series(make_series(voxels()), tmp_path / "p1")
    assert found(paths) == found([tmp_path])
    assert len(found(paths)) == 1


def test_damaged_dicom_is_a_refused_study_of_its_folder(tmp_path):
    touch(*(tmp_path / "Doe" / f"{index}.dcm" for index in range(3)))
    ((case, study),) = found([tmp_path]).items()
    assert case.startswith("dicom_")
    assert study.refusal.startswith("3 file(s) cannot be read as DICOM: they are empty, cut,")
    assert "Doe" not in study.refusal


def test_a_folder_of_dicom_without_an_image_is_named(tmp_path):
    report = make_slice(voxels(1)[0], Modality="SR", Rows=None, Columns=None, PixelData=None)
    save(report, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"none of 1 DICOM file\(s\) holds an image"):
        found([tmp_path])


def test_dicom_beside_a_volume_counts(tmp_path):
    save_series(make_series(voxels()), tmp_path)
    touch(tmp_path / "other.nii.gz")
    studies = found([tmp_path])
    assert studies.pop("other").refusal is None
    ((case, series),) = studies.items()
    assert case.startswith("dicom_")
    assert len(series.files()) == 5


def test_a_manifest_may_name_dicom_folders(tmp_path):
    for number in (1, 2):
        save_series(make_series(voxels(), series=number), tmp_path / "p1" / str(number))
    (tmp_path / "list.csv").write_text(
        "case,image:T1,image:T2\nfirst,p1/1,p1/2\nsecond,p1,p1/2\nthird,gone,p1/2\n"
    )
    studies = found([tmp_path / "list.csv"], num_channels=2)
    assert [source.number for source in studies["first"].sources] == [1, 2]
    assert "the folder: 2 series could be meant" in studies["second"].refusal
    assert studies["third"].refusal is None


def test_dicom_options_are_passed_on(tmp_path):
    for number in (1, 2):
        save_series(make_series(voxels(), series=number), tmp_path / str(number))
    options = DicomOptions(SeriesRule("all"), "CT", b"salt")
    studies = find_studies([tmp_path], num_channels=1, out=OUT, dicom=options)
    assert len({study.case for study in studies}) == 2
    assert not {study.case for study in studies} & set(found([tmp_path]))


def test_other_suffixes_are_left_to_the_reader(tmp_path):
    touch(tmp_path / "scan.jpg")
    assert found([tmp_path / "scan.jpg"])["scan"].refusal is None


def test_a_decathlon_folder_is_a_manifest(tmp_path):
    dataset = {
        "name": "demo",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver"},
        "training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}],
        "test": [],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    touch(tmp_path / "imagesTr" / "x.nii.gz", tmp_path / "labelsTr" / "x.nii.gz")
    expected = {"x": StudyInput("x", (tmp_path / "imagesTr" / "x.nii.gz",))}
    assert found([tmp_path]) == expected
    assert found([tmp_path / "dataset.json"]) == expected


def test_a_csv_names_its_cases(tmp_path):
    touch(tmp_path / "x_0000.nii", tmp_path / "x_0001.nii")
    (tmp_path / "list.csv").write_text("case,image\nfirst,x_0000.nii\nsecond,x_0001.nii\n")
    assert set(found([tmp_path / "list.csv"])) == {"first", "second"}


@pytest.mark.parametrize("name", [b"bad\xff.nii.gz", b"two\nlines.nii.gz"])
def test_names_that_tables_cannot_hold_are_refused_and_spelled(tmp_path, name):
    (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    touch(tmp_path / "good.nii.gz")
    studies = found([tmp_path])
    assert studies.pop("good").refusal is None
    ((case, study),) = studies.items()
    assert case.isascii()
    assert case.isprintable()
    assert "cannot be printed" in study.refusal


def test_studies_of_one_name_are_told_apart_by_a_hash_of_their_folders(tmp_path, caplog):
    """Folders can name patients, so their names go nowhere."""
    folders = [tmp_path / os.fsdecode(name) for name in (b"left", b"right", b"M\xfcller")]
    touch(*(folder / "scan.nii" for folder in folders))

    def names(salt):
        options = DicomOptions(salt=salt)
        studies = find_studies([tmp_path], num_channels=1, out=OUT, dicom=options)
        return {study.first_file.parent: study.case for study in studies}

    expected = {
        folder: "scan_" + hmac.new(b"s", os.fsencode(folder), hashlib.sha256).hexdigest()[:8]
        for folder in folders
    }
    assert names(b"s") == expected
    assert "3 studies share file names" in caplog.text
    assert set(names(b"other").values()).isdisjoint(expected.values())


def test_the_data_of_a_manifest_may_lie_elsewhere(tmp_path):
    touch(tmp_path / "data" / "a.nii")
    (tmp_path / "cases.csv").write_text("image\na.nii\n")
    manifest, root = tmp_path / "cases.csv", tmp_path / "data"
    (study,) = find_studies([manifest], num_channels=1, out=OUT, data=DataRoot(root))
    assert study.sources == (root / "a.nii",)


def deny(monkeypatch, name):
    """Let folders of a name refuse to be listed, as another user's do."""
    listed = os.scandir

    def scandir(path):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_read_is_a_refused_study(tmp_path, monkeypatch):
    touch(tmp_path / "a.nii", tmp_path / "Doe^Jane" / "b.nii")
    deny(monkeypatch, "Doe^Jane")
    studies = found([tmp_path])
    name = next(case for case in studies if case != "a")
    assert re.fullmatch(r"folder_[0-9a-f]{10}", name)
    assert "cannot be read" in studies[name].refusal
    assert studies[name].places() == [str(tmp_path / "Doe^Jane")]


def test_a_subject_that_cannot_be_read_is_a_refused_study(tmp_path, monkeypatch):
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    images = [tmp_path / f"sub-{n}" / "anat" / f"sub-{n}_T1w.nii.gz" for n in ("01", "02")]
    touch(*images)
    deny(monkeypatch, "sub-02")
    studies = find_studies([tmp_path], num_channels=1, out=None, bids=BidsChoice(("T1w",), ("T1",)))
    assert [study.refusal is None for study in studies] == [True, False]


def test_an_input_folder_that_cannot_be_read_stops(tmp_path, monkeypatch):
    touch(tmp_path / "in" / "a.nii")
    deny(monkeypatch, "in")
    with pytest.raises(ConfigError, match="the folder cannot be read"):
        found([tmp_path / "in"])


@pytest.mark.parametrize("name", ["dataset.json", "dataset_description.json"])
def test_a_description_that_cannot_be_read_is_a_refused_study_beside_the_others(tmp_path, name):
    touch(tmp_path / "good.nii.gz")
    (tmp_path / name).write_text('{"x": ' + "[" * 10**5 + "]" * 10**5 + "}")
    studies = found([tmp_path])
    assert studies.keys() == {"good", name}
    assert "nested more than 64 deep. Correct the file." in studies[name].refusal
    (tmp_path / name).write_text("{\n]")
    assert "line 2: not JSON" in found([tmp_path])[name].refusal


def test_something_else_of_the_same_name_as_a_list_is_a_refused_study(tmp_path):
    touch(tmp_path / "good.nii.gz")
    (tmp_path / "dataset.json").write_text('{"x": 1}')
    studies = found([tmp_path])
    assert studies.keys() == {"good", "dataset.json"}
    assert "it describes no data set" in studies["dataset.json"].refusal


def test_a_data_set_whose_list_cannot_be_read_is_not_searched(tmp_path):
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz", tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ManifestError, match=r"dataset.json:1: not JSON"):
        found([tmp_path])


def test_images_that_a_list_leaves_out_are_counted(tmp_path, caplog):
    dataset = {
        "modality": {"0": "CT"},
        "labels": {"1": "liver"},
        "training": [{"image": "imagesTr/x.nii", "label": "labelsTr/x.nii"}],
    }
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(dataset))
    touch(*(tmp_path / "set" / each for each in ("imagesTr/x.nii", "labelsTr/x.nii")))
    assert set(found([tmp_path / "set"])) == {"x"}
    assert caplog.text == ""
    touch(tmp_path / "set" / "imagesTs" / "y.nii")
    save_series(make_series(voxels()), tmp_path / "list" / "p1")
    touch(tmp_path / "list" / "p1" / "a.nii.gz", tmp_path / "list" / "p1" / "b.gipl")
    (tmp_path / "list" / "cases.csv").write_text("case,image\na,p1\n")
    found([tmp_path / "set"])
    assert "1 images lie in folders of a list of cases and are not in it" in caplog.text
    assert found([tmp_path / "list" / "cases.csv"])["a"].refusal is None
    assert "2 images lie in folders of a list of cases and are not in it" in caplog.text
