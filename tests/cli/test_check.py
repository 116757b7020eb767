"""What `check` and `plan` are told to do, they take; the four verbs read the same data alike."""

import nibabel as nib
import numpy as np
import pytest
import yaml

from pipeline.cli.main import main
from pipeline.cohort import adopt_study
from pipeline.config import load_config
from pipeline.study import StudyConfig
from pipeline.training import RunConfig, RunFolder
from pipeline.training.data import adopt_reading
from pipeline.training.prepare import describe_run, prepare_run


def write(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def test_check_takes_the_settings_of_reading_and_no_others(tmp_path, capsys):
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6))
    voxels[0] = np.nan
    write(tmp_path / "a.nii.gz", voxels)
    assert main(["check", str(tmp_path)]) == 1
    assert "study.non_finite=repair" in " ".join(capsys.readouterr().out.split())
    assert main(["check", str(tmp_path), "study.non_finite=repair"]) == 0
    assert main(["check", str(tmp_path), "training.max_minutes=3"]) == 2
    assert "data, study, preprocessing" in capsys.readouterr().err


@pytest.fixture
def odd_data(tmp_path):
    """Return a data set that needs all remedies: NaN around a head, a mask, a link outwards."""
    rows = "case,image:T1,image:ROI,label\n"
    ball = np.linalg.norm(np.indices((20, 20, 20)) - 10, axis=0)
    for number in range(4):
        label = (ball <= 5).astype(np.uint8)
        image = 100 + 60 * label + np.random.default_rng(number).normal(0, 8, label.shape)
        image[ball > 9] = np.nan
        for name, voxels in (("t", image), ("r", label), ("l", label)):
            write(tmp_path / "elsewhere" / f"{name}{number}.nii.gz", voxels)
        rows += f"c{number},../elsewhere/t{number}.nii.gz,../elsewhere/r{number}.nii.gz,"
        rows += f"../elsewhere/l{number}.nii.gz\n"
    data = tmp_path / "set"
    data.mkdir()
    (data / "cases.csv").write_text(rows)
    (data / "manifest.yaml").write_text(
        "name: t\nchannels: [{name: T1, modality: MR}, {name: ROI, modality: MR}]\n"
        "labels: {a: 1}\ncases: cases.csv\n"
    )
    return data


REMEDIES = (
    "study.non_finite=repair",
    "study.allow_label_maps=true",
    "preprocessing.normalisation.ROI=none",
)


def test_check_and_plan_take_the_remedies_that_they_print(odd_data, capsys):
    manifest, out = str(odd_data / "manifest.yaml"), odd_data / "p.yaml"
    verbs = (["check", manifest], ["plan", manifest, "--out", str(out), "--no-measure"])
    for words in verbs:
        assert main(words) != 0
        assert "--allow-outside" in capsys.readouterr().err
        given = [*words, "--allow-outside"]
        for number, remedy in enumerate(REMEDIES):
            assert main([*given, *REMEDIES[:number]]) != 0
            printed = capsys.readouterr()
            said = remedy.replace("ROI", "CHANNEL")
            assert said in "".join((printed.out + printed.err).split())
        assert main([*given, *REMEDIES]) == 0
    planned = yaml.safe_load(out.read_text())
    assert planned["data"]["allow_outside"] is True
    assert planned["study"] == {"non_finite": "repair", "allow_label_maps": True}
    assert planned["preprocessing"]["normalisation"] == {"ROI": "none"}


def test_a_mask_as_ct_leaves_nothing_and_plan_says_so(odd_data, capsys):
    words = ["plan", str(odd_data / "manifest.yaml"), "--out", str(odd_data / "p.yaml")]
    words += ["--no-measure", "--allow-outside", *REMEDIES[:2]]
    assert main([*words, "preprocessing.normalisation.ROI=ct"]) != 0
    assert "channel ROI: 99 %" in capsys.readouterr().err
    assert not (odd_data / "p.yaml").exists()


def test_settings_in_the_manifest_are_those_of_every_verb(odd_data, capsys):
    manifest = odd_data / "manifest.yaml"
    text = manifest.read_text().replace("ROI, modality: MR", "ROI, modality: other")
    manifest.write_text(f"{text}study: {{non_finite: repair, allow_label_maps: true}}\n")
    assert main(["check", str(manifest), "--allow-outside"]) == 0
    words = ["plan", str(manifest), "--out", str(odd_data / "p.yaml"), "--no-measure"]
    assert main([*words, "--allow-outside"]) == 0
    config = load_config(RunConfig, odd_data / "p.yaml", [f"output={odd_data}"])
    prepared = prepare_run(config, RunFolder(config.folder))
    description = describe_run(config, prepared)
    # What segmenting then needs is in the model; a run keeps what the manifest said.
    assert description.study.non_finite == "repair"
    assert [channel.kind for channel in description.preprocessing.channels][1] == "zscore"
    assert adopt_reading(config).study == description.study
    assert adopt_reading(config).preprocessing.normalisation["ROI"] == "zscore"
    strict = adopt_study(description.model_copy(update={"study": StudyConfig()}), [manifest])
    assert strict.study == description.study


def test_check_says_what_a_list_of_cases_leaves_out(tmp_path, capsys):
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6))
    write(tmp_path / "a" / "a.nii.gz", voxels)
    write(tmp_path / "a" / "b.nii.gz", voxels)
    (tmp_path / "a" / "dataset.json").write_text(
        '{"modality": {"0": "MRI"}, "labels": {"1": "x"}, '
        '"training": [{"image": "a.nii.gz", "label": "a.nii.gz"}]}'
    )
    main(["check", str(tmp_path / "a")])
    assert "1 images lie in folders of a list of cases" in "".join(capsys.readouterr())
