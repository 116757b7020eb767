import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from scipy import ndimage

from pipeline.errors import ModelError, StudyError
from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import PostprocessingConfig, Rule
from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.segmentation import NOTHING_FOUND, Segmenter, segment_study
from pipeline.study import Study, StudyConfig
from pipeline.transforms import CERTAIN, ChannelNormalisation, Preprocessing
from pipeline.volume import Volume

CPU = torch.device("cpu")
SHAPE = (14, 11, 13)
# Voxel axes run to P, S and L, turned a little, with 2, 3 and 1.5 mm.
AXES = np.array([[0.1, 0.05, -1], [-1, 0.1, -0.1], [-0.1, -1, 0.05]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = (
    np.linalg.qr(AXES)[0] * np.sign(np.diag(np.linalg.qr(AXES)[1])) @ np.diag([2, 3, 1.5])
)
AFFINE[:3, 3] = 12, -30, 400


class Thresholds(torch.nn.Module):
    """Class 1 above 0, class 2 above 1; what a network that knows its task would give."""

    def forward(self, image_BCIJK):
        image = image_BCIJK[:, :1]
        return 50 * torch.cat([torch.zeros_like(image), image, 2 * image - 1], dim=1)


def describe(spacing_mm, rules=()):
    return ModelDescription(
        name="test",
        channels=(ChannelDescription(name="CT", modality="CT"),),
        labels={"organ": 4, "lesion": 9},
        study=StudyConfig(),
        preprocessing=Preprocessing(
            spacing_mm=spacing_mm,
            crop_margin_mm=4,
            channels=(ChannelNormalisation(kind="ct", low=-200, high=400, mean=100, std=100),),
        ),
        network=NetworkConfig(features=(2, 4, 4)),
        inference=InferenceConfig(window=(8, 8, 8), precision="fp32"),
        postprocessing=PostprocessingConfig(rules=rules),
        fingerprint=Fingerprint(
            num_cases=1,
            spacing_mm=(1, 1, 1),
            spacing_range_mm=((1, 1, 1), (1, 1, 1)),
            shape=(9, 9, 9),
            channels=(),
        ),
        training={},
    )


@pytest.fixture
def study():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.5)
    data = (100 + 150 * noise / noise.std()).astype(np.float32)
    data[:2] = -1000
    volume = Volume(data[None], AFFINE)
    return Study("case", volume, nib.Nifti1Header(), (), ("voxel axes are sheared",))


@pytest.fixture
def spacing_mm():
    closest = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE))
    return tuple(float(s) for s in nib.affines.voxel_sizes(closest.affine))


class Collector:
    """Puts together what is handed on, as multiples of 1/255."""

    def __init__(self, num_outputs, shape):
        self.steps = np.zeros((num_outputs, *shape), np.uint8)

    def put(self, index, box, steps_IJK):
        self.steps[index][box] = steps_IJK


def expected_labels(study):
    hu = study.volume.data_CIJK[0]
    return np.where(hu > 200, 9, np.where(hu > 100, 4, 0))


def test_labels_lie_on_the_studys_own_voxels(study, spacing_mm):
    """At equal spacing each voxel's label follows from its own HU, in the file's voxel order."""
    found = segment_study(study, Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU))
    np.testing.assert_array_equal(found.labels_IJK, expected_labels(study))
    assert found.labels_IJK.dtype == np.uint8
    assert found.warnings == study.warnings


def test_resampling_moves_nothing(study, spacing_mm):
    finer = tuple(0.6 * spacing for spacing in spacing_mm)
    found = segment_study(study, Segmenter(Model(describe(finer), (Thresholds(),)), CPU)).labels_IJK
    expected = expected_labels(study)
    tissue = study.volume.data_CIJK[0] > -500
    assert np.mean(found[tissue] == expected[tissue]) > 0.9


def test_seconds_of_each_stage(study, spacing_mm):
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU)
    seconds = segment_study(study, segmenter).seconds
    assert list(seconds) == ["preprocess", "network", "stitch", "resample", "postprocess"]
    assert all(0 <= value < 60 for value in seconds.values())


def test_probabilities_on_the_studys_own_voxels(study, spacing_mm):
    collector = Collector(3, SHAPE)
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU)
    found = segment_study(study, segmenter, collector)
    steps = collector.steps.astype(int)
    assert np.abs(steps.sum(axis=0) - 255).max() <= 1
    values = np.array([0, 4, 9])
    np.testing.assert_array_equal(found.labels_IJK, values[steps.argmax(axis=0)])


def test_clean_up_that_the_model_names_is_done(study, spacing_mm):
    rules = (Rule(label="organ", keep_largest=1),)
    model = Model(describe(spacing_mm, rules), (Thresholds(),))
    found = segment_study(study, Segmenter(model, CPU)).labels_IJK
    expected = expected_labels(study)
    components, number = ndimage.label(expected == 4, np.ones((3, 3, 3)))
    assert number > 1
    largest = np.bincount(components.ravel())[1:].argmax() + 1
    np.testing.assert_array_equal(found == 4, components == largest)


def test_implausible_volumes_are_warned_of(study, spacing_mm):
    rules = (Rule(label="lesion", volume_ml=(1000, 2000)), Rule(label="organ", volume_ml=(0, 9999)))
    found = segment_study(
        study, Segmenter(Model(describe(spacing_mm, rules), (Thresholds(),)), CPU)
    )
    np.testing.assert_array_equal(found.labels_IJK, expected_labels(study))
    assert found.warnings[0] == study.warnings[0]
    (warning,) = found.warnings[1:]
    assert warning.startswith("lesion has ")
    assert warning.endswith(" ml, which is outside of the plausible 1000 to 2000 ml")


def test_same_study_gives_the_same_mask_and_stays_as_it_was(study, spacing_mm):
    torch.manual_seed(0)
    network = build_network(NetworkConfig(features=(2, 4, 4)), 1, 3)
    model = Model(describe(spacing_mm), (network,))
    before = study.volume.data_CIJK.copy()
    first, second = (segment_study(study, Segmenter(model, CPU)).labels_IJK for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(study.volume.data_CIJK, before)


@pytest.mark.parametrize("shape", [(1, 11, 13), (14, 1, 13), (14, 11, 1), (2, 2, 2)])
def test_slices_and_tiny_volumes(study, spacing_mm, shape):
    i, j, k = shape
    data = np.ascontiguousarray(study.volume.data_CIJK[:, 4:, :, :][:, :i, :j, :k])
    small = replace(study, volume=Volume(data, AFFINE))
    found = segment_study(small, Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU))
    np.testing.assert_array_equal(found.labels_IJK, expected_labels(small))


# --- Memory ---

MEASURE = """
import sys
import pipeline.system.preload
import nibabel as nib
import numpy as np
import torch
from pipeline.inference import InferenceConfig
from pipeline.system.memory import PeakMeter, resident_bytes
from pipeline.segmentation import Segmenter
from pipeline.study import Study
from pipeline.volume import Volume
from tests.segmentation.test_segmenter import describe
from pipeline.model import Model

class Some(torch.nn.Module):
    def forward(self, image):
        return self.logits

num_classes, length = int(sys.argv[1]), int(sys.argv[2])
network = Some()
network.logits = torch.randn(1, num_classes, 16, 16, 16)
description = describe((1.0, 1.0, 1.0)).model_copy(update={
    "labels": {f"l{value}": value for value in range(1, num_classes)},
    "inference": InferenceConfig(window=(16, 16, 16), precision="fp32", batch_size=1),
})
data = np.random.default_rng(0).normal(100, 50, (64, 64, length)).astype(np.float32)
study = Study("s", Volume(data[None], np.diag([0.8, 0.8, 0.8, 1])), nib.Nifti1Header(), (), ())
segmenter = Segmenter(Model(description, (network,)), torch.device("cpu"))
prepared = segmenter.prepare(study)
before = resident_bytes()
with PeakMeter() as meter:
    found = segmenter.segment(prepared)
print(meter.peak_bytes - before, len(np.unique(found.labels_IJK)))
"""


def peak_of(num_classes, length):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MEASURE, str(num_classes), str(length)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    peak, num_found = map(int, run.stdout.split())
    assert num_found == num_classes, "every class occurs"
    return peak


def test_memory_grows_neither_with_the_length_of_a_volume_nor_with_all_of_its_classes():
    """Thirty classes of 51 x 51 x 480 working voxels would take 150 MB, and 293 MB on its own grid.

    By the formula: about ten cells of 51 x 9 x 9 voxels, 30 classes of 4 bytes each: 5 MB.
    """
    short, long = peak_of(30, 150), peak_of(30, 600)
    assert short < 60e6
    assert long - short < 20e6, "the labels themselves take 2 MB more"


def test_a_volume_that_would_not_fit_on_the_networks_grid_is_refused(study, spacing_mm):
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU, max_bytes=1000)
    with pytest.raises(StudyError, match=r"case: .* but only 0 fit in memory\. Check the spacing"):
        segmenter.prepare(study)


def test_a_study_that_would_not_fit_while_it_is_read_is_refused_unread(spacing_mm):
    """12 bytes a voxel: 1.2 GB."""
    # What this process holds already, after other tests, leaves a gigabyte.
    max_bytes = psutil.Process().memory_info().rss + 10**9
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU, max_bytes=max_bytes)
    segmenter.check_readable("case", 10**5)
    allowed = rf"{max_bytes / 1e9:.1f}".replace(".", r"\.")
    text = (
        r"case: reading 100000000 voxels takes \d\.\d GB of memory, "
        rf"but only {allowed} GB .*--max-memory"
    )
    with pytest.raises(StudyError, match=text) as caught:
        segmenter.check_readable("case", 10**8)
    needed_gb = float(str(caught.value).split("takes ")[1].split(" GB")[0])
    # What this process holds already comes on top.
    assert needed_gb == pytest.approx(1.2 + psutil.Process().memory_info().rss / 1e9, abs=0.15)
    unlimited = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU)
    unlimited.check_readable("case", 10**5)
    with pytest.raises(StudyError, match=r"takes 120\d\.\d GB of memory"):
        unlimited.check_readable("case", 10**11)


def test_a_prediction_that_would_not_fit_is_refused_before_any_window(study, spacing_mm):
    model = Model(describe(spacing_mm), (Thresholds(),))
    prepared = Segmenter(model, CPU).prepare(study)
    segmenter = Segmenter(model, CPU, max_bytes=10**7)
    windows = []
    text = r"takes \d\.\d GB of memory, but only 0\.0 GB .*--max-memory"
    with pytest.raises(StudyError, match=text):
        segmenter.segment(prepared, advance=lambda _what, *counts: windows.append(counts))
    assert not windows
    assert not segmenter.fits(prepared, 0)
    assert Segmenter(model, CPU).fits(prepared, 0)
    assert not Segmenter(model, CPU).fits(prepared, 10**15), "others leave no room"


def test_a_window_that_no_memory_holds_is_refused_before_it_is_computed(spacing_mm, monkeypatch):
    monkeypatch.setattr("pipeline.inference.budget.available_bytes", lambda: 10**10)
    described = describe(spacing_mm)
    inference = described.inference.model_copy(update={"window": (1024, 1024, 1024)})
    described = described.model_copy(update={"inference": inference})
    network = build_network(NetworkConfig(features=(8, 16, 16)), 1, 3)
    before = psutil.Process().memory_info().rss
    began = time.process_time()
    # 8 channels of 2^30 voxels are 34 GB, the image 4 more, and a convolution makes another 34.
    found = (
        r"inference\.window: .* at least (\d+)\.\d GB.* main memory 10\.0 GB are free\. .* or free"
    )
    with pytest.raises(ModelError, match=found) as caught:
        Segmenter(Model(described, (network,)), CPU)
    assert time.process_time() - began < 2
    assert psutil.Process().memory_info().rss - before < 3e8
    assert 73 <= int(re.search(r"at least (\d+)", str(caught.value))[1]) < 200


def test_a_study_of_more_windows_than_are_computed_is_refused_with_what_it_would_take(
    study, spacing_mm, monkeypatch
):
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU)
    prepared = segmenter.prepare(study)
    i, j, k = prepared.working.placement.working.shape
    number = math.prod(max(0, math.ceil((n - 8) / 4)) + 1 for n in (i, j, k))
    monkeypatch.setattr("pipeline.segmentation.segmenter.MAX_WINDOWS", number - 1)
    found = rf"case: a prediction of .* takes {number} windows, about .* hours.* Set a larger"
    with pytest.raises(StudyError, match=found):
        segmenter.segment(prepared)
    monkeypatch.setattr("pipeline.segmentation.segmenter.MAX_WINDOWS", number)
    segmenter.segment(prepared)


def test_memory_is_predicted_and_measured(study, spacing_mm):
    found = segment_study(study, Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU))
    resident_gb = psutil.Process().memory_info().rss / 1e9
    assert found.memory_gb["predicted"] == pytest.approx(resident_gb, rel=0.2)
    assert found.memory_gb["measured"] == pytest.approx(resident_gb, rel=0.2)


def test_more_memory_than_was_allowed_is_said(study, spacing_mm, monkeypatch):
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU, max_bytes=10**11)
    prepared = segmenter.prepare(study)
    monkeypatch.setattr("pipeline.system.memory.resident_bytes", lambda: 2 * 10**11)
    found = segmenter.segment(prepared)
    assert "took 200.00 GB of memory, more than was allowed" in found.warnings


def test_the_studys_own_voxels_are_kept_only_if_asked_for(study, spacing_mm):
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU)
    assert segmenter.prepare(study).volume is None
    assert segmenter.prepare(study, keep_volume=True).volume is study.volume


def test_uncertain_voxels_are_handed_on_if_asked_for(study, spacing_mm):
    segmenter = Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU)
    prepared = segmenter.prepare(study)
    assert segmenter.segment(prepared).uncertain is None
    found = segmenter.segment(prepared, top_k=2).uncertain
    # Logits of 0, 50 z and 100 z - 50 for z = (HU - 100) / 100: unclear near 100 and 200 HU.
    hu = study.volume.data_CIJK[0].astype(float)
    z = (np.clip(hu, -200, 400) - 100) / 100
    logits = np.stack([0 * z, 50 * z, 50 * (2 * z - 1)])
    probabilities = np.exp(logits - logits.max(axis=0))
    probabilities /= probabilities.sum(axis=0)
    most = probabilities.max(axis=0).ravel()
    found_at = np.isin(np.arange(most.size), found.voxel_N)
    clear = np.abs(most - CERTAIN) > 1e-4
    np.testing.assert_array_equal(found_at[clear], most[clear] < CERTAIN)
    assert found_at.any()
    expected = most[found.voxel_N]
    np.testing.assert_allclose(found.probability_NK[:, 0], expected, atol=2e-3)


def test_an_empty_mask_comes_with_a_warning(study, spacing_mm):
    air = replace(study, volume=Volume(np.full_like(study.volume.data_CIJK, -1000), AFFINE))
    found = segment_study(air, Segmenter(Model(describe(spacing_mm), (Thresholds(),)), CPU))
    assert not found.labels_IJK.any()
    assert found.warnings == (*study.warnings, NOTHING_FOUND)


# --- The conditional random field ---

CRF = CrfConfig(theta_position_mm=6, theta_intensity=1.0, weight_appearance=3, weight_smoothness=3)


class Unsure(torch.nn.Module):
    """As `Thresholds`, with log-odds that are small near the thresholds and a little further."""

    def forward(self, image_BCIJK):
        image = image_BCIJK[:, :1]
        return 4 * torch.cat([torch.zeros_like(image), image, 2 * image - 1], dim=1)


def with_field(spacing_mm, **others):
    config = PostprocessingConfig(crf=CRF, **others)
    description = describe(spacing_mm).model_copy(update={"postprocessing": config})
    return Model(description, (Unsure(),))


def test_the_field_moves_boundaries_as_it_does_on_uncertain_voxels(study, spacing_mm):
    """Computed apart from what a model without the field hands on."""
    plain = Segmenter(Model(describe(spacing_mm), (Unsure(),)), CPU)
    without = plain.segment(plain.prepare(study), top_k=8)
    spacing_own_mm = study.volume.grid.spacing_mm
    expected = Crf(CRF).refine_uncertain(
        study.volume.data_CIJK, without.labels_IJK, without.uncertain, [0, 4, 9], spacing_own_mm
    )
    found = segment_study(study, Segmenter(with_field(spacing_mm), CPU))
    np.testing.assert_array_equal(found.labels_IJK, expected)
    assert np.count_nonzero(found.labels_IJK != without.labels_IJK) > 20
    assert found.labels_IJK.dtype == without.labels_IJK.dtype
    assert found.warnings == study.warnings


def test_the_field_keeps_what_it_needs_and_hands_on_what_was_asked_for(study, spacing_mm):
    segmenter = Segmenter(with_field(spacing_mm), CPU)
    prepared = segmenter.prepare(study)
    assert prepared.volume is study.volume
    assert segmenter.segment(prepared).uncertain is None
    assert len(segmenter.segment(prepared, top_k=2).uncertain.voxel_N) > 20


def test_more_change_than_on_validation_is_warned_of(study, spacing_mm):
    limited = with_field(spacing_mm, largest_change={"organ": 0.001})
    found = segment_study(study, Segmenter(limited, CPU))
    plain = segment_study(study, Segmenter(Model(describe(spacing_mm), (Unsure(),)), CPU))
    np.testing.assert_array_equal(found.labels_IJK, plain.labels_IJK)
    assert found.warnings[:-1] == study.warnings
    assert found.warnings[-1].startswith("post-processing was not applied: it would change ")
    assert found.warnings[-1].endswith("of organ, more than the 0.1% seen on validation")


def test_progress_tells_windows_from_refining(study, spacing_mm):
    segmenter, told = Segmenter(with_field(spacing_mm), CPU), []
    segmenter.segment(segmenter.prepare(study), advance=lambda *step: told.append(step))
    names = [name for name, _, _ in told]
    number = names.count("windows")
    assert names == ["windows"] * number + ["refining"] * (len(names) - number)
    assert 0 < number < len(names)
    assert told[number - 1][1] == told[number - 1][2]
    assert told[-1][1] == told[-1][2]


def test_without_memory_for_the_field_there_is_a_mask_with_a_warning(
    study, spacing_mm, monkeypatch
):
    """All that was allowed is taken already when the field's turn comes."""
    segmenter = Segmenter(with_field(spacing_mm), CPU, max_bytes=10**11)
    prepared = segmenter.prepare(study)
    monkeypatch.setattr("pipeline.segmentation.segmenter.resident_bytes", lambda: 2 * 10**11)
    found = segmenter.segment(prepared)
    plain = segment_study(study, Segmenter(Model(describe(spacing_mm), (Unsure(),)), CPU))
    np.testing.assert_array_equal(found.labels_IJK, plain.labels_IJK)
    assert any("no conditional random field was applied" in each for each in found.warnings)


def test_regions_that_overlap_have_no_field(spacing_mm):
    regions = ({"name": "organ", "labels": ("organ", "lesion"), "writes": "organ"},)
    fields = {**describe(spacing_mm).model_dump(), "regions": regions}
    assert ModelDescription.model_validate(fields).regions
    fields["postprocessing"] = {"crf": CRF.model_dump()}
    with pytest.raises(ValueError, match="field needs labels, not regions that overlap"):
        ModelDescription.model_validate(fields)
