"""The verbs' own decisions; that they do their work is shown in test_end_to_end.py."""

import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import ModelError
from pipeline.evaluation import Summary
from pipeline.evaluation.aggregate import METRICS
from pipeline.model import read_description, save_description, save_model
from pipeline.postprocessing import Rule
from pipeline.selection import Decision
from pipeline.selection.evidence import store_decision
from pipeline.selection.records import ScoreRecord
from pipeline.training import RunFolder
from tests.dicom_files import ROOT, make_series, positions_along, save_series
from tests.tiny import tiny_model


def write(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def test_check_of_inputs_tells_by_exit_code_whether_one_is_bad(tmp_path, capsys):
    write(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(4, 5, 6)))
    assert main(["check", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1 case checked" in printed
    assert "studies to segment; training needs a manifest" in printed
    (tmp_path / "b.nii").write_text("not an image", encoding="utf-8")
    assert main(["check", str(tmp_path)]) == 1
    assert "b.nii" in capsys.readouterr().out


def test_check_with_a_model_compares_without_segmenting(tmp_path, capsys):
    save_model(tiny_model(), tmp_path / "model")
    scans = tmp_path / "scans"
    write(scans / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    words = ["check", str(scans), "--model", str(tmp_path / "model")]
    assert main(words) == 0
    assert "no errors, 1 warning" in capsys.readouterr().out.replace("no error,", "no errors,")
    coarse = nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)), np.diag([1, 9, 1, 1]))
    nib.save(coarse, scans / "b.nii.gz")
    assert main(words) == 1
    assert "9 mm along A" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "admission.spacing=warn"]) == 0
    assert main([*words, "inference.overlap=0.1"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "scans"]


def test_segment_without_a_model_says_what_to_give(tmp_path, capsys):
    write(tmp_path / "a.nii.gz", np.zeros((4, 5, 6)))
    words = ["--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert main(["segment", str(tmp_path / "a.nii.gz"), *words]) == 2
    assert "no model here" in capsys.readouterr().err


def test_segment_takes_the_images_of_a_bids_data_set_that_are_named(tmp_path, capsys):
    raw, masks, model = tmp_path / "raw", tmp_path / "masks", tmp_path / "model"
    for suffix in ("PDw", "T2w"):
        write(raw / f"sub-1/anat/sub-1_{suffix}.nii.gz", np.random.default_rng(0).random((9, 9, 9)))
    (raw / "dataset_description.json").write_text('{"Name": "demo", "BIDSVersion": "1.8.0"}')
    save_model(tiny_model(), model)
    words = ["segment", str(raw), "--model", str(model), "--out", str(masks), "--device", "cpu"]
    assert main(words) == 2
    assert "PDw (1), T2w (1). Name the suffix" in capsys.readouterr().err
    assert main([*words, "--bids-suffix", "PDw"]) == 0
    assert (masks / "sub-1" / "anat" / "sub-1_seg-PDw_desc-trivox_dseg.nii.gz").is_file()
    assert main(["check", str(raw), "--bids-suffix", "T2w"]) == 0
    assert "1 case" in capsys.readouterr().out


def test_evaluate_goes_on_past_a_case_without_partner(tmp_path, capsys):
    cube = np.zeros((6, 6, 6), np.uint8)
    cube[1:4, 1:4, 1:4] = 1
    write(tmp_path / "predictions" / "a_seg.nii.gz", cube)
    write(tmp_path / "references" / "a.nii.gz", cube)
    write(tmp_path / "references" / "b.nii.gz", cube)
    folders = [
        word
        for name in ("predictions", "references", "out")
        for word in (f"--{name}", str(tmp_path / name))
    ]
    assert main(["evaluate", *folders, "nsd_tolerance_mm=2"]) == 1
    printed = capsys.readouterr()
    assert "b:" in printed.err
    assert "1.000" in printed.out
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("word", ["nsd_tolerance=2", "tolerance.mm=2"])
def test_evaluate_names_the_valid_settings(tmp_path, capsys, word):
    folders = [f"--{name}={tmp_path}" for name in ("predictions", "references", "out")]
    assert main(["evaluate", *folders, word]) == 2
    assert "nsd_tolerance_mm" in capsys.readouterr().err


def test_evaluate_without_a_pair_is_an_error_and_writes_nothing(tmp_path, capsys):
    cube = np.ones((3, 3, 3), np.uint8)
    write(tmp_path / "predictions" / "a_seg.nii.gz", cube)
    write(tmp_path / "references" / "b.nii.gz", cube)
    folders = [f"--{name}={tmp_path / name}" for name in ("predictions", "references", "out")]
    assert main(["evaluate", *folders]) == 2
    assert "no case could be scored" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.csv"))


def test_an_interrupted_training_says_how_to_go_on(tiny_run, monkeypatch, capsys):
    def interrupt(config, *, resume, source):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.training.train", interrupt)
    config = str(tiny_run / "tiny.yaml")
    assert main(["train", config, "name=a b"]) == 2
    assert main(["train", config, "name=ab"]) == 130
    assert f"trivox train {shlex.quote(config)} name=ab --resume" in capsys.readouterr().err


def test_a_manifest_names_files_elsewhere_only_with_leave(tmp_path, capsys):
    write(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    (tmp_path / "set").mkdir()
    table = tmp_path / "set" / "list.csv"
    table.write_text(f"image\n{tmp_path}/a.nii.gz\n")
    assert main(["check", str(table)]) == 2
    assert "list.csv:2: a path leads out" in capsys.readouterr().err
    assert main(["check", str(table), "--allow-outside"]) == 0
    save_model(tiny_model(), tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["segment", str(table), *words]) == 2
    assert not list((tmp_path / "out").glob("*.csv"))
    assert main(["segment", str(table), *words, "--allow-outside"]) == 0


def test_check_refuses_what_it_would_ignore(tmp_path, capsys):
    write(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(4, 5, 6)))
    (tmp_path / "a.csv").write_text("image\na.nii.gz\n")
    assert main(["check", str(tmp_path / "a.nii.gz"), "--root", str(tmp_path)]) == 2
    assert main(["check", str(tmp_path / "a.csv"), str(tmp_path / "a.csv")]) == 2
    assert "Check each manifest alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "called", "data"),
    [
        (["fold=all"], "cross_validate", ("all", 5)),
        (["fold=all", "folds=3", "--from", "here"], "cross_validate", ("all", 3)),
        (["fold=2"], "train", (2, 5)),
        (["data.fold=1", "folds=2", "--resume"], "train", (1, 2)),
    ],
)
def test_train_takes_short_names_for_the_folds(tiny_run, monkeypatch, words, called, data):
    calls = []

    def stop(name):
        def run(config, *, resume, source):
            calls.append((name, config.data, resume, source))
            raise KeyboardInterrupt

        return run

    for name in ("train", "cross_validate"):
        monkeypatch.setattr(f"pipeline.training.{name}", stop(name))
    assert main(["train", str(tiny_run / "tiny.yaml"), *words]) == 130
    ((name, found, resume, source),) = calls
    assert name == called
    assert (found.fold, found.folds) == data
    assert resume is ("--resume" in words)
    assert source == (Path("here") if "--from" in words else None)


def test_segment_mirrors_only_with_a_model_that_was_trained_with_it(tmp_path, capsys):
    for name, axes in (("plain", ()), ("mirrored", ("R",))):
        save_model(tiny_model(mirror_axes=axes), tmp_path / name)
    write(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    words = ["segment", str(tmp_path / "a.nii.gz"), "--out", str(tmp_path / "out")]
    mirror = "inference.mirror=true"
    assert main([*words, "--model", str(tmp_path / "mirrored"), mirror]) == 0
    assert (tmp_path / "out" / "a_seg.nii.gz").is_file()
    assert main([*words, "--model", str(tmp_path / "plain"), mirror]) == 2
    assert "mirrored along no axis; leave it out, or train with" in capsys.readouterr().err


def test_segment_stays_within_the_memory_it_is_given(tmp_path):
    save_model(tiny_model(), tmp_path / "model")
    write(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    words = ["segment", str(tmp_path / "a.nii.gz"), "--model", str(tmp_path / "model")]
    words += ["--out", str(tmp_path / "out"), "--max-memory"]
    assert main([*words, "1MB"]) == 1
    assert "Raise --max-memory" in (tmp_path / "out" / "cohort.csv").read_text()
    assert main([*words, "64GB"]) == 0
    assert main([*words, "much"]) == 2


def test_export_takes_settings_of_use_and_says_where_to_read_on(tmp_path, capsys):
    save_model(tiny_model(), tmp_path / "model")
    words = ["export", str(tmp_path / "model"), "--to", "bundle", "--out", str(tmp_path / "out")]
    assert main([*words, "network.name=fcn"]) == 2
    assert "cannot be changed here" in capsys.readouterr().err
    assert main([*words, "inference.overlap=0.25"]) == 0
    readme = capsys.readouterr().out.strip().removeprefix("bundle: see ")
    assert "monai.bundle run" in Path(readme).read_text()
    config = json.loads((tmp_path / "out" / "configs" / "inference.json").read_text())
    assert config["inferer"]["overlap"] == 0.25
    assert main(words) == 2
    assert "lies where the model would be written" in capsys.readouterr().err


class Finished:
    """What a finished cross-validation leaves, as far as `train` looks at it."""

    def __init__(self, folder):
        self.folder = RunFolder(folder)
        means = dict.fromkeys(METRICS, 0.5) | {"volume_error_percent": 13.0}
        self.summaries = [Summary("organ", name, mean, 0.4, 0.6, 3) for name, mean in means.items()]
        self.is_finished = True
        self.note = ""


@pytest.fixture
def after_training(tiny_run, tmp_path, monkeypatch):
    """Call `train` as if its training were done, with another search; return the code."""

    def call(search, *words, saves=True):
        if saves:
            save_model(tiny_model(), tmp_path / "model")
        monkeypatch.setattr("pipeline.training.cross_validate", lambda *_, **__: Finished(tmp_path))
        monkeypatch.setattr("pipeline.training.train", lambda *_, **__: Finished(tmp_path))
        monkeypatch.setattr("pipeline.selection.search_postprocessing", search)
        return main(["train", str(tiny_run / "tiny.yaml"), *words])

    return call


def never(*_, **__):
    raise AssertionError("nothing is searched")


OFF = Decision(
    verdict="off",
    reason="off: 5 validation cases",
    num_cases=5,
    num_folds=5,
    nsd_tolerance_mm=1,
    confidence=0.95,
    num_resamples=1,
    versions={},
    seconds=1,
)


@pytest.mark.parametrize(
    ("fold", "parts"), [("fold=all", ("fold_0", "fold_1", "fold_2")), ("fold=2", (".",))]
)
def test_every_training_ends_with_choosing_post_processing(
    after_training, tmp_path, capsys, fold, parts
):
    text = (
        "epoch,iteration,elapsed_s,learning_rate,loss,wait_share,validation_dice\r\n"
        "1,1,100.0,0.1,0.1,0.1,\r\n2,2,1000.0,0.1,0.1,0.1,\r\n"
    )
    for part in parts:
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / "metrics.csv").write_text(text)
    calls = []
    assert after_training(lambda *args, **how: calls.append((args, how)) or OFF, fold) == 0
    (((model,), how),) = calls
    assert model == tmp_path / "model"
    assert how["seconds"] == 150 * len(parts)
    printed = capsys.readouterr().out
    assert "decision on 5 validation cases: off" in printed
    assert "mean volume of organ on validation is off by +13.0 % (" in printed
    assert after_training(never, fold, "training.search_postprocessing=false") == 0


def test_volumes_are_told_as_the_chosen_clean_up_leaves_them(after_training, capsys):
    row = ScoreRecord(
        way="rules",
        label="organ",
        num_cases=3,
        dice=0.5,
        nsd=0.5,
        hd95_mm=1,
        volume_error_percent=7,
    )
    scores = (row.model_copy(update={"way": "none", "volume_error_percent": 13.0}), row)
    chosen = OFF.model_copy(update={"verdict": "accepted", "chosen_way": "rules", "scores": scores})
    assert after_training(lambda *_, **__: chosen) == 0
    printed = capsys.readouterr().out
    assert printed.index("decision on 5") < printed.index("mean volume of organ on validation")
    assert "cleaned up as was chosen, is off by +7.0 %; " in printed
    assert "+13.0 % (" not in printed


def test_what_was_decided_is_shown_and_not_decided_again(after_training, tmp_path, capsys):
    def decide(model, **_):
        store_decision(OFF, read_description(model), model)
        return OFF

    assert after_training(decide) == 0
    said = capsys.readouterr().out
    assert after_training(never, saves=False) == 0
    assert capsys.readouterr().out == said
    described = read_description(tmp_path / "model").postprocessing.model_copy(
        update={"rules": (Rule(label="organ", keep_largest=1),)}
    )
    changed = read_description(tmp_path / "model").model_copy(update={"postprocessing": described})
    save_description(changed, tmp_path / "model")
    assert after_training(decide, saves=False) == 0, "one that was not put to use is made again"


def test_post_processing_that_was_configured_is_left_alone(after_training, capsys):
    rules = "postprocessing.rules=[{label: liver, keep_largest: 1}]"
    assert after_training(never, "fold=all", rules) == 0
    assert "choose it on validation with: trivox postprocess-search" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ModelError("model", "it is torn", "Do this."), 1, "it is torn. Do this."),
        (OSError(28, "no space left"), 1, "no space left"),
        (KeyboardInterrupt(), 130, "go on choosing"),
    ],
)
def test_a_finished_training_survives_its_search(after_training, capsys, error, code, words):
    def fail(*_, **__):
        raise error

    assert after_training(fail, "fold=1") == code
    printed = capsys.readouterr()
    assert "0.500" in printed.out
    assert words in printed.err
    assert "the model is finished" in printed.err
    again = "fold=1 --resume" if code == 130 else "trivox postprocess-search"
    assert again in printed.err


def test_show_and_search_name_what_is_no_model(tmp_path, capsys):
    for verb in ("show", "postprocess-search"):
        assert main([verb, str(tmp_path)]) == 2
        assert "no model here" in capsys.readouterr().err


def test_segment_chooses_among_dicom_series_by_rule(tmp_path, capsys):
    save_model(tiny_model(), tmp_path / "model")
    stored_KJI = np.random.default_rng(0).integers(0, 900, (9, 9, 9)).astype(np.int16)
    for number in (1, 2):
        slices = make_series(
            stored_KJI, positions_along(count=9), series=number, Modality="MR", PixelSpacing=[3, 3]
        )
        save_series(slices, tmp_path / "in" / str(number))
    out = tmp_path / "out"
    words = ["segment", str(tmp_path / "in"), "--model", str(tmp_path / "model"), "--out", str(out)]
    assert main([*words, "--device", "cpu"]) == 1
    assert "0 done, 1 rejected" in capsys.readouterr().out
    assert "2 series could be meant" in (out / "cohort.csv").read_text()
    assert main([*words, "--device", "cpu", "--series", "2"]) == 0
    (mask,) = out.glob("dicom_*_seg.nii.gz")
    assert nib.load(mask).shape == (9, 9, 9)
    key = (out / ".trivox" / "key.csv").read_text()
    assert f"{ROOT}1.2" in [row.split(",")[1] for row in key.splitlines() if mask.name[:16] in row]
    assert main([*words, "--series", "best"]) == 2
    assert "--series: it is no rule" in capsys.readouterr().err


def test_show_spells_what_a_stranger_notes_of_training(tmp_path, capsys):
    save_model(tiny_model(), tmp_path / "model")
    path = tmp_path / "model" / "configs" / "metadata.json"
    content = json.loads(path.read_text("utf-8"))
    content["trivox"]["training"] = {
        "data": "\x1b[5mdata\n\x9b\u202e :smile: [red]",
        "never_seen": 5,
        "never_found": {"a": 1},
        "fold": 1,
    }
    path.write_text(json.dumps(content), "utf-8")
    path.with_name("hashes.json").unlink(missing_ok=True)
    assert main(["show", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert r"of \x1b[5mdata\n\x9b\u202e :smile: [red]" in printed
    assert printed.replace("\n", "").isprintable()


def test_an_error_is_one_line_that_does_nothing(tmp_path, capsys):
    assert main(["show", str(tmp_path / "\x1b[31m\n\u202e")]) == 2
    said = capsys.readouterr().err
    assert r"\x1b[31m\n\u202e: no model here" in said
    assert len(said.splitlines()) == 1
