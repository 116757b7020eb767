from pathlib import Path

import pytest

from pipeline.study.input import BidsName


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_name_is_taken_apart(ending):
    path = Path("sub-01", "ses-1", "anat", f"sub-01_ses-1_acq-highres_run-2_T1w{ending}")
    name = BidsName.parse(path)
    assert name == BidsName(
        (("sub", "01"), ("ses", "1"), ("acq", "highres"), ("run", "2")), "T1w", "anat"
    )
    assert name.stem == "sub-01_ses-1_acq-highres_run-2_T1w"


@pytest.mark.parametrize(
    "file",
    [
        "sub-01_T1w.json",
        "sub-01.nii.gz",
        "T1w.nii.gz",
        "sub-01_T2w_seg-manual.nii.gz",
        "sub-01_run_T1w.nii.gz",
        "sub-_T1w.nii.gz",
        "._sub-01_T1w.nii.gz",
        "sub-01_T1w.nii.gz.bak",
        "ses-1_sub-01_T1w.nii.gz",
    ],
)
def test_other_names_are_no_images_of_bids(file):
    assert BidsName.parse(Path("sub-01", "anat", file)) is None


@pytest.mark.parametrize(
    ("image", "folder", "stem"),
    [
        ("anat/sub-01_T1w", "sub-01/anat", "sub-01_seg-T1w_desc-trivox"),
        ("anat/sub-01_T2w", "sub-01/anat", "sub-01_seg-T2w_desc-trivox"),
        (
            "anat/sub-01_ses-b_run-2_FLAIR",
            "sub-01/ses-b/anat",
            "sub-01_ses-b_run-2_seg-FLAIR_desc-trivox",
        ),
        # What is already a derivative keeps its space and resolution, in the order of BIDS.
        (
            "anat/sub-01_space-MNI_res-2_desc-preproc_T1w",
            "sub-01/anat",
            "sub-01_space-MNI_seg-preprocT1w_res-2_desc-trivox",
        ),
        ("dwi/sub-01_dir-AP_sbref", "sub-01/dwi", "sub-01_dir-AP_seg-sbref_desc-trivox"),
        # BIDS knows no segmentations in a folder `ct`.
        ("ct/sub-01_ct", "sub-01/anat", "sub-01_seg-ct_desc-trivox"),
    ],
)
def test_segmentations_are_named_after_their_image(image, folder, stem):
    name = BidsName.parse(Path(f"{image}.nii.gz"))
    assert name.folder == Path(folder)
    assert name.derived_stem == stem
