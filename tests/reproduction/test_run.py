import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.errors import ConfigError, StudyError
from pipeline.inputs import BidsChoice, find_studies
from pipeline.model import load_model
from pipeline.output import FileRecord, read_provenance, write_provenance
from pipeline.postprocessing import EACH_LABEL
from pipeline.reproduction import Reproduction, Request, Sources, reproduce
from pipeline.reproduction.run import MaskComparison

CPU = torch.device("cpu")


@pytest.fixture
def request_again(made):
    return Request(made.provenance, (made.scan,), made.model, CPU)


def change_mask(made, num_voxels):
    """Write another mask as if it had been recorded so."""
    image = nib.load(made.mask)
    labels = np.asarray(image.dataobj).copy()
    indices = np.argwhere(labels > 0)[:num_voxels]
    labels[tuple(indices.T)] = 3 - labels[tuple(indices.T)]
    nib.save(nib.Nifti1Image(labels, image.affine, image.header), made.mask)
    recorded = read_provenance(made.provenance)
    outputs = {"mask": FileRecord.of(made.mask)}
    write_provenance(recorded.model_copy(update={"outputs": outputs}), made.provenance)
    return labels


def test_the_same_again_is_identical(made, request_again):
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    result = reproduce(request_again)
    assert result.verdict == "identical"
    assert result.comparison.same_bytes
    assert result.comparison.num_differing == 0
    assert result.differences == ()
    assert before == {p: p.read_bytes() for p in made.folder.rglob("*") if p.is_file()}


def test_nothing_is_left_in_the_temporary_folder(request_again, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    reproduce(request_again)
    assert not list((tmp_path / "tmp").iterdir())


def test_settings_are_those_that_were_recorded(made, request_again):
    """Labels below 100 ml are removed: nothing is left, unlike by the model's own settings."""
    own = np.asarray(nib.load(made.mask).dataobj)
    assert own.any()
    rules = [{"label": EACH_LABEL, "min_volume_mm3": 1e5}]
    made.segment(postprocessing={"rules": rules})
    assert not np.asarray(nib.load(made.mask).dataobj).any()
    assert reproduce(request_again).verdict == "identical"


def test_another_mask_is_counted_voxel_by_voxel(made, request_again):
    own = np.asarray(nib.load(made.mask).dataobj).copy()
    labels = change_mask(made, 7)
    result = reproduce(request_again)
    assert result.comparison.num_differing == 7
    assert result.comparison.num_voxels == 12 * 11 * 10
    assert result.comparison.num_foreground == np.count_nonzero(own)
    for name, value in (("liver", 1), ("lesion", 2)):
        both = np.count_nonzero((own == value) & (labels == value))
        all_of_it = np.count_nonzero(own == value) + np.count_nonzero(labels == value)
        assert result.comparison.dice[name] == pytest.approx(2 * both / all_of_it)
    assert result.verdict == "unexplained"


def test_other_compression_is_no_other_mask(made, request_again):
    change_mask(made, 0)
    result = reproduce(request_again)
    assert result.verdict == "identical"
    assert not result.comparison.same_bytes


@pytest.mark.parametrize(
    ("num_differing", "differences", "verdict"),
    [
        (0, (), "identical"),
        (0, ("torch: 1 when it was recorded, 2 now",), "identical"),
        (5, ("torch: 1 when it was recorded, 2 now",), "explained"),
        (6, ("torch: 1 when it was recorded, 2 now",), "unexplained"),
        (1, (), "unexplained"),
    ],
)
def test_little_is_explained_by_what_differs(num_differing, differences, verdict):
    """Half a percent of 1000 labelled voxels is 5."""
    comparison = MaskComparison(False, 9999, 1000, num_differing, {})
    assert Reproduction(None, comparison, differences).verdict == verdict


def test_versions_and_device_that_differ_are_listed(made, request_again):
    recorded = read_provenance(made.provenance)
    versions = recorded.versions | {"torch": "1.0"}
    changed = recorded.model_copy(update={"versions": versions, "device": "cuda:0 (A100)"})
    write_provenance(changed, made.provenance)
    now = recorded.versions["torch"]
    assert reproduce(request_again).differences == (
        "device: cuda:0 (A100) when it was recorded, cpu now",
        f"torch: 1.0 when it was recorded, {now} now",
    )


def test_another_input_is_refused(made, request_again, save_scan):
    save_scan(made.scan, seed=5)
    with pytest.raises(ConfigError, match=r"--input: no study has the content that a was made fr"):
        reproduce(request_again)


def test_another_model_is_refused(made, request_again, save_tiny_model):
    save_tiny_model(made.model, seed=5)
    with pytest.raises(ConfigError, match=r"--model: this is not the model that made the mask"):
        reproduce(request_again)


def test_a_mask_that_was_edited_is_refused(made, request_again):
    made.mask.write_bytes(made.mask.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"a_seg\.nii\.gz: the mask was changed since"):
        reproduce(request_again)


def test_a_mask_that_is_not_there_is_refused(made, request_again):
    made.mask.unlink()
    with pytest.raises(ConfigError, match="the recorded mask is not there"):
        reproduce(request_again)


def test_a_file_that_is_no_provenance_is_refused(made, request_again):
    made.provenance.write_text("{}")
    with pytest.raises(ConfigError, match="no provenance that this version can read"):
        reproduce(request_again)


@pytest.mark.parametrize("name", ["../scans/a.nii.gz", "/etc/hosts", ""])
def test_a_mask_elsewhere_is_refused(made, request_again, name):
    """The provenance may have come with the mask, from anywhere."""
    data = json.loads(made.provenance.read_text())
    data["outputs"]["mask"]["name"] = name
    made.provenance.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="names no mask beside it"):
        reproduce(request_again)


def test_settings_that_nobody_knows_are_refused(made, request_again):
    data = json.loads(made.provenance.read_text())
    data["recipe"]["settings"]["inference"]["magic"] = True
    data["recipe"]["settings"]["trivox"] = "9.9"
    made.provenance.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"recorded settings \(inference\.magic.*Use Trivox 9"):
        reproduce(request_again)


def test_the_study_is_found_among_others_by_its_content(made, request_again, save_scan):
    made.scan.rename(made.scan.with_name("renamed.nii.gz"))
    save_scan(made.scan, seed=5)
    again = replace(request_again, inputs=(made.scan.parent,))
    assert reproduce(again).verdict == "identical"


def test_channels_are_given_in_their_order(made, save_scan, save_tiny_model):
    save_tiny_model(made.model, num_channels=2)
    paths = [made.folder / "two" / name for name in ("x_0000.nii.gz", "x_0001.nii.gz")]
    for seed, path in enumerate(paths):
        save_scan(path, seed)
    model, out = load_model(made.model, CPU), made.folder / "masks of two"
    studies = find_studies([made.folder / "two"], num_channels=2, out=out)
    assert segment_cohort(studies, model, out, SegmentOptions(), CPU).all_done
    others = [path.rename(path.with_name(f"{'ba'[i]}.nii.gz")) for i, path in enumerate(paths)]
    again = Request(out / "x_seg.json", tuple(others), made.model, CPU)
    assert reproduce(again).verdict == "identical"
    with pytest.raises(ConfigError, match="in their order"):
        reproduce(replace(again, inputs=tuple(reversed(others))))


def test_a_bids_derivative_is_reproduced_from_its_data_set(made, save_scan):
    raw, out = made.folder / "raw", made.folder / "derived"
    for seed, suffix in enumerate(("T1w", "T2w")):
        save_scan(raw / "sub-1" / "anat" / f"sub-1_{suffix}.nii.gz", seed)
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    choice = BidsChoice(("T2w",), ("T0",))
    studies = find_studies([raw], num_channels=1, out=out, bids=choice)
    model = load_model(made.model, CPU)
    assert segment_cohort(studies, model, out, SegmentOptions(), CPU).all_done
    sidecar = out / "sub-1" / "anat" / "sub-1_seg-T2w_desc-trivox_dseg.json"
    assert reproduce(Request(sidecar, (raw,), made.model, CPU)).verdict == "identical"


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"inputs": ()}, r"Name them: --input FILE \.\.\.\."),
        ({"model": None}, r"Name them: --model DIR\."),
        ({"inputs": (), "model": None}, r"Name them: --input FILE \.\.\. and --model DIR\."),
    ],
)
def test_what_is_not_named_is_asked_for(made, request_again, changes, lacking):
    with pytest.raises(ConfigError, match=lacking):
        reproduce(replace(request_again, **changes))


def test_what_is_not_named_may_be_known(made, request_again):
    asked = []

    def locate(path):
        asked.append(path)
        return Sources((made.scan,), made.model)

    assert reproduce(replace(request_again, locate=locate)).verdict == "identical"
    assert asked == [], "nothing was missing"
    unnamed = replace(request_again, inputs=(), model=None, locate=locate)
    assert reproduce(unnamed).verdict == "identical"
    assert asked == [made.provenance]


def test_a_study_that_is_rejected_now_says_why(request_again):
    with pytest.raises(StudyError, match=r"a: rejected: .* of memory, but only 0\.0 GB"):
        reproduce(replace(request_again, max_bytes=10**6))
