import weakref

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from pipeline.errors import StudyError
from pipeline.patches import Augmentation, PatchDataset, ResidentPatches, resident_bytes_of
from pipeline.patches.resident import cut_resident
from pipeline.training.distributed import Ranks
from pipeline.training.loader import BatchLoader, SliceSampler
from pipeline.transforms import AugmentationConfig

CPU = torch.device("cpu")


@pytest.fixture
def cases(cached):
    rng = np.random.default_rng(0)
    return [
        cached(f"{n}", rng.normal(size=(2, 9, 8, 5 + n)), rng.integers(-1, 3, (9, 8, 5 + n)))
        for n in range(2)
    ]


def test_patches_are_those_that_are_read(cases):
    """Of regions that lie inside of the volume, and of those that leave it."""
    for config in (AugmentationConfig(), AugmentationConfig(affine_probability=0)):
        augmentation = Augmentation(config, (6, 4, 6))
        settings = {"foreground_share": 0.5, "seed": 3}
        read = PatchDataset(cases, augmentation, **settings)
        held = ResidentPatches(cases, augmentation, CPU, **settings)
        for n in range(12):
            for part, other in zip(read[n][:3], held[n][:3], strict=True):
                assert part.dtype == other.dtype
                assert torch.equal(part, other)
            assert read[n].changes[0].noise_seed == held[n].changes[0].noise_seed


@hypothesis.given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(-5, 5)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
)
def test_a_region_is_a_slice_of_the_padded_whole(shape, first, size):
    data = np.arange(2 * np.prod(shape), dtype=np.int16).reshape(2, *shape)
    padded = np.pad(data, [(0, 0), (20, 20), (20, 20), (20, 20)], mode="edge")
    i, j, k = (slice(20 + f, 20 + f + s) for f, s in zip(first, size, strict=True))
    found = cut_resident(torch.from_numpy(data), first, size)
    np.testing.assert_array_equal(found, padded[:, i, j, k])


def test_a_region_inside_is_not_copied():
    volume = torch.zeros(1, 8, 8, 8)
    region = cut_resident(volume, (1, 2, 3), (4, 4, 4))
    assert region.untyped_storage().data_ptr() == volume.untyped_storage().data_ptr()


def test_bytes_of_a_case_by_hand(cases):
    """Two channels of float32 and a label of int16."""
    assert resident_bytes_of(cases[1]) == 9 * 8 * 6 * (2 * 4 + 2)


def test_a_case_that_is_gone_is_named(cases):
    (cases[1].folder / "image.npy").unlink()
    with pytest.raises(StudyError, match=r"case '1' of the cache cannot be read.*--resume"):
        ResidentPatches(
            cases, Augmentation(AugmentationConfig(), (4, 4, 4)), CPU, foreground_share=0, seed=0
        )


def test_what_was_held_is_given_back_when_its_loader_is_closed(cases):
    augmentation = Augmentation(AugmentationConfig(), (4, 4, 4))
    held = ResidentPatches(cases, augmentation, CPU, foreground_share=0, seed=0)
    gone = [weakref.ref(part) for part in held._held[cases[0].folder]]
    loader = BatchLoader(held, SliceSampler(2, Ranks(CPU), 0), augmentation, CPU, 0)
    assert next(iter(loader)).image.shape == (2, 2, 4, 4, 4)
    loader.close()
    assert [reference() for reference in gone] == [None, None]
