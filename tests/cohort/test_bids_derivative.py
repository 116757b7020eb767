"""What BIDS asks of derivatives, written out by hand from its text.

Made data sets pass bids-validator 3.0.2 without an error.
"""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

import pipeline
from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.cohort.bids_derivative import prepare_derivative
from pipeline.errors import ConfigError
from pipeline.inputs import BidsChoice, find_studies
from pipeline.journal import PRIVATE
from pipeline.output import FileRecord, read_provenance

CPU = torch.device("cpu")
ALL = SegmentOptions(probabilities=True, pictures=True)


@pytest.fixture
def raw(tmp_path, save_volume):
    root = tmp_path / "Klinik_Mustermann"
    save_volume(root / "sub-01" / "anat" / "sub-01_T1w.nii.gz", seed=1)
    save_volume(root / "sub-01" / "anat" / "sub-01_T2w.nii.gz", seed=2)
    save_volume(root / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_run-2_T1w.nii.gz", seed=3)
    description = {"Name": "demo", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:10.5281/zenodo.1"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


@pytest.fixture
def segment(raw, model):
    def segment_suffix(suffix, out, options=ALL):
        choice = BidsChoice((suffix,), ("T0",))
        studies = find_studies([raw], num_channels=1, out=out, bids=choice)
        return segment_cohort(studies, model, out, options, CPU)

    return segment_suffix


def files_below(folder):
    """Return what people look at below a folder."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != PRIVATE)


def test_outputs_have_their_places_in_a_derivative(raw, segment):
    out = raw / "derivatives" / "trivox"
    assert segment("T1w", out).all_done
    assert segment("T2w", out).all_done
    expected = [".bidsignore", "cohort.csv", "dataset_description.json", "desc-trivox_dseg.tsv"]
    expected.append("volumetry.csv")
    for stem in (
        "sub-01/anat/sub-01_seg-T1w_desc-trivox",
        "sub-01/anat/sub-01_seg-T2w_desc-trivox",
        "sub-02/ses-1/anat/sub-02_ses-1_run-2_seg-T1w_desc-trivox",
    ):
        expected += [f"{stem}_dseg{ending}" for ending in (".json", ".nii.gz", ".png")]
        expected += [f"{stem}_probseg{ending}" for ending in (".json", ".nii.gz")]
    assert files_below(out) == sorted(expected)
    assert segment("T1w", out).num_skipped == 2
    assert segment("T2w", out).num_skipped == 1


def test_the_data_set_describes_itself(raw, segment, tmp_path):
    segment("T2w", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset_description.json").read_text()) == {
        "Name": "Segmentations by tiny",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "Trivox", "Version": pipeline.__version__}],
        "SourceDatasets": [{"DOI": "doi:10.5281/zenodo.1"}],
    }
    table = (tmp_path / "out" / "desc-trivox_dseg.tsv").read_text()
    assert table == "index\tname\n1\tliver\n2\tlesion\n"


def test_the_sidecar_holds_the_provenance(raw, segment, tmp_path):
    segment("T2w", tmp_path / "out")
    stem = tmp_path / "out" / "sub-01" / "anat" / "sub-01_seg-T2w_desc-trivox"
    sidecar = json.loads(stem.with_name(f"{stem.name}_dseg.json").read_text())
    assert set(sidecar) == {"Description", "Manual", "SpatialReference", "Trivox"}
    assert sidecar["Manual"] is False
    provenance = read_provenance(stem.with_name(f"{stem.name}_dseg.json"))
    assert provenance.case == "sub-01_T2w"
    image = raw / "sub-01" / "anat" / "sub-01_T2w.nii.gz"
    assert provenance.recipe.inputs == (FileRecord.of(image),)
    assert provenance.outputs["mask"].name == "sub-01_seg-T2w_desc-trivox_dseg.nii.gz"


def test_probabilities_name_their_volumes(segment, tmp_path):
    segment("T2w", tmp_path / "out")
    stem = tmp_path / "out" / "sub-01" / "anat" / "sub-01_seg-T2w_desc-trivox"
    sidecar = json.loads(stem.with_name(f"{stem.name}_probseg.json").read_text())
    assert sidecar["LabelMap"] == ["background", "liver", "lesion"]
    assert nib.load(f"{stem}_probseg.nii.gz").shape[3] == 3


def test_an_image_on_a_template_says_so_by_its_name(tmp_path, save_volume, model):
    """BIDS requires the meaning of an entity `res`; a space by name needs no reference."""
    root = tmp_path / "prep"
    stem = "sub-01_space-MNI152NLin6Asym_res-2_desc-preproc_T1w"
    save_volume(root / "sub-01" / "anat" / f"{stem}.nii.gz")
    text = '{"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}'
    (root / "dataset_description.json").write_text(text)
    studies = find_studies([root], num_channels=1, out=None, bids=BidsChoice((), ("T1",)))
    assert segment_cohort(studies, model, tmp_path / "out", SegmentOptions(), CPU).all_done
    written = "sub-01_space-MNI152NLin6Asym_seg-preprocT1w_res-2_desc-trivox_dseg.json"
    sidecar = json.loads((tmp_path / "out" / "sub-01" / "anat" / written).read_text())
    assert set(sidecar) == {"Description", "Manual", "Resolution", "Trivox"}


def test_without_probabilities_nothing_is_said_of_them(segment, tmp_path):
    segment("T2w", tmp_path / "out", SegmentOptions())
    assert not list((tmp_path / "out").rglob("*probseg*"))


def test_the_mask_is_that_of_the_same_image_by_itself(raw, segment, tmp_path, model):
    segment("T2w", tmp_path / "out")
    image = raw / "sub-01" / "anat" / "sub-01_T2w.nii.gz"
    studies = find_studies([image], num_channels=1, out=tmp_path / "plain")
    segment_cohort(studies, model, tmp_path / "plain", SegmentOptions(), CPU)
    mask = tmp_path / "out" / "sub-01" / "anat" / "sub-01_seg-T2w_desc-trivox_dseg.nii.gz"
    plain = tmp_path / "plain" / "sub-01_T2w_seg.nii.gz"
    assert mask.read_bytes() == plain.read_bytes()
    assert not (tmp_path / "plain" / "dataset_description.json").exists()


def test_folders_are_not_told(raw, segment, tmp_path, caplog):
    (raw / "sub-01" / "anat" / "sub-01_T2w.nii.gz").write_bytes(b"torn")
    segment("T1w", tmp_path / "out")
    segment("T2w", tmp_path / "out")
    out = tmp_path / "out"
    texts = [(out / name).read_bytes() for name in files_below(out)]
    assert not any(b"Mustermann" in text for text in texts)
    assert "sub-01_T2w rejected" in caplog.text
    assert "Mustermann" not in caplog.text


def test_two_channels_make_one_mask(raw, tmp_path, make_model):
    choice = BidsChoice((), ("T1", "T2"))
    out = tmp_path / "out"
    studies = find_studies([raw], num_channels=2, out=out, bids=choice)
    result = segment_cohort(studies, make_model(num_channels=2), out, SegmentOptions(), CPU)
    assert [row.status for row in result.rows] == ["done", "rejected"]
    sidecar = out / "sub-01" / "anat" / "sub-01_seg-T1w_desc-trivox_dseg.json"
    names = [record.name for record in read_provenance(sidecar).recipe.inputs]
    assert names == ["sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"]


def test_the_data_set_itself_is_no_place_for_masks(raw, segment):
    with pytest.raises(ConfigError, match=r"Trivox did not make.*derivatives/trivox"):
        segment("T1w", raw)
    assert json.loads((raw / "dataset_description.json").read_text())["Name"] == "demo"


def test_a_rejected_study_takes_its_files_along(raw, segment, tmp_path):
    out = tmp_path / "out"
    segment("T2w", out)
    (raw / "sub-01" / "anat" / "sub-01_T2w.nii.gz").write_bytes(b"torn")
    assert [row.status for row in segment("T2w", out).rows] == ["rejected"]
    assert not any(path.is_file() for path in (out / "sub-01").rglob("*"))


def test_no_bids_no_description(tmp_path, model):
    prepare_derivative(tmp_path, [], "x", {"a": 1})
    assert not list(tmp_path.iterdir())


def test_a_labels_name_stays_in_its_cell(raw, tmp_path):
    studies = find_studies([raw], num_channels=1, out=None, bids=BidsChoice(("T2w",), ("x",)))
    prepare_derivative(tmp_path, studies, "x", {"left\tlung\n": 3})
    assert (tmp_path / "desc-trivox_dseg.tsv").read_text() == "index\tname\n3\tleft lung\n"


def test_masks_have_the_images_grid(raw, segment, tmp_path):
    segment("T1w", tmp_path / "out", SegmentOptions())
    mask = nib.load(tmp_path / "out/sub-01/anat/sub-01_seg-T1w_desc-trivox_dseg.nii.gz")
    image = nib.load(raw / "sub-01/anat/sub-01_T1w.nii.gz")
    assert mask.shape == image.shape
    assert np.array_equal(mask.affine, image.affine)
