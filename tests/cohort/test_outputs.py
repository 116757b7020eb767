import contextlib
from pathlib import Path

from pipeline.cohort.outputs import Outputs


def test_names_follow_the_case():
    outputs = Outputs(Path("out"), "a.1")
    assert [str(path) for path in outputs.all()] == [
        "out/a.1_seg.json", "out/a.1_seg.nii.gz", "out/a.1_probabilities.nii.gz", "out/a.1_seg.png",
    ]  # fmt: skip


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
        outputs.remove()
    assert outputs.mask.exists()
    assert not outputs.provenance.exists()


def test_remove_leaves_other_cases(tmp_path):
    for case in ("a", "b"):
        for path in Outputs(tmp_path, case).all():
            path.touch()
    Outputs(tmp_path, "a").remove()
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["b"] * 4
