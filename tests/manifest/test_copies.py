from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Case, Split
from pipeline.manifest.check import check_copies, files_of, find_copies, time_points


def case(name, subject=None, image=None):
    return Case(name, (Path(image or f"{name}.nii"),), Path("l.nii"), subject or name)


A, B, C = case("a"), case("b"), case("c")


def test_cases_with_one_content_belong_together():
    assert find_copies({"a": "x", "b": "y", "c": "x", "d": "z"}) == [["a", "c"]]


def test_a_file_is_the_same_by_whatever_path(tmp_path):
    (tmp_path / "i.nii").touch()
    (tmp_path / "link.nii").symlink_to(tmp_path / "i.nii")
    paths = [tmp_path / "i.nii", tmp_path / "x" / ".." / "i.nii", tmp_path / "link.nii"]
    files = files_of([case(f"c{n}", image=path) for n, path in enumerate(paths)])
    assert len(set(files.values())) == 1


@pytest.mark.parametrize(
    "splits", [[Split((A, B), (C,))], [Split((A, C), (B,)), Split((B,), (C, A))]]
)
def test_copies_on_both_sides_of_any_split_are_refused(make_manifest, splits):
    contents = {"a": "x", "b": "y", "c": "x"} if len(splits) == 1 else {"a": "x", "b": "x"}
    with pytest.raises(ManifestError, match=r"the cases a and [bc] have the same voxels.*subject"):
        check_copies(contents, splits, make_manifest(A, B, C), "the same voxels")


def test_copies_on_sides_that_the_manifest_names_are_moved_together(make_manifest):
    cases = [replace(A, split="train"), replace(C, split="validation")]
    split = Split((cases[0],), (cases[1],))
    with pytest.raises(ManifestError, match="move both to one side") as refused:
        check_copies({"a": "x", "c": "x"}, [split], make_manifest(*cases), "the same voxels")
    assert "subject" not in str(refused.value)


def test_copies_on_one_side_are_told(make_manifest):
    split = Split((A, B), (C,))
    (text,) = check_copies({"a": "x", "b": "x", "c": "y"}, [split], make_manifest(A), "the voxels")
    assert text.startswith("the cases a, b have the voxels")


@pytest.mark.parametrize(
    "names",
    [
        ("p08_t0", "p08_t1"),
        ("p08-tp1", "p08-tp2"),
        ("case_7_visit1", "case_7_visit2"),
        ("sub-03_ses-01", "sub-03_ses-02"),
        ("x_pre", "x_post"),
        ("x_2019-03-01", "x_2020-04-02"),
        ("x_20190301", "x_20200402"),
        ("x_baseline", "x_followup"),
        ("A_T1", "A_T2"),
    ],
)
def test_names_that_look_like_time_points_are_told(names):
    others = ("p01", "q02_c")
    (text,) = time_points([case(name) for name in (*names, *others)])
    assert text.startswith(f"{names[0]} and {names[1]} look like")
    assert list(time_points([case(name, "one patient") for name in names])) == []


@pytest.mark.parametrize(
    "names",
    [("p08", "p09"), ("liver_1", "liver_2"), ("hippocampus_001", "hippocampus_003"), ("t1", "t2")],
)
def test_other_names_are_not(names):
    assert list(time_points([case(name) for name in names])) == []
