"""Validation with a network that reads the labels from the image, so that every score is known."""

import csv
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.cli.main import main
from pipeline.errors import ManifestError
from pipeline.evaluation import EvaluationConfig, Summary
from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig
from pipeline.losses import LossConfig
from pipeline.manifest import Case, Channel, Manifest, Region
from pipeline.model import (
    ChannelDescription,
    Model,
    ModelDescription,
    read_description,
    save_model,
)
from pipeline.network import NetworkConfig
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig
from pipeline.training import validation
from pipeline.training.validation import (
    ValidationFolder,
    made_by,
    note_zeros,
    quick_dice,
    validate,
    volume_notes,
)
from pipeline.transforms import ChannelNormalisation, Preprocessing

CPU = torch.device("cpu")
LABELS = {"organ": 1, "lesion": 5}
SPACING_MM = (2.0, 1.0, 3.0)
CONFIG = EvaluationConfig(num_resamples=10)
# An oblique grid whose axes run to left, front and foot.
TURN = np.deg2rad(20)
AFFINE = np.array(
    [
        [-2.0, 0.0, 0.0, 5.0],
        [0.0, np.cos(TURN), 3 * np.sin(TURN), -7.0],
        [0.0, np.sin(TURN), -3 * np.cos(TURN), 11.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


class Reader(torch.nn.Module):
    """Takes the class whose intensity, 0.1 times its label value, is nearest to the voxel's."""

    def forward(self, image_BCIJK):
        intensities = torch.tensor([0.0, 0.1, 0.5]).reshape(1, 3, 1, 1, 1)
        return -10000 * (image_BCIJK - intensities) ** 2


@pytest.fixture
def model():
    description = ModelDescription(
        name="reader",
        channels=(ChannelDescription(name="CT", modality="CT"),),
        labels=LABELS,
        study=StudyConfig(),
        preprocessing=Preprocessing(
            spacing_mm=SPACING_MM,
            crop_margin_mm=10.0,
            channels=(ChannelNormalisation(kind="ct", low=0, high=1000, mean=0, std=1000),),
        ),
        network=NetworkConfig(features=(4, 4, 8)),
        inference=InferenceConfig(window=(8, 8, 8), precision="fp32"),
        postprocessing=PostprocessingConfig(),
        fingerprint=Fingerprint(
            num_cases=1,
            spacing_mm=SPACING_MM,
            spacing_range_mm=(SPACING_MM, SPACING_MM),
            shape=(12, 14, 10),
            channels=(),
        ),
        training={},
    )
    return Model(description, (Reader(),))


def labels_with(organ=slice(2, 6), lesion=slice(0, 0)):
    labels_IJK = np.zeros((12, 14, 10), np.uint8)
    labels_IJK[organ, 3:7, 3:7] = 1
    labels_IJK[lesion, 9:11, 2:4] = 5
    return labels_IJK


@pytest.fixture
def manifest(tmp_path):
    """Three cases: Dice of the organ 1, 0.5 and 0; of the lesion 1, absent and missed."""
    whole, shifted = labels_with(lesion=slice(8, 10)), labels_with(organ=slice(4, 8))
    lost = labels_with(organ=slice(6, 10))
    studies = {
        "good": (whole, whole),
        "half": (labels_with(), shifted),
        "lost": (whole, lost),
    }
    cases = []
    for name, (reference_IJK, seen_IJK) in studies.items():
        paths = {}
        # The image is the label map that the network will "see", at a hundred units a label.
        noise = np.random.default_rng(0).integers(-10, 11, seen_IJK.shape, dtype=np.int16)
        image_IJK = seen_IJK.astype(np.int16) * 100 + noise
        for kind, data in (("images", image_IJK), ("labels", reference_IJK)):
            paths[kind] = tmp_path / kind / f"{name}.nii.gz"
            paths[kind].parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data, AFFINE), paths[kind])
        cases.append(Case(name, (paths["images"],), paths["labels"], subject=name))
    return Manifest(
        path=Path("manifest.yaml"),
        name="known",
        description="",
        origin="",
        licence="",
        channels=(Channel("CT", "CT"),),
        labels=LABELS,
        cases=tuple(cases),
    )


@pytest.fixture
def folder(manifest, model, tmp_path):
    folder = tmp_path / "validation"
    summaries = validate(
        manifest.cases, manifest, model, ValidationFolder(folder), device=CPU, config=CONFIG
    )
    assert {summary.metric for summary in summaries} >= {"dice", "hd95_mm"}
    return folder


def read_scores(folder):
    with (folder / "scores.csv").open() as file:
        return {(row["case"], row["label"]): row for row in csv.DictReader(file)}


def test_quick_dice_by_hand(manifest, model):
    good, half, lost = manifest.cases
    assert quick_dice([good], model, CPU) == 1.0
    assert quick_dice([half], model, CPU) == 0.5
    assert quick_dice([lost], model, CPU) == 0.0
    assert quick_dice(manifest.cases, model, CPU) == pytest.approx((1 + 1 + 0.5 + 0 + 0) / 5)
    assert quick_dice([], model, CPU) is None


def with_ignored_miss(manifest):
    """One case, in which nobody annotated the slices where prediction and reference differ."""
    case = manifest.cases[1]
    image = nib.load(case.label)
    labels_IJK = np.asanyarray(image.dataobj).copy()
    labels_IJK[2:4, 3:7, 3:7] = labels_IJK[6:8, 3:7, 3:7] = 255
    nib.save(nib.Nifti1Image(labels_IJK, image.affine), case.label)
    return replace(manifest, cases=(case,), ignore_value=255)


def test_ignored_voxels_are_not_scored(manifest, model, tmp_path):
    manifest = with_ignored_miss(manifest)
    assert quick_dice(manifest.cases, model, CPU, 255) == 1.0
    folder = ValidationFolder(tmp_path / "ignored")
    validate(manifest.cases, manifest, model, folder, device=CPU, config=CONFIG)
    assert float(read_scores(folder.path)["half", "organ"]["dice"]) == 1.0


def test_pictures_show_what_was_annotated(manifest, model, tmp_path, monkeypatch):
    """Ignored slices would draw the eye away: pictures show the slices with most labels."""
    drawn = []
    monkeypatch.setattr(
        validation, "write_picture", lambda *args, **options: drawn.append((args[1], options))
    )
    manifest = with_ignored_miss(manifest)
    folder = ValidationFolder(tmp_path / "ignored")
    validate(manifest.cases, manifest, model, folder, device=CPU, config=CONFIG)
    assert len(drawn) == 3
    for mask_IJK, options in drawn:
        assert set(np.unique(options["reference_IJK"])) == {0, 1}
        assert not mask_IJK[6:8].any()
        assert mask_IJK.any()


def test_labels_that_a_case_does_not_annotate_are_not_scored(manifest, model, tmp_path):
    case = replace(manifest.cases[1], annotated=("lesion",))
    assert quick_dice([case], model, CPU) is None
    folder = ValidationFolder(tmp_path / "partial")
    validate([case], manifest, model, folder, device=CPU, config=CONFIG)
    assert read_scores(folder.path).keys() == {("half", "lesion")}


def test_scores_by_hand(folder):
    scores = read_scores(folder)
    assert {key: row["dice"] and float(row["dice"]) for key, row in scores.items()} == {
        ("good", "organ"): 1.0,
        ("good", "lesion"): 1.0,
        ("half", "organ"): 0.5,
        ("half", "lesion"): "",
        ("lost", "organ"): 0.0,
        ("lost", "lesion"): 0.0,
    }
    # 4 x 4 x 4 voxels of 6 mm^3.
    assert float(scores["half", "organ"]["volume_ml"]) == pytest.approx(0.384)


def test_masks_lie_on_the_grid_of_their_studies(folder, manifest):
    for case in manifest.cases:
        image, mask = nib.load(case.images[0]), nib.load(folder / f"{case.name}_seg.nii.gz")
        assert np.array_equal(mask.affine, image.affine)
        assert mask.header["qform_code"] == image.header["qform_code"]
        seen_IJK = np.rint(np.asarray(image.dataobj) / 100)
        assert np.array_equal(np.asarray(mask.dataobj), seen_IJK)


class RegionReader(torch.nn.Module):
    """Finds all that is brighter than air, and of that what is as bright as a lesion."""

    def forward(self, image_BCIJK):
        return torch.cat([1000 * (image_BCIJK - 0.05), 1000 * (image_BCIJK - 0.3)], dim=1)


REGIONS = (Region("all", ("organ", "lesion"), "organ"), Region("lesion", ("lesion",), "lesion"))


def changed(manifest, model, kind):
    """Return what a data set and a model of one kind are."""
    if kind == "regions":
        description = model.description.model_copy(update={"regions": REGIONS})
        return replace(manifest, regions=REGIONS), Model(description, (RegionReader(),))
    if kind == "ignored":
        with_ignored_miss(manifest)
        return replace(manifest, ignore_value=255), model
    if kind == "partly annotated":
        first, *others = manifest.cases
        return replace(manifest, cases=(*others, replace(first, annotated=("organ",)))), model
    return replace(manifest, cases=manifest.cases[::-1]), model


@pytest.mark.parametrize("kind", ["labels", "regions", "ignored", "partly annotated"])
def test_evaluating_the_masks_gives_the_same_files(manifest, model, tmp_path, capsys, kind):
    manifest, model = changed(manifest, model, kind)
    folder, config = tmp_path / "masks", EvaluationConfig(num_resamples=10, nsd_tolerance_mm=2)
    validate(manifest.cases, manifest, model, ValidationFolder(folder), device=CPU, config=config)
    words = [f"--predictions={folder}", f"--references={tmp_path / 'labels'}"]
    assert main(["evaluate", *words, f"--out={tmp_path / 'scores'}"]) == 0
    for name in ("scores.csv", "summary.csv"):
        assert (tmp_path / "scores" / name).read_text() == (folder / name).read_text()
    scores = read_scores(folder)
    if kind == "regions":
        assert {label for _, label in scores} == {"all", "lesion"}
    if kind == "ignored":
        assert float(scores["half", "organ"]["dice"]) == 1
    if kind == "partly annotated":
        assert ("good", "lesion") not in scores
        assert len(scores) == 5


@pytest.mark.usefixtures("drawn_pictures")
def test_worst_median_and_best_are_drawn(folder, manifest, model):
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures == {"worst_lost.png", "median_half.png", "best_good.png"}
    for name in pictures:
        assert len(np.unique(matplotlib.image.imread(folder / name))) > 10
    assert (folder / "summary.csv").is_file()
    # Another validation of the same run leaves no picture of the one before.
    half = manifest.cases[1:2]
    validate(half, manifest, model, ValidationFolder(folder), device=CPU, config=CONFIG)
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures == {"worst_half.png", "median_half.png", "best_half.png"}


def test_a_case_that_vanished_is_named(manifest, model, tmp_path):
    manifest.cases[1].label.unlink()
    with pytest.raises(ManifestError, match=r"1 of 3 cases cannot be used.*half\.nii\.gz"):
        validate(
            manifest.cases, manifest, model, ValidationFolder(tmp_path), device=CPU, config=CONFIG
        )


def test_probabilities_are_kept_if_asked_for(manifest, model, tmp_path):
    kept = ValidationFolder(tmp_path / "v", keeps_probabilities=True)
    validate(manifest.cases[:1], manifest, model, kept, device=CPU, config=CONFIG)
    stored = nib.load(kept.probabilities(manifest.cases[0]))
    mask_IJK = np.asarray(nib.load(kept.mask(manifest.cases[0])).dataobj)
    assert stored.shape == (*mask_IJK.shape, 3)
    assert stored.get_data_dtype() == np.uint8
    values = np.array(model.description.label_values)
    assert np.array_equal(values[np.argmax(stored.get_fdata(), axis=3)], mask_IJK)


def test_labels_that_are_never_found_are_noted_in_the_model(model, tmp_path):
    save_model(model, tmp_path)
    found = Summary("organ", "dice", 0.5, 0, 1, 3)
    note_zeros([found, Summary("lesion", "dice", float("nan"), 0, 1, 0)], tmp_path)
    assert "never_found" not in read_description(tmp_path).training
    zeros = [Summary(name, "dice", 0.0, 0, 0, 3) for name in ("lesion", "mean")]
    note_zeros([found, Summary("organ", "nsd", 0.0, 0, 0, 3), *zeros], tmp_path)
    assert read_description(tmp_path).training["never_found"] == ["lesion"]


def scored(label="organ", count=20, **means):
    """Summaries of a label with half-widths of intervals: by default it is off by 8 to 18 %."""
    usual = {
        "dice": (0.89, 0.01),
        "hd95_mm": (4.0, 1.0),
        "volume_error_percent": (13.0, 5.0),
        "volume_error_ml": (6.0, 2.0),
    }
    return [
        Summary(label, metric, mean, mean - half, mean + half, count)
        for metric, (mean, half) in (usual | means).items()
    ]


@pytest.mark.parametrize(
    ("means", "loss", "reason"),
    [
        ({}, {}, "its border is drawn too far out"),
        ({"volume_error_percent": (-13, 5), "volume_error_ml": (-6, 2)}, {}, "too far in"),
        ({"volume_error_percent": (13, 14)}, {}, "too few to tell it from 0"),
        ({"count": 1}, {}, "too few to tell it from 0"),
        ({"dice": (0.55, 0.1)}, {}, "not learnt well yet (Dice 0.55): give more minutes or cases"),
        ({"hd95_mm": (14.1, 2)}, {}, "pieces of it are found far off (HD95 14.1 mm)"),
        ({"volume_error_ml": (-1, 2)}, {}, "little of it are off by much; in ml the mean is -1"),
        ({}, {"name": "tversky"}, "loss.name=tversky has structures found too large"),
        ({}, {"name": "tversky", "alpha": 0.7, "beta": 0.3}, "its border is drawn too far out"),
        ({}, {"name": "weighted_ce"}, "loss.name=weighted_ce has structures found too large"),
    ],
)
def test_a_mean_volume_that_is_off_is_told_with_the_likely_reason(means, loss, reason):
    (note,) = volume_notes(scored(**means), LossConfig(**loss))
    sign = "-" if "far in" in reason else "+"
    assert note.startswith(f"mean volume of organ on validation is off by {sign}13.0 % (")
    assert reason in note.partition("; likely because ")[2]


def test_a_note_on_volumes_names_interval_and_cases():
    (note,) = volume_notes(scored(), LossConfig())
    assert "off by +13.0 % (95 % interval +8.0 to +18.0 %, 20 cases); " in note
    (note,) = volume_notes(scored(count=1), LossConfig())
    assert "off by +13.0 % (1 case); " in note


def test_with_a_clean_up_that_was_chosen_the_note_is_on_masks_with_it():
    """It takes 5 of 13 percent away, with the pieces far off by which they were explained."""
    before = scored(hd95_mm=(40.0, 1.0))
    (note,) = volume_notes(before, LossConfig())
    assert "pieces of it are found far off" in note
    means = {"dice": 0.9, "hd95_mm": 3.0, "volume_error_percent": 8.0}
    (note,) = volume_notes(before, LossConfig(), {"organ": means})
    assert note.startswith(
        "mean volume of organ on validation, cleaned up as was chosen, is off by +8.0 %; "
    )
    assert note.endswith("its border is drawn too far out")
    assert (
        volume_notes(before, LossConfig(), {"organ": means | {"volume_error_percent": 2.0}}) == []
    )


def test_volumes_within_three_percent_are_not_told_of():
    assert volume_notes(scored(volume_error_percent=(-3.0, 9.0)), LossConfig()) == []
    assert volume_notes(scored("mean"), LossConfig()) == []
    assert volume_notes(scored(volume_error_percent=(np.nan, np.nan)), LossConfig()) == []
    never_found = scored(dice=(0.0, 0.0), volume_error_percent=(-100.0, 0.0))
    assert volume_notes(never_found, LossConfig()) == []


def test_of_many_labels_those_off_most_are_told():
    summaries = [one for n in range(4, 12) for one in scored(str(n), volume_error_percent=(n, 1))]
    notes = volume_notes(summaries, LossConfig())
    assert [note.split()[3] for note in notes[:-1]] == ["11", "10", "9", "8", "7"]
    assert notes[-1] == "volumes of 3 more labels are off by over 3 %"


def test_a_mask_is_told_by_what_it_follows_from(manifest, model, tmp_path):
    """Its own bytes, the weights, how they are used, and the images, wherever those lie."""
    save_model(model, tmp_path / "model")
    maker = made_by(tmp_path / "model", model.description)
    folder = ValidationFolder(tmp_path / "validation", made_by=maker)
    validate(manifest.cases, manifest, model, folder, device=CPU, config=CONFIG)
    good, half, lost = manifest.cases
    assert folder.mask_made_by(good, maker) == folder.mask(good)
    cleaned = PostprocessingConfig.model_validate(
        {"rules": [{"label": "organ", "fill_holes": "3d"}]}
    )
    used = model.description.model_copy(update={"postprocessing": cleaned})
    assert folder.mask_made_by(good, made_by(tmp_path / "model", used)) is None
    noted = model.description.model_copy(update={"training": {"never_found": ["organ"]}})
    assert made_by(tmp_path / "model", noted) == maker
    folder.mask(half).write_bytes(folder.mask(good).read_bytes())
    assert folder.mask_made_by(half, maker) is None
    lost.images[0].touch()
    assert folder.mask_made_by(lost, maker) is None
    for damage in (b"{", b"{}", b"[]"):
        folder.record(good).write_bytes(damage)
        assert folder.mask_made_by(good, maker) is None
    folder.record(good).unlink()
    assert folder.mask_made_by(good, maker) is None
