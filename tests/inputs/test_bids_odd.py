"""Images that BIDS does not know are counted, and their names go nowhere."""

import re

from pipeline.inputs import BidsChoice, find_studies
from tests.dicom_files import make_series, save_series, voxels


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_each_odd_image_is_a_refused_study_called_by_a_hash(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    anat = tmp_path / "sub-01" / "anat"
    touch(anat / "sub-01_T1w.nii.gz", anat / "sub-01_T1w.json", anat / "sub-01_mask.nii.gz")
    touch(anat / "Mustermann_T1w.nii.gz", tmp_path / "sub-01" / "sub-01_T1w.nii.gz")
    touch(anat / "sub-01_T1w.nii.bz2", anat / "sub-01_T2w.nrrd")
    save_series(make_series(voxels()), tmp_path / "sub-01" / "dicom")
    bids = BidsChoice(("T1w",), ("image",))
    studies = find_studies([tmp_path], num_channels=1, out=None, bids=bids)
    refused = [study for study in studies if study.refusal is not None]
    assert [study.case for study in studies if study not in refused] == ["sub-01_T1w"]
    assert len({study.case for study in refused}) == 5
    assert all(re.fullmatch("(image|folder)_[0-9a-f]{10}", study.case) for study in refused)
    texts = sorted(study.refusal for study in refused)
    assert texts[0].startswith("5 DICOM file(s) of a folder lie in a BIDS data set")
    assert texts[1].startswith("an image packed as .bz2 is not read")
    assert all(text.startswith("it is not named or placed as BIDS says") for text in texts[2:])


def test_images_outside_of_subjects_are_told(tmp_path, caplog):
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    touch(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz", tmp_path / "loose_T1w.nii.gz")
    touch(tmp_path / "subject2" / "x.mgz", tmp_path / "derivatives" / "y.nii.gz")
    touch(tmp_path / "masks" / "a_dseg.nii.gz", tmp_path / "masks" / ".trivox" / "journal.sqlite")
    bids = BidsChoice(("T1w",), ("image",))
    studies = find_studies([tmp_path], num_channels=1, out=tmp_path / "out", bids=bids)
    assert [study.case for study in studies] == ["sub-01_T1w"]
    assert "2 images lie in a BIDS data set, but in no folder of a subject" in caplog.text
