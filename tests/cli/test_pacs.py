import io

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from pipeline.cli import pacs
from pipeline.cli.main import main
from pipeline.cli.parser import build_parser
from pipeline.cohort import own_process
from pipeline.errors import PipelineError
from pipeline.model import save_model
from tests.pacs.conftest import orthanc, stored_study  # noqa: F401 (fixtures)
from tests.pacs.orthanc import CALLING_AE, PASSWORD, USER
from tests.pacs.studies import IDENTIFIERS, ThresholdSegmenter
from tests.tiny import tiny_model


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{USER}:{PASSWORD}\n", encoding="utf-8")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def segmenter(monkeypatch, tmp_path):
    """A simple segmentation in the place of a model's."""
    segment = ThresholdSegmenter(tmp_path / "out")
    segment.close = lambda: None
    monkeypatch.setattr(pacs, "_segmenter", lambda options: (segment, "recipe"))
    return segment


@pytest.fixture
def words(orthanc, key, tmp_path):  # noqa: F811
    return [
        *("pacs", "--archive", orthanc.web, "--credentials", key),
        *("--model", "none", "--out", str(tmp_path / "out")),
    ]


def test_there_and_back(words, segmenter, stored_study, orthanc, capsys, tmp_path):  # noqa: F811
    study_uid, _ = stored_study(num_series=2)
    query = ["--query", f"StudyInstanceUID={study_uid}", "Modality=CT"]
    assert main([*words, *query, "--no-push"]) == 0
    assert "1 studies, 2 series: 2 segmented; see" in capsys.readouterr().out
    assert orthanc.segmentations(study_uid) == []
    assert main([*words, *query]) == 0
    assert "1 studies, 2 series: 2 pushed; see" in capsys.readouterr().out
    assert len(orthanc.segmentations(study_uid)) == 2
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "1 studies (2 series): 0 queued, 0 pulled, 0 segmented, 1" in capsys.readouterr().out
    assert main([*words, *query]) == 0
    assert "2 pushed (1 studies were complete already)" in capsys.readouterr().out


def test_from_one_transport_to_another(
    words,
    segmenter,
    stored_study,  # noqa: F811
    orthanc,  # noqa: F811
    key,
):
    study_uid, _ = stored_study()
    here = ["--archive", orthanc.dimse, "--calling-ae", CALLING_AE]
    there = ["--push", orthanc.web, "--push-credentials", key]
    query = ["--query", f"StudyInstanceUID={study_uid}"]
    assert main([words[0], *here, *words[5:], *query, *there]) == 0
    assert len(orthanc.segmentations(study_uid)) == 1


def test_what_was_rejected_makes_the_exit_code_1(words, segmenter, stored_study, capsys):  # noqa: F811
    study_uid, _ = stored_study(num_series=2)
    segmenter.reject = (2,)
    assert main([*words, "--query", f"StudyInstanceUID={study_uid}"]) == 1
    captured = capsys.readouterr()
    assert "1 pushed, 1 rejected" in captured.out
    assert "rejected: it is too bright" in captured.err
    assert [text for text in IDENTIFIERS if text in captured.out + captured.err] == []


def test_a_dry_run_counts_and_touches_nothing(words, stored_study, capsys, tmp_path):  # noqa: F811
    study_uid, _ = stored_study(num_series=2)
    query = ["--query", f"StudyInstanceUID={study_uid}"]
    assert main([*words[:5], *query, "--dry-run"]) == 0
    assert capsys.readouterr().out == "1 studies, 2 series\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ([], 2, "an empty query would take the whole archive"),
        (["--query", "Modalty=CT"], 2, "Did you mean Modality?"),
        (["--query", "modality=CT"], 2, "Did you mean Modality?"),
        (["--query", "Modality=CT", "--push", "pacs"], 2, "--push: the address has no host"),
        (["--query", "Modality=CT", "--calling-ae", "A" * 17], 2, "application entity title"),
        (["--query", "Modality=CT"], 2, "No such file|does not exist|no model|is no model"),
    ],
)
def test_what_goes_wrong_is_one_line(words, more, code, text, capsys, tmp_path):
    import re

    assert main([*words, *more]) == code
    said = capsys.readouterr().err
    assert re.search(text, said)
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_how_long_a_process_may_be_silent_can_be_said(real, monkeypatch, capsys):
    _, _, words = real
    asked = []

    def refuse(_remote, _log_level, hung_after_s):
        asked.append(hung_after_s)
        raise PipelineError("here", "no process today", "Come again.")

    monkeypatch.setattr(own_process, "OwnProcess", refuse)
    assert main([*words, "--hung-after", "0.5"]) == 1
    assert asked == [30]
    assert "no process today" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["model", "out"])
def test_a_model_and_an_output_folder_are_needed_to_segment(words, missing, capsys):
    at = words.index(f"--{missing}")
    assert main([*words[:at], *words[at + 2 :], "--query", "Modality=CT"]) == 2
    assert f"--{missing}: it is missing" in capsys.readouterr().err


def test_wrong_credentials_are_one_line_without_them(words, segmenter, key, capsys, tmp_path):
    (tmp_path / "key").write_text("reader:wrong-secret\n", encoding="utf-8")
    assert main([*words, "--query", "Modality=CT"]) == 2
    said = capsys.readouterr().err
    assert "refuses the credentials (HTTP 401)" in said
    assert "wrong-secret" not in said


@pytest.mark.parametrize("more", [["--limit", "0"], ["--limit", "x"], ["--push", "a", "--no-push"]])
def test_wrong_words_end_with_2(more):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["pacs", "--archive", "https://pacs/x", *more])
    assert ended.value.code == 2


@pytest.fixture
def real(orthanc, key, stored_study, tmp_path):  # noqa: F811
    """Return a study in the archive, its series, and the words that segment it with a model."""
    channels = [{"name": "CT", "modality": "CT"}]
    save_model(tiny_model(channels=channels), tmp_path / "model")
    study_uid, (series_uid,) = stored_study(num_slices=12)
    words = [
        *("pacs", "--archive", orthanc.web, "--credentials", key, "--device", "cpu"),
        *("--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")),
        *("--query", f"StudyInstanceUID={study_uid}", "admission.mode=warn"),
    ]
    return study_uid, series_uid, words


def test_a_model_segments_what_the_archive_has_and_the_archive_keeps_it(
    orthanc,  # noqa: F811
    real,
    tmp_path,
    capsys,
):
    """All of it is real: archive, reader, admission, network, DICOM SEG and SR."""
    (study_uid, series_uid, words), out = real, tmp_path / "out"
    assert main(words) == 0
    assert "1 studies, 1 series: 1 pushed" in capsys.readouterr().out
    (uid,) = orthanc.segmentations(study_uid)
    (found,) = orthanc.post("/tools/lookup", data=uid).json()
    kept = orthanc.get(f"/instances/{found['ID']}/file").content
    segmentation = dcmread(io.BytesIO(kept))
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == series_uid
    (mask,) = out.glob("*_seg.nii.gz")
    labels = nib.load(mask).get_fdata()
    assert labels.any()
    # A bit for each voxel of the frames that have any.
    assert np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8)).sum() == labels.sum()
    before = mask.stat().st_mtime_ns
    assert main(words) == 0
    assert "(1 studies were complete already)" in capsys.readouterr().out
    assert mask.stat().st_mtime_ns == before
    assert len(orthanc.segmentations(study_uid)) == 1


def test_with_a_new_journal_nothing_is_made_or_pushed_twice(
    orthanc,  # noqa: F811
    real,
    tmp_path,
    capsys,
):
    """The masks say what they were made of, and the archive what it has."""
    (study_uid, _, words), out = real, tmp_path / "out"
    assert main(words) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*_*.*")}
    num_instances = len(orthanc.get("/instances").json())
    for path in (out / ".trivox").glob("journal.sqlite-*"):
        path.unlink()
    journal = out / ".trivox" / "journal.sqlite"
    journal.write_bytes(b"this is no database" * 100)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "run the same command again: a new journal is made" in said
    assert "--out" not in said, "in another folder all would be made and pushed again"
    journal.rename(out / ".trivox" / "damaged")
    assert main(words) == 0
    assert "1 studies, 1 series: 1 pushed" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*_*.*")} == before
    assert len(orthanc.segmentations(study_uid)) == 1
    assert len(orthanc.get("/instances").json()) == num_instances
