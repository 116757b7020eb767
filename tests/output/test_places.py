import contextlib
from pathlib import Path

from pipeline.output.places import Outputs
from pipeline.study import StudyInput
from pipeline.study.input import BidsName


def test_names_follow_the_case():
    outputs = Outputs(Path("out"), "a.1")
    assert [str(path) for path in outputs.all()] == [
        "out/a.1_seg.json", "out/a.1_seg.nii.gz", "out/a.1_probabilities.nii.gz", "out/a.1_seg.png",
        "out/a.1_seg.dcm", "out/a.1_report.dcm",
    ]  # fmt: skip


def test_names_in_a_derivative_follow_the_image():
    image = Path("raw", "sub-1", "ses-2", "anat", "sub-1_ses-2_T1w.nii.gz")
    study = StudyInput("sub-1_ses-2_T1w", (image,), bids=BidsName.parse(image))
    stem = "out/sub-1/ses-2/anat/sub-1_ses-2_seg-T1w_desc-trivox"
    assert [str(path) for path in Outputs.of(Path("out"), study).all()] == [
        f"{stem}_dseg.json", f"{stem}_dseg.nii.gz", f"{stem}_probseg.nii.gz", f"{stem}_dseg.png",
        f"{stem}_dseg.dcm", f"{stem}_report.dcm", f"{stem}_probseg.json",
    ]  # fmt: skip


def test_a_study_has_its_outputs():
    study = StudyInput("a", (Path("b.nii"),))
    assert Outputs.of(Path("out"), study) == Outputs(Path("out"), "a")


def test_remove_takes_the_provenance_first(tmp_path, monkeypatch):
    outputs = Outputs(tmp_path, "a")
    outputs.mask.touch()
    outputs.provenance.touch()
    removed = []
    unlink = Path.unlink

    def killed_after_one(path, **options):
        assert not removed, "killed"
        removed.append(path)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", killed_after_one)
    with contextlib.suppress(AssertionError):
        outputs.remove("a" * 64)
    assert outputs.mask.exists()
    assert not outputs.provenance.exists()


def test_remove_leaves_other_cases(tmp_path):
    for case in ("a", "b"):
        for path in Outputs(tmp_path, case).all():
            path.touch()
    Outputs(tmp_path, "a").remove("a" * 64)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["b"] * 6
