import re
import signal

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Channel, Region, SegmentCode, load_manifest, yaml_manifest

YAML = """\
name: Two channels
description: For the test.
origin: here
licence: none
channels:
  - {name: CT, modality: CT}
  - {name: PET, modality: other}
labels: {background: 0, liver: 1, lesion: 3}
root: data
cases: cases.csv
"""
CSV = "case,image:PET,image:CT,label,split\na,p.nii,c.nii,l.nii,train\n"
DECATHLON = '{"modality": {"0": "x", "1": "y"}, "test": ["a.nii"], "labels": {"1": "z"}}'


@pytest.fixture
def manifest_path(write_text, tmp_path):
    (tmp_path / "set/data").mkdir(parents=True)
    write_text("set/cases.csv", CSV)
    return write_text("set/manifest.yaml", YAML)


def test_a_manifest_with_a_csv(manifest_path, tmp_path):
    manifest = load_manifest(manifest_path)
    assert manifest.path == manifest_path
    assert (manifest.name, manifest.description) == ("Two channels", "For the test.")
    assert (manifest.origin, manifest.licence) == ("here", "none")
    assert manifest.channels == (Channel("CT", "CT"), Channel("PET", "other"))
    assert manifest.labels == {"liver": 1, "lesion": 3}
    (case,) = manifest.cases
    data = tmp_path / "set/data"
    assert case.images == (data / "c.nii", data / "p.nii")
    assert case.label == data / "l.nii"
    assert case.split == "train"


def test_a_pattern_finds_the_subjects_in_the_names_of_cases(manifest_path, write_text):
    write_text("set/cases.csv", CSV + "b_t0,p.nii,c.nii,,\nb_t1,p.nii,c.nii,,\n")
    manifest_path.write_text(YAML.replace("root", "subject_pattern: (.+?)(?:_t[0-9])?\nroot"))
    assert [case.subject for case in load_manifest(manifest_path).cases] == ["a", "b", "b"]


def test_root_replaces_the_manifests_own(manifest_path, tmp_path):
    (tmp_path / "set/data").rmdir()
    (tmp_path / "moved").mkdir()
    manifest = load_manifest(manifest_path, tmp_path / "moved")
    assert manifest.cases[0].label == tmp_path / "moved/l.nii"


def test_a_csv_in_the_data_folder_is_found(manifest_path, tmp_path):
    (tmp_path / "set/cases.csv").rename(tmp_path / "set/data/cases.csv")
    assert load_manifest(manifest_path).cases[0].label == tmp_path / "set/data/l.nii"


def test_root_is_the_manifests_folder_by_default(manifest_path, tmp_path):
    manifest_path.write_text(YAML.replace("root: data\n", ""))
    assert load_manifest(manifest_path).cases[0].label == tmp_path / "set/l.nii"


def test_what_label_maps_leave_open(manifest_path, write_text):
    write_text("set/cases.csv", CSV.replace("split", "annotated").replace("train", "lesion"))
    whole = "regions:\n  - {name: whole, labels: [liver, lesion], writes: liver}\n"
    manifest_path.write_text(f"{YAML}ignore: 255\n{whole}")
    manifest = load_manifest(manifest_path)
    assert manifest.ignore_value == 255
    assert manifest.regions == (Region("whole", ("liver", "lesion"), "liver"),)
    assert manifest.cases[0].annotated == ("lesion",)


def test_codes_of_labels(manifest_path):
    manifest_path.write_text(f"{YAML}codes:\n  liver: {{type: [10200004, SCT, Liver]}}\n")
    (code,) = load_manifest(manifest_path).codes.items()
    assert code == ("liver", SegmentCode.model_validate({"type": ["10200004", "SCT", "Liver"]}))


def test_a_code_of_two_parts_is_told_its_form(manifest_path):
    manifest_path.write_text(f"{YAML}codes:\n  liver: {{type: [10200004, SCT]}}\n")
    with pytest.raises(ManifestError, match=r"codes\.liver\.type.*value, scheme, meaning"):
        load_manifest(manifest_path)


def test_manifests_without_codes_have_none(manifest_path):
    assert load_manifest(manifest_path).codes == {}


def test_annotated_labels_must_be_declared(manifest_path, write_text):
    write_text("set/cases.csv", CSV.replace("split", "annotated").replace("train", "lesin"))
    with pytest.raises(ManifestError, match=r"csv: annotated labels of a: unknown label 'lesin'"):
        load_manifest(manifest_path)


NNUNET = """{"channel_names": {"0": "x", "1": "y"}, "file_ending": ".nii",
"labels": {"background": 0, "whole": [1, 3], "core": 3, "ignore": 7}, "regions_class_order": [1, 3],
"dataset": {"a": {"images": ["x.nii", "y.nii"], "label": "l.nii"}}}"""


def test_a_manifest_over_nnunet_has_its_own_labels_and_the_lists_ignored_value(
    manifest_path, write_text
):
    write_text("set/data/dataset.json", NNUNET)
    manifest_path.write_text(YAML.replace("cases.csv", "dataset.json"))
    manifest = load_manifest(manifest_path)
    assert manifest.labels == {"liver": 1, "lesion": 3}
    assert (manifest.ignore_value, manifest.regions) == (7, ())


@pytest.mark.parametrize("cases", ["part/dataset.json", "part"])
def test_a_manifest_over_a_decathlon_file(manifest_path, write_text, tmp_path, cases):
    write_text("set/data/part/dataset.json", DECATHLON)
    manifest_path.write_text(YAML.replace("cases.csv", cases))
    manifest = load_manifest(manifest_path)
    assert manifest.channels == (Channel("CT", "CT"), Channel("PET", "other"))
    assert manifest.labels == {"liver": 1, "lesion": 3}
    assert manifest.cases[0].images == (tmp_path / "set/data/part/a.nii",)


@pytest.mark.parametrize(("said", "scheme"), [("", "none"), (", normalisation: zscore", "zscore")])
def test_the_scheme_of_an_nnunet_channel_is_kept_unless_another_is_said(
    manifest_path, write_text, said, scheme
):
    write_text("set/data/dataset.json", NNUNET.replace('"y"', '"noNorm"'))
    text = YAML.replace("cases.csv", "dataset.json")
    manifest_path.write_text(text.replace("modality: other", f"modality: other{said}"))
    ct, pet = load_manifest(manifest_path).channels
    assert (ct.scheme, pet.scheme) == ("ct", scheme)


def test_the_number_of_channels_must_agree(manifest_path, write_text):
    write_text("set/data/dataset.json", DECATHLON.replace(', "1": "y"', ""))
    manifest_path.write_text(YAML.replace("cases.csv", "dataset.json"))
    with pytest.raises(ManifestError, match=r"channels: 2 declared, but .*json has 1 \(x\)\. Decl"):
        load_manifest(manifest_path)


def test_a_missing_data_folder_says_how_to_set_it(manifest_path, tmp_path):
    (tmp_path / "set/data").rmdir()
    message = re.escape(
        "does not exist. Name the folder that holds the data: data.root=FOLDER (or "
    )
    with pytest.raises(ManifestError, match=message):
        load_manifest(manifest_path)
    with pytest.raises(ManifestError, match=r"other: the data folder does not exist\. Name"):
        load_manifest(manifest_path, tmp_path / "other")


def test_a_missing_list_says_how_to_set_the_folder(manifest_path, tmp_path):
    (tmp_path / "set/cases.csv").unlink()
    with pytest.raises(
        ManifestError, match=r"the list of cases .*data.cases.csv does not exist\. N"
    ):
        load_manifest(manifest_path)


def test_a_name_that_no_file_can_have_is_one_line(manifest_path):
    text = manifest_path.read_text()
    assert "cases: cases.csv" in text
    manifest_path.write_text(text.replace("cases: cases.csv", f"cases: {'9' * 300}.csv"))
    with pytest.raises(ManifestError, match=r"no path that a file can have \(File name too long\)"):
        load_manifest(manifest_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("root", "subject_pattern: (\nroot", "subject_pattern: '\\(' is no regular expression"),
        ("root", "subject_pattern: x\nroot", "subject_pattern: 'x' has 0 groups, not one"),
        ("root", "subject_pattern: (x)\nroot", "subject_pattern: it does not fit the name of case"),
        ("licence", "license", r"unknown key 'license'\. Did you mean 'licence'\?"),
        ("name: Two", "nmae: Two", r"unknown key 'nmae'\. Did you mean 'name'\?"),
        (
            "name: CT, m",
            "name: CT, M",
            r"unknown key 'channels.0.Modality'\. Did you mean 'modality'",
        ),
        ("name: CT", "labels: CT", r"unknown key 'channels.0.labels'\. Use one of: modality, name"),
        ("cases: cases.csv", "", r"manifest.yaml: key 'cases' is missing\. Add it"),
        (
            "modality: CT",
            "modality: XR",
            "'channels.0.modality' is 'XR'. It should be 'CT', 'MR'",
        ),
        ("liver: 1", "liver: one", "'labels.liver' is 'one'. It should be a whole number"),
        ("liver: 1", "liver: true", "'labels.liver' is true"),
        ("liver: 1", "1: liver", "manifest.yaml: labels: names and values are swapped"),
        ("liver: 1", "liver: '1'", "label 'liver' has the text '1'. Write the number 1"),
        ("liver: 1", "liver: 3", "labels: labels 'liver' and 'lesion' both have the value 3"),
        ("liver: 1", "liver: 0", "labels: label 'liver' has the value 0"),
        ("cases.csv", ".", "data: the folder has no dataset.json"),
        ("root", "ignore: 3\nroot", "ignore: ignored voxels and label 'lesion' both have"),
        (
            "root",
            "codes: {livr: {type: [1, SCT, x]}}\nroot",
            r"yaml: codes: unknown label 'livr'\. Did you mean 'liver'",
        ),
        (
            "root",
            "codes: {liver: {tpye: [1, SCT, x]}}\nroot",
            r"unknown key 'codes.liver.tpye'\. Did you mean 'type'",
        ),
        ("root", "codes: {liver: {type: [1, SCT]}}\nroot", "'codes.liver.type' is "),
        ("root", "regions: [{name: x, labels: [], writes: y}]\nroot", "regions: region 'x' has no"),
        (
            "root",
            "regions: [{nam: x, labels: []}]\nroot",
            r"key 'regions.0.nam'\. Did you mean 'nam",
        ),
    ],
)
def test_what_does_not_hold_is_refused(manifest_path, old, new, message):
    manifest_path.write_text(YAML.replace(old, new, 1))
    with pytest.raises(ManifestError, match=message):
        load_manifest(manifest_path)


def test_an_expression_that_takes_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_manifest, "MOST_SECONDS", 0.1)
    (tmp_path / "list.csv").write_text(f"case,image\n{'a' * 40}!,a.nii.gz\n")
    (tmp_path / "m.yaml").write_text(
        "name: x\nchannels: [{name: CT, modality: CT}]\nlabels: {a: 1}\n"
        "subject_pattern: ((?:a+)+)b\ncases: list.csv\n"
    )
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(ManifestError, match="takes too long"):
        load_manifest(tmp_path / "m.yaml")
    assert signal.getsignal(signal.SIGALRM) == handler
