import time

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Channel, load_manifest
from pipeline.manifest.rules import DataFolder
from pipeline.manifest.table import read_table

SHA = "AB" * 32


def test_all_columns_are_read(write_text, tmp_path):
    text = (
        "case,image,label,subject,split,sha256\n"
        f"one,i/1.nii.gz,l/1.nii.gz,anna,train,{SHA}\n"
        ",,,,,\n"
        f'"two, again", {tmp_path}/i/2.nii.gz ,,,test,\n'
    )
    one, two = load_manifest(write_text("cases.csv", text)).cases
    assert (one.name, one.subject, one.split, one.sha256) == ("one", "anna", "train", "ab" * 32)
    assert one.images == (tmp_path / "i/1.nii.gz",)
    assert one.label == tmp_path / "l/1.nii.gz"
    assert (two.name, two.subject, two.split, two.sha256) == ("two, again", two.name, "test", None)
    assert two.images == (tmp_path / "i/2.nii.gz",)
    assert two.label is None


def test_annotated_labels_are_separated_by_semicolons(write_text):
    text = "image,annotated\na.nii,liver; left lung\nb.nii,\n"
    first, second = load_manifest(write_text("cases.csv", text)).cases
    assert first.annotated == ("liver", "left lung")
    assert second.annotated is None


def test_only_the_image_is_required(write_text, tmp_path):
    manifest = load_manifest(write_text("cohort.csv", "image\na.nii.gz\nb.mha\n"))
    assert manifest.name == "cohort"
    assert [case.name for case in manifest.cases] == ["a", "b"]
    assert manifest.channels == (Channel("image", "other"),)
    assert manifest.labels == {}


def test_a_spreadsheets_byte_order_mark_and_line_ends_are_read(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,label\r\na.nii,b.nii\r\n")
    assert load_manifest(path).cases[0].label == tmp_path / "b.nii"


def test_one_column_for_each_channel(write_text, tmp_path):
    path = write_text("cases.csv", "image:T1,image:CT\na_0000.nii,a_0001.nii\n")
    manifest = load_manifest(path)
    assert manifest.channels == (Channel("T1", "MR"), Channel("CT", "CT"))
    assert manifest.cases[0].name == "a"
    assert manifest.cases[0].images == (tmp_path / "a_0000.nii", tmp_path / "a_0001.nii")


def test_declared_channels_give_the_order(write_text, tmp_path):
    path = write_text("cases.csv", "case,image:T1,image:CT\nx,t.nii,c.nii\n")
    channels = (Channel("CT", "CT"), Channel("T1", "MR"))
    manifest = read_table(path, DataFolder(tmp_path), channels)
    assert manifest.channels == channels
    assert manifest.cases[0].images == (tmp_path / "c.nii", tmp_path / "t.nii")


def test_declared_channels_must_match_the_columns(write_text, tmp_path):
    path = write_text("cases.csv", "case,image:T1\nx,t.nii\n")
    message = "cases.csv:1: image columns are image:T1. The manifest's channels ask for: image:T2"
    with pytest.raises(ManifestError, match=message):
        read_table(path, tmp_path, (Channel("T2", "MR"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"cases.csv:1: image columns are missing\. Have one column 'image'"),
        ("case,label\na,b\n", "cases.csv:1: image columns are missing"),
        ("image,image:T1\na,b\n", "cases.csv:1: image columns are image, image:T1"),
        ("image,lable\na,b\n", r"cases.csv:1: unknown column 'lable'\. Did you mean 'label'\?"),
        ("image;label\na;b\n", "cases.csv:1: unknown column 'image;label'. Separate cells by comm"),
        ("image,image\na,b\n", "cases.csv:1: column 'image' appears twice. Remove one of them"),
        ("image\n", "cases.csv: no case is listed"),
        ("image,label\na,b\nc\n", "cases.csv:3: 1 cells under 2 columns. Separate cells by commas"),
        ("image,label\na,b\n,d\n", "cases.csv:3: column 'image' is empty. Name the image file"),
        ("image,split\na,val\n", "cases.csv:2: unknown split 'val'. Did you mean 'validation'"),
        ("image,split\na,dev\n", "unknown split 'dev'. Use one of: test, train, validation"),
        ("image,sha256\na,abc\n", "cases.csv:2: sha256 'abc' is not 64 hexadecimal digits"),
        ("image\na.nii\nb.nii\na.nii\n", "cases.csv:4: case name 'a' is taken already, by .*csv:2"),
        ("image,annotated\na,x;;y\n", "cases.csv:2: annotated labels are 'x;;y'. Name each label"),
        ("image,annotated\na,x;x\n", "cases.csv:2: annotated labels are 'x;x'"),
        ('image\n"a.nii\n', "cases.csv:2: not CSV: unexpected end of data"),
        ('image,label\n"a\nb",c\nd\n', "cases.csv:4: 1 cells under 2 columns"),
    ],
)
def test_what_does_not_hold_is_refused(write_text, text, message):
    with pytest.raises(ManifestError, match=message):
        load_manifest(write_text("cases.csv", text))


def test_many_columns_take_no_more_time_than_their_number(tmp_path):
    path = tmp_path / "a.csv"
    columns = [f"image:c{i}" for i in range(20_000)]
    path.write_text(f"{','.join(columns)},odd\n")
    start = time.process_time()
    with pytest.raises(ManifestError, match="unknown column 'odd'"):
        load_manifest(path)
    assert time.process_time() - start < 2
