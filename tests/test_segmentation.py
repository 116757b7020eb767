import types
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.errors import StudyError
from pipeline.inference import InferenceConfig
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import ComponentRule, PostprocessingConfig
from pipeline.segmentation import NOTHING_FOUND, segment_study
from pipeline.study import Study, StudyConfig
from pipeline.transforms import ChannelNormalisation, Fingerprint, Preprocessing
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
        postprocessing=PostprocessingConfig(components=rules),
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
    def __init__(self):
        self.probabilities = []

    def add(self, probability_IJK):
        self.probabilities.append(probability_IJK)


def expected_labels(study):
    hu = study.volume.data_CIJK[0]
    return np.where(hu > 200, 9, np.where(hu > 100, 4, 0))


def test_labels_lie_on_the_studys_own_voxels(study, spacing_mm):
    """At equal spacing each voxel's label follows from its own HU, in the file's voxel order."""
    found = segment_study(study, Model(describe(spacing_mm), (Thresholds(),)), CPU)
    np.testing.assert_array_equal(found.labels_IJK, expected_labels(study))
    assert found.labels_IJK.dtype == np.uint8
    assert found.warnings == study.warnings


def test_resampling_moves_nothing(study, spacing_mm):
    finer = tuple(0.6 * spacing for spacing in spacing_mm)
    found = segment_study(study, Model(describe(finer), (Thresholds(),)), CPU).labels_IJK
    expected = expected_labels(study)
    tissue = study.volume.data_CIJK[0] > -500
    assert np.mean(found[tissue] == expected[tissue]) > 0.9


def test_seconds_of_each_stage(study, spacing_mm):
    seconds = segment_study(study, Model(describe(spacing_mm), (Thresholds(),)), CPU).seconds
    assert list(seconds) == ["preprocess", "network", "restore", "postprocess"]
    assert all(0 <= value < 60 for value in seconds.values())


def test_probabilities_on_the_studys_own_voxels(study, spacing_mm):
    collector = Collector()
    found = segment_study(study, Model(describe(spacing_mm), (Thresholds(),)), CPU, collector)
    probabilities = np.stack(collector.probabilities)
    assert probabilities.shape == (3, *SHAPE)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    values = np.array([0, 4, 9])
    np.testing.assert_array_equal(found.labels_IJK, values[probabilities.argmax(axis=0)])


def test_clean_up_that_the_model_names_is_done(study, spacing_mm):
    rules = (ComponentRule(label="organ", keep_largest=True),)
    model = Model(describe(spacing_mm, rules), (Thresholds(),))
    found = segment_study(study, model, CPU).labels_IJK
    expected = expected_labels(study)
    components, number = ndimage.label(expected == 4, np.ones((3, 3, 3)))
    assert number > 1
    largest = np.bincount(components.ravel())[1:].argmax() + 1
    np.testing.assert_array_equal(found == 4, components == largest)


def test_same_study_gives_the_same_mask_and_stays_as_it_was(study, spacing_mm):
    torch.manual_seed(0)
    network = build_network(NetworkConfig(features=(2, 4, 4)), 1, 3)
    model = Model(describe(spacing_mm), (network,))
    before = study.volume.data_CIJK.copy()
    first, second = (segment_study(study, model, CPU).labels_IJK for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(study.volume.data_CIJK, before)


@pytest.mark.parametrize("shape", [(1, 11, 13), (14, 1, 13), (14, 11, 1), (2, 2, 2)])
def test_slices_and_tiny_volumes(study, spacing_mm, shape):
    i, j, k = shape
    data = np.ascontiguousarray(study.volume.data_CIJK[:, 4:, :, :][:, :i, :j, :k])
    small = replace(study, volume=Volume(data, AFFINE))
    found = segment_study(small, Model(describe(spacing_mm), (Thresholds(),)), CPU)
    np.testing.assert_array_equal(found.labels_IJK, expected_labels(small))


def test_a_volume_that_would_not_fit_in_memory_is_refused(study, spacing_mm, monkeypatch):
    """One channel held twice and three classes three times: 44 bytes a voxel."""
    num_voxels = int(np.prod(SHAPE))
    model = Model(describe(spacing_mm), (Thresholds(),))
    free = types.SimpleNamespace(available=44 * num_voxels)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    segment_study(study, model, CPU)
    free.available = 44 * 10
    with pytest.raises(StudyError, match=r"only 10 fit in memory\. Check the spacing"):
        segment_study(study, model, CPU)


def test_an_empty_mask_comes_with_a_warning(study, spacing_mm):
    air = replace(study, volume=Volume(np.full_like(study.volume.data_CIJK, -1000), AFFINE))
    found = segment_study(air, Model(describe(spacing_mm), (Thresholds(),)), CPU)
    assert not found.labels_IJK.any()
    assert found.warnings == (*study.warnings, NOTHING_FOUND)
