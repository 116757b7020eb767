"""The two grids are those of the pipeline; that all of it agrees is shown in test_bundle.py."""

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from pipeline.export.scripts.grids import ToStudyGridd, ToWorkingGridd
from pipeline.export.scripts.writer import HEADER
from pipeline.transforms import (
    ChannelNormalisation,
    Preprocessing,
    ProbabilityBlock,
    Restorer,
    preprocess,
)
from pipeline.transforms.preprocess import to_ras
from pipeline.volume import Volume

SHAPE = (9, 12, 7)
SPACING_MM = (1.0, 1.7, 2.5)
# Voxel axes run to A, L and S, sheared a little; along S the spacing is the network's.
AFFINE = np.array([[0.1, -2, 0, 5], [1.5, 0.1, 0, 6], [0, 0.2, 2.5, 7], [0, 0, 0, 1]])


def image(data_CIJK, affine=AFFINE):
    ras = to_ras(torch.from_numpy(data_CIJK), affine)
    ras.meta.update(
        spatial_shape=np.array(data_CIJK.shape[1:]),
        original_affine=affine,
        filename_or_obj="a.nii",
        **{HEADER: np.zeros(348, np.uint8)},
    )
    return ras


@pytest.fixture
def data():
    data = np.random.default_rng(0).normal(0, 300, (2, *SHAPE)).astype(np.float32)
    data[:, :3] = [[[[-1000]]], [[[0]]]]
    return data


def to_working(data, margin_mm=2.0):
    transform = ToWorkingGridd("image", SPACING_MM, margin_mm, is_ct=[True, False])
    return transform({"image": image(data)})


def test_the_working_grid_is_that_of_the_pipeline(data):
    found = to_working(data)["image"]
    identity = ChannelNormalisation(kind="ct", low=-1e9, high=1e9, mean=0, std=1)
    kinds = (identity, ChannelNormalisation(kind="mr"))
    settings = Preprocessing(spacing_mm=SPACING_MM, crop_margin_mm=2.0, channels=kinds)
    working = preprocess(Volume(data, AFFINE), settings)
    assert torch.equal(found[0].as_tensor(), working.data_CIJK[0])
    np.testing.assert_array_equal(found.affine.numpy(), working.placement.working.affine)


def test_what_lies_on_the_study_voxels_comes_back_to_them(data):
    """Where nothing is resampled, the labels are those of the voxels."""
    spacing_mm = tuple(np.linalg.norm(AFFINE[:3, [1, 0, 2]], axis=0))
    study = ToWorkingGridd("image", spacing_mm, 0.0, is_ct=[True, False])({"image": image(data)})
    found_CIJK = study["image"].as_tensor()
    study["pred"] = torch.stack([torch.zeros_like(found_CIJK[1]), found_CIJK[1]])
    labels = ToStudyGridd("pred", "image", [0, 5], regions=False)(study)["pred"]
    np.testing.assert_array_equal(labels[0].numpy(), np.where(data[1] > 0, 5, 0))
    np.testing.assert_array_equal(labels.affine.numpy(), AFFINE)
    assert labels.meta["filename_or_obj"] == "a.nii"


def test_the_first_class_wins_a_tie_and_the_last_region(data):
    study = to_working(data, margin_mm=100)
    half = torch.full((3, *study["image"].shape[1:]), 0.5)
    study["pred"] = half
    labels = ToStudyGridd("pred", "image", [0, 7, 9], regions=False)(study)["pred"]
    assert labels.unique().tolist() == [0]
    regions = ToStudyGridd("pred", "image", [7, 9, 8], regions=True)
    assert regions(study)["pred"].unique().tolist() == [0]
    study["pred"] = half + 0.1
    assert regions(study)["pred"].unique().tolist() == [8]


@pytest.mark.parametrize("regions", [False, True])
def test_ties_are_settled_as_in_the_pipeline(data, regions):
    spacing_mm = tuple(2 * np.linalg.norm(AFFINE[:3, [1, 0, 2]], axis=0))
    study = ToWorkingGridd("image", spacing_mm, 2.0, is_ct=[True, False])({"image": image(data)})
    channels = tuple(ChannelNormalisation(kind=kind) for kind in ("ct", "mr"))
    settings = Preprocessing(spacing_mm=spacing_mm, crop_margin_mm=2.0, channels=channels)
    placement = preprocess(Volume(data, AFFINE), settings).placement
    classes = torch.randint(3, placement.working.shape, generator=torch.Generator().manual_seed(0))
    certain = torch.nn.functional.one_hot(classes, 3).movedim(-1, 0).float()
    study["pred"] = certain
    found = ToStudyGridd("pred", "image", [0, 5, 9][regions:] + [7] * regions, regions=regions)
    restorer = Restorer(
        placement, [0, 5, 9][regions:] + [7] * regions, "regions" if regions else "labels"
    )
    restorer.add(ProbabilityBlock(certain, (0, 0, 0)))
    np.testing.assert_array_equal(found(study)["pred"][0].numpy(), restorer.labels())


def test_metadata_may_have_been_through_a_loader(data):
    """MONAI's loaders turn arrays of the metadata into tensors."""
    study = to_working(data)
    study["pred"] = torch.rand(2, *study["image"].shape[1:])
    back = ToStudyGridd("pred", "image", [0, 1], regions=False)
    meta = {
        key: torch.as_tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in study["image"].meta.items()
    }
    loaded = {**study, "image": MetaTensor(study["image"].as_tensor(), meta=meta)}
    assert torch.equal(back(loaded)["pred"], back(study)["pred"])
