import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from pipeline.cohort import check_inputs
from pipeline.errors import ConfigError
from pipeline.inputs import BidsChoice, find_studies
from pipeline.inputs.bids import find_bids_studies, is_bids

T1, ONE = BidsChoice(("T1w",), ("image",)), BidsChoice((), ("image",))


@pytest.fixture
def dataset(tmp_path):
    """Write a data set of small files; names with a number of volumes."""

    def write(*names, num_volumes=1, at="raw"):
        root = tmp_path / at
        root.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"Name": "demo", "BIDSVersion": "1.8.0"})
        (root / "dataset_description.json").write_text(text)
        shape = (4, 5, 6) if num_volumes == 1 else (4, 5, 6, num_volumes)
        voxels = np.random.default_rng(0).normal(100, 9, shape).astype(np.float32)
        for name in names:
            path = root / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
        return root

    return write


def found(root, choice):
    return {
        study.case: [path.name.removesuffix(".nii.gz") for path in study.sources]
        for study in find_bids_studies(root, choice)
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"Name": "a", "BIDSVersion": "1.8.0"}', True),
        ('{"Name": "a"}', False),
        ("[]", False),
        ("{", False),
        (None, False),
    ],
)
def test_the_description_makes_a_data_set(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "dataset_description.json").write_text(content)
    assert is_bids(tmp_path) is expected
    assert not is_bids(tmp_path / "dataset_description.json")


def test_sessions_runs_and_acquisitions_are_studies_of_their_own(dataset):
    root = dataset(
        "sub-01/anat/sub-01_T1w",
        "sub-02/ses-1/anat/sub-02_ses-1_run-1_T1w",
        "sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w",
        "sub-02/ses-2/anat/sub-02_ses-2_acq-fast_T1w",
        "sub-02/ses-2/anat/sub-02_ses-2_T2w",
    )
    studies = find_studies([root], num_channels=1, out=root / "derivatives" / "trivox", bids=T1)
    assert [study.case for study in studies] == [
        "sub-01_T1w",
        "sub-02_ses-1_run-1_T1w",
        "sub-02_ses-1_run-2_T1w",
        "sub-02_ses-2_acq-fast_T1w",
    ]
    assert studies[0].sources == (root / "sub-01" / "anat" / "sub-01_T1w.nii.gz",)
    assert studies[0].bids.suffix == "T1w"
    assert {study.refusal for study in studies} == {None}


def test_data_sets_within_are_searched_only_by_themselves(dataset):
    root = dataset("sub-01/anat/sub-01_T1w")
    dataset("sub-01/anat/sub-01_T1w", at="raw/sourcedata")
    inner = dataset("sub-01/anat/sub-01_desc-preproc_T1w", at="raw/derivatives/prep")
    dataset("sub-01/anat/sub-01_desc-brain_mask", at="raw/derivatives/prep")
    assert set(found(root, T1)) == {"sub-01_T1w"}
    assert set(found(inner, T1)) == {"sub-01_desc-preproc_T1w"}


@pytest.mark.parametrize(
    ("channel", "suffix"), [("T1w", "T1w"), ("t1", "T1w"), ("T2", "T2w"), ("flair", "FLAIR")]
)
def test_a_channel_finds_the_suffix_of_its_name(dataset, channel, suffix):
    root = dataset(*(f"sub-01/anat/sub-01_{each}" for each in ("T1w", "T2w", "FLAIR")))
    assert set(found(root, BidsChoice((), (channel,)))) == {f"sub-01_{suffix}"}


def test_what_is_named_goes_before_the_channels_name(dataset):
    root = dataset("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w")
    assert set(found(root, BidsChoice(("T2w",), ("T1",)))) == {"sub-01_T2w"}


def test_the_only_suffix_in_3d_is_taken(dataset):
    root = dataset("sub-01/anat/sub-01_T2w", "sub-01/anat/sub-01_desc-brain_mask")
    dataset("sub-01/func/sub-01_task-rest_sbref")
    dataset("sub-01/anat/sub-01_MESE", num_volumes=3)
    assert set(found(root, ONE)) == {"sub-01_T2w"}


def test_4d_images_are_taken_if_they_are_named(dataset):
    root = dataset("sub-01/anat/sub-01_T1w")
    dataset("sub-01/func/sub-01_task-rest_bold", num_volumes=3)
    choice = BidsChoice(("bold",), ("a", "b", "c"))
    assert found(root, choice) == {"sub-01_task-rest_bold": ["sub-01_task-rest_bold"]}


def test_several_suffixes_and_no_hint_are_refused(dataset):
    root = dataset("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w", "sub-02/anat/sub-02_T2w")
    expected = r"raw: .* image is not clear; images by suffix: T1w \(1\), T2w \(2\)\. .*--bids-suff"
    with pytest.raises(ConfigError, match=expected):
        find_bids_studies(root, ONE)


def test_a_suffix_that_no_image_has_is_refused(dataset):
    root = dataset("sub-01/anat/sub-01_T1w")
    with pytest.raises(ConfigError, match=r"no image has the suffix PD; .*T1w \(1\)"):
        find_bids_studies(root, BidsChoice(("PD",), ("image",)))


def test_a_data_set_without_images_is_refused(dataset):
    for choice in (ONE, T1, BidsChoice()):
        with pytest.raises(ConfigError, match="images by suffix: none"):
            find_bids_studies(dataset(), choice)


@pytest.mark.parametrize(
    "choice",
    [BidsChoice(("T1w", "FLAIR"), ("x", "y")), BidsChoice((), ("t1", "Flair"))],
)
def test_channels_are_files_that_are_equal_but_for_the_suffix(dataset, choice):
    root = dataset(
        *(f"sub-01/anat/sub-01_run-{run}_{suffix}" for run in "12" for suffix in ("FLAIR", "T1w"))
    )
    assert found(root, choice) == {
        f"sub-01_run-{run}_T1w": [f"sub-01_run-{run}_T1w", f"sub-01_run-{run}_FLAIR"]
        for run in "12"
    }


def test_a_study_that_lacks_a_channel_is_refused_and_counted(dataset):
    root = dataset(
        "sub-01/anat/sub-01_T1w",
        "sub-01/anat/sub-01_FLAIR",
        "sub-02/anat/sub-02_T1w",
        "sub-03/anat/sub-03_run-1_T1w",
        "sub-03/anat/sub-03_run-2_FLAIR",
    )
    studies = find_bids_studies(root, BidsChoice(("T1w", "FLAIR"), ("a", "b")))
    refusals = {study.case: study.refusal for study in studies}
    assert refusals.pop("sub-01_T1w") is None
    assert set(refusals) == {"sub-02_T1w", "sub-03_run-1_T1w", "sub-03_run-2_FLAIR"}
    assert refusals["sub-02_T1w"].startswith("there is no FLAIR to go with T1w. The files of a")
    assert refusals["sub-03_run-2_FLAIR"].startswith("there is no T1w to go with FLAIR.")


def test_entities_tell_channels_of_one_suffix_apart(dataset):
    root = dataset("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_ce-gadolinium_T1w")
    choice = BidsChoice.of("T1w,ce-gadolinium_T1w", ("T1", "T1ce"))
    assert found(root, choice) == {"sub-01_T1w": ["sub-01_T1w", "sub-01_ce-gadolinium_T1w"]}


def test_one_image_in_two_formats_is_refused(dataset):
    root = dataset("sub-01/anat/sub-01_T1w")
    (root / "sub-01" / "anat" / "sub-01_T1w.nii").write_bytes(b"x")
    (study,) = find_bids_studies(root, T1)
    assert "as .nii and as .nii.gz" in study.refusal


def test_an_image_that_was_not_fetched_is_a_study_still(dataset):
    """In data sets under git-annex, files are links that lead nowhere until they are fetched."""
    root = dataset()
    (root / "sub-01" / "anat").mkdir(parents=True)
    (root / "sub-01" / "anat" / "sub-01_T1w.nii.gz").symlink_to("nowhere")
    assert set(found(root, ONE)) == {"sub-01_T1w"}


def test_images_that_were_not_asked_for_are_counted(dataset, caplog):
    caplog.set_level("INFO")
    find_bids_studies(dataset("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w"), T1)
    assert "images of the BIDS data set that were not asked for: T2w (1)" in caplog.text


def test_two_data_sets_with_one_name_have_no_place_together(dataset, tmp_path):
    roots = [dataset("sub-01/anat/sub-01_T1w", at=name) for name in ("x", "y")]
    dataset("sub-02/anat/sub-02_T1w", at="y")
    first, second, other = sorted(
        find_studies(roots, num_channels=1, out=tmp_path / "out", bids=T1),
        key=lambda study: study.refusal is None,
    )
    for study in (first, second):
        assert study.refusal.startswith("2 images of this name in BIDS data sets. ")
        assert study.bids is None
    assert first.case != second.case
    assert (other.case, other.refusal) == ("sub-02_T1w", None)


@pytest.mark.parametrize(
    ("text", "channels", "match"),
    [
        ("T1w,FLAIR,PD", ("a", "b"), "3 suffixes, but the model has 2 channels"),
        ("T1w,,", ("a",), "'' is no suffix"),
        ("*T1w", ("a",), "is no suffix"),
        ("../T1w", ("a",), "is no suffix"),
    ],
)
def test_wrong_words_for_suffixes_are_refused(text, channels, match):
    with pytest.raises(ConfigError, match=match):
        BidsChoice.of(text, channels)


def test_suffixes_are_separated_by_commas():
    assert BidsChoice.of("T1w, FLAIR", ("a", "b")).suffixes == ("T1w", "FLAIR")
    assert BidsChoice.of("bold", ("a", "b")).suffixes == ("bold",), "one file for all channels"
    assert BidsChoice.of(None, ("a",)) == BidsChoice((), ("a",))


def test_without_a_model_each_image_of_anatomy_is_looked_at(dataset):
    root = dataset("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w", "sub-02/anat/sub-02_T1w")
    dataset("sub-01/func/sub-01_task-rest_bold", num_volumes=3)
    assert check_inputs([root]) == ([], 3)
    assert check_inputs([root], bids=BidsChoice.of("T1w", ())) == ([], 2)


def test_a_real_data_set(shared_data, tmp_path):
    source = shared_data / "cases" / "ivadomed"
    shutil.copytree(source / "sub-unf01", tmp_path / "sub-unf01")
    shutil.copytree(source / "derivatives", tmp_path / "derivatives")
    text = '{"Name": "data-testing", "BIDSVersion": "1.6.0"}'
    (tmp_path / "dataset_description.json").write_text(text)
    (study,) = find_bids_studies(tmp_path, BidsChoice((), ("T2",)))
    assert study.sources == (tmp_path / "sub-unf01" / "anat" / "sub-unf01_T2w.nii.gz",)
    with pytest.raises(ConfigError, match=r"T1w \(1\), T2star \(1\), T2w \(1\)"):
        find_bids_studies(tmp_path, ONE)


def test_a_real_ct(shared_data, tmp_path):
    shutil.copytree(shared_data / "cases" / "ivadomed" / "ct_scan", tmp_path, dirs_exist_ok=True)
    text = '{"Name": "data-testing", "BIDSVersion": "1.6.0"}'
    (tmp_path / "dataset_description.json").write_text(text)
    assert set(found(tmp_path, BidsChoice((), ("CT",)))) == {"sub-spleen2_ct"}
    assert set(found(tmp_path, ONE)) == {"sub-spleen2_ct"}
