import pickle
from collections import Counter

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from pipeline.patches import Augmentation, PatchDataset, Regions
from pipeline.patches.augmentation import Changes
from pipeline.patches.cache import Blocks, write_blocks
from pipeline.patches.patches import cut
from pipeline.transforms import AugmentationConfig

NOTHING = AugmentationConfig(
    affine_probability=0,
    noise_probability=0,
    blur_probability=0,
    contrast_probability=0,
    brightness_probability=0,
    gamma_probability=0,
)
EVERYTHING = AugmentationConfig(
    flip_axes=("R", "S"), affine_probability=0.7, noise_probability=0.5, gamma_probability=0.5
)


class Patches:
    """Single augmented patches: image `(C, I, J, K)` and label `(I, J, K)`."""

    def __init__(self, regions, augmentation):
        self.regions = regions
        self.augmentation = augmentation

    def __getitem__(self, index):
        batch = self.regions[index].augmented(self.augmentation)
        return batch.image[0], batch.label[0]


def dataset(cases, size=(4, 4, 4), *, share=0.0, seed=7, config=NOTHING):
    augmentation = Augmentation(config, size)
    regions = PatchDataset(cases, augmentation, foreground_share=share, seed=seed)
    return Patches(regions, augmentation)


@pytest.fixture
def numbered(cached):
    """Cases in which each voxel of the image holds its own number, and the label its parity."""

    def make(num_cases=3, shape=(9, 8, 7)):
        cases = []
        for index in range(num_cases):
            numbers = np.arange(np.prod(shape)).reshape(shape) + 1000 * index
            cases.append(cached(f"case{index}", numbers[None], numbers % 2))
        return cases

    return make


def start_of(patch, shape=(9, 8, 7)):
    """The case and voxel that a patch of `numbered` cases begins at."""
    case, number = divmod(int(patch[0, 0, 0, 0]), 1000)
    return case, tuple(int(n) for n in np.unravel_index(number, shape))


# --- A pure function of seed and index ---


def augmented(cases, seed=7):
    return dataset(cases, share=0.5, seed=seed, config=EVERYTHING)


def test_same_patch_whatever_was_drawn_before(numbered):
    cases = numbered()
    forwards = [augmented(cases)[n] for n in range(8)]
    one = augmented(cases)
    for n in (5, 0, 7, 5, 3):
        for found, expected in zip(one[n], forwards[n], strict=True):
            assert torch.equal(found, expected)


def test_same_patches_in_another_process(numbered):
    patches = augmented(numbered())
    copy = pickle.loads(pickle.dumps(patches))
    assert torch.equal(copy[11][0], patches[11][0])


def test_seed_and_index_matter(numbered):
    cases = numbered(1)
    images = [augmented(cases, seed)[n][0] for seed in (1, 2) for n in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_same_patches_in_any_batch(numbered):
    patches = augmented(numbered())
    batch = Regions.join([patches.regions[n] for n in (4, 5, 9)]).augmented(patches.augmentation)
    for place, index in enumerate((4, 5, 9)):
        image, label = patches[index]
        assert torch.equal(batch.image[place], image)
        assert torch.equal(batch.label[place], label)


@pytest.mark.parametrize("config", [NOTHING, EVERYTHING])
def test_types_and_shapes(cached, config):
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 3, (9, 8, 7))
    case = cached("a", rng.normal(size=(2, 9, 8, 7)), label, annotated=(True, False))
    size = (4, 6, 2)
    augmentation = Augmentation(config, size)
    patches = PatchDataset([case], augmentation, foreground_share=0.5, seed=0)
    regions = Regions.join([patches[n] for n in range(3)])
    assert regions.image.shape == (3, 2, *augmentation.region_size)
    assert (regions.label.dtype, len(regions.changes)) == (torch.int16, 3)
    batch = regions.augmented(augmentation)
    assert (batch.image.dtype, batch.image.shape) == (torch.float32, (3, 2, *size))
    assert (batch.label.dtype, batch.label.shape) == (torch.int64, (3, *size))
    assert set(batch.label.unique().tolist()) <= {-1, 0, 1, 2}
    assert batch.annotated.tolist() == [[True, False]] * 3


def test_each_patch_says_what_its_case_annotates(cached):
    zeros = np.zeros((1, 4, 4, 4))
    cases = [cached(f"{n}", zeros + n, zeros[0], annotated=(n == 0, True)) for n in range(2)]
    patches = PatchDataset(cases, Augmentation(NOTHING, (4, 4, 4)), foreground_share=0, seed=0)
    for n in range(6):
        regions = patches[n]
        assert regions.annotated.tolist() == [[regions.image[0, 0, 0, 0, 0].item() == 0, True]]


def test_what_is_annotated_stays_where_a_loss_can_ask_for_it(numbered):
    """The loss branches on it, so a GPU would have to finish its work first."""
    regions = dataset(numbered()).regions[0].to(torch.device("meta"))
    assert (regions.image.device.type, regions.label.device.type) == ("meta", "meta")
    assert regions.annotated.device.type == "cpu"


# --- Which case and where ---


def test_every_case_once_a_round(numbered):
    patches = dataset(numbered(5))
    rounds = [[start_of(patches[5 * r + n][0])[0] for n in range(5)] for r in range(6)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1


def test_unplaced_patches_lie_anywhere_inside(numbered):
    patches = dataset(numbered(1), (4, 4, 4))
    starts = [start_of(patches[n][0])[1] for n in range(400)]
    for axis, size in enumerate((9, 8, 7)):
        assert {start[axis] for start in starts} == set(range(size - 4 + 1))


def test_image_and_label_are_the_same_voxels(numbered):
    patches = dataset(numbered(2), (3, 5, 4), share=0.5)
    for n in range(20):
        image, label = patches[n]
        assert torch.equal(label, image[0].long() % 2)
        case, start = start_of(image)
        numbers = 1000 * case + np.arange(9 * 8 * 7).reshape(9, 8, 7)
        i, j, k = start
        assert torch.equal(
            image[0].int(), torch.from_numpy(numbers[i : i + 3, j : j + 5, k : k + 4]).int()
        )


def test_share_on_foreground(cached):
    label = np.zeros((40, 8, 8), np.uint8)
    label[2, 3, 3] = 1
    case = cached("a", label[None], label)
    for share, low, high in ((0.0, 0.0, 0.2), (0.6, 0.55, 0.8), (1.0, 1.0, 1.0)):
        patches = dataset([case], (4, 8, 8), share=share)
        seen = np.mean([patches[n][1].any().item() for n in range(200)])
        assert low <= seen <= high


def test_rare_class_is_seen_as_often_as_others(cached):
    label = np.zeros((30, 30, 30), np.uint8)
    label[:15] = 1
    label[25, 25, 25] = 2
    patches = dataset([cached("a", label[None], label)], (4, 4, 4), share=1.0)
    seen = Counter(2 in patches[n][1] for n in range(200))
    assert 70 < seen[True] < 130


def test_foreground_is_not_always_at_the_same_place(cached):
    label = np.zeros((30, 30, 30), np.uint8)
    label[15, 15, 15] = 1
    patches = dataset([cached("a", label[None], label)], (8, 8, 8), share=1.0)
    places = np.array([np.argwhere(patches[n][1].numpy())[0] for n in range(200)])
    # In the middle half of the patch along each axis, and all over it.
    assert [set(column) for column in places.T.tolist()] == [{2, 3, 4, 5}] * 3


@pytest.mark.parametrize("place", [(0, 0, 0), (9, 9, 9)])
def test_patches_at_corners_stay_inside(cached, place):
    label = np.zeros((10, 10, 10), np.uint8)
    label[place] = 1
    patches = dataset([cached("a", np.ones((1, 10, 10, 10)), label)], (6, 6, 6), share=1.0)
    assert all(patches[n][1][tuple(p * 5 // 9 for p in place)] == 1 for n in range(10))


def test_case_without_foreground_is_drawn_from_anywhere(cached):
    case = cached("a", np.ones((1, 6, 6, 6)), np.zeros((6, 6, 6)))
    assert dataset([case], share=1.0)[0][1].sum() == 0


def test_no_cases():
    with pytest.raises(ValueError, match="no cases to draw patches from"):
        dataset([])


# --- Borders ---


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_volume_smaller_than_the_patch_is_centred_and_its_border_repeated(numbered, share):
    image, label = dataset(numbered(1, (3, 2, 9)), (8, 5, 4), share=share)[0]
    numbers = np.arange(54).reshape(3, 2, 9)
    k = int(image[0, 2, 1, 0]) % 9
    # 5 voxels are missing along I: 2 before and 3 behind; 3 along J: 1 and 2.
    expected = np.pad(numbers[:, :, k : k + 4], ((2, 3), (1, 2), (0, 0)), mode="edge")
    np.testing.assert_array_equal(image[0].numpy(), expected)
    np.testing.assert_array_equal(label.numpy(), expected % 2)


def test_augmentation_gets_the_surroundings_of_the_patch(numbered):
    cases, size = numbered(1), (4, 5, 4)
    plain, turned = dataset(cases, size), dataset(cases, size, config=EVERYTHING)
    patch, label = plain[3]
    regions = turned.regions[3]
    i, j, k = (slice(m, m + n) for m, n in zip(turned.augmentation.margin, size, strict=True))
    assert regions.image.shape[2:] > patch.shape[1:]
    assert torch.equal(regions.image[0, :, i, j, k], patch)
    assert torch.equal(regions.label[0, i, j, k].long(), label)
    assert regions.changes != (Changes(),)


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("cut") / "volume.npy"


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(-5, 5)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
)
def test_cut_is_a_slice_of_the_padded_whole(path, shape, first, size):
    hypothesis.assume(all(f < n and f + s > 0 for f, s, n in zip(first, size, shape, strict=True)))
    data = np.arange(2 * np.prod(shape), dtype=np.int16).reshape(2, *shape)
    write_blocks(path, data)
    padded = np.pad(data, [(0, 0), (20, 20), (20, 20), (20, 20)], mode="edge")
    i, j, k = (slice(20 + f, 20 + f + s) for f, s in zip(first, size, strict=True))
    found = cut(Blocks(path, 2, shape, np.int16), first, size)
    np.testing.assert_array_equal(found, padded[:, i, j, k])
