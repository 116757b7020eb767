import pytest
import torch

from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig
from pipeline.manifest import Region
from pipeline.model import ChannelDescription, ModelDescription
from pipeline.model.transfer import axes_that_follow, transfer_weights
from pipeline.network import NetworkConfig, build_network
from pipeline.network.config import OPTIONS
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig
from pipeline.transforms import ChannelNormalisation, Preprocessing

LABELS = {"liver": 1, "spleen": 2}


def describe(network=None, channels=("T1",), patch_size=(16, 16, 16), **changes):
    return ModelDescription(
        **{
            "name": "source",
            "channels": tuple(ChannelDescription(name=name, modality="MR") for name in channels),
            "labels": LABELS,
            "study": StudyConfig(),
            "preprocessing": Preprocessing(
                spacing_mm=(1, 1, 1),
                crop_margin_mm=5,
                channels=(ChannelNormalisation(kind="mr"),) * len(channels),
            ),
            "network": network or NetworkConfig(features=(4, 4, 8)),
            "patch_size": patch_size,
            "inference": InferenceConfig(window=patch_size),
            "postprocessing": PostprocessingConfig(),
            "fingerprint": Fingerprint(
                num_cases=1,
                spacing_mm=(1, 1, 1),
                spacing_range_mm=((1, 1, 1), (1, 1, 1)),
                shape=(9, 9, 9),
                channels=(),
            ),
            "training": {},
        }
        | changes
    )


def build(description, seed):
    torch.manual_seed(seed)
    return build_network(
        description.network,
        len(description.channels),
        description.num_outputs,
        description.patch_size,
    ).eval()


def transfer(theirs, ours, channels):
    source, target = build(theirs, 0), build(ours, 1)
    return source, target, transfer_weights(source, theirs, target, ours, channels)


def image(channels=1, size=16):
    return torch.randn(1, channels, size, size, size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def logits(network, image_BCIJK):
    return network(image_BCIJK)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_task_takes_every_weight_of_every_network(name):
    description = describe(NetworkConfig(name=name, features=(4, 4, 8)))
    source, target, found = transfer(description, description, [0])
    assert len(found.loaded) > 5
    assert not found.resized
    assert not found.skipped
    assert torch.equal(logits(target, image()), logits(source, image()))


@pytest.mark.parametrize("name", OPTIONS)
def test_outputs_go_by_the_name_of_the_label(name):
    """The new label's value lies between those of the old ones, and the old ones change places."""
    network = NetworkConfig(name=name, features=(4, 4, 8))
    theirs = describe(network)
    ours = describe(network, labels={"spleen": 1, "tumour": 4, "liver": 7})
    source, target, found = transfer(theirs, ours, [0])
    assert not found.skipped
    assert set(found.resized) == set(axes_that_follow(ours, "outputs"))
    (how,) = set(found.resized.values())
    assert "background: row 0, spleen: row 2, tumour: random, liver: row 1" in how
    before, after = logits(source, image()), logits(target, image())
    torch.testing.assert_close(after[:, [0, 3, 1]], before)


def test_a_new_label_starts_as_it_would_have_without_a_source():
    ours = describe(labels={**LABELS, "tumour": 3})
    _, target, _ = transfer(describe(), ours, [0])
    fresh = build(ours, 1).state_dict()
    for name, axes in axes_that_follow(ours, "outputs").items():
        assert axes == (0,)
        assert torch.equal(target.state_dict()[name][3], fresh[name][3])
        if name.endswith("weight"):  # biases start from zero everywhere
            assert not torch.equal(target.state_dict()[name][:3], fresh[name][:3])


def test_labels_become_regions_of_the_same_name():
    regions = (
        Region("abdomen", ("liver", "spleen"), "liver"),
        Region("liver", ("liver",), "liver"),
    )
    source, target, found = transfer(describe(), describe(regions=regions), [0])
    assert "abdomen: random, liver: row 1" in next(iter(found.resized.values()))
    torch.testing.assert_close(logits(target, image())[:, 1], logits(source, image())[:, 1])


@pytest.mark.parametrize("name", OPTIONS)
def test_known_channels_are_copied_and_new_ones_take_the_mean(name):
    network = NetworkConfig(name=name, features=(4, 4, 8))
    theirs = describe(network, channels=("T1", "T2"))
    ours = describe(network, channels=("T2", "FLAIR", "T1"))
    source, target, found = transfer(theirs, ours, [1, None, 0])
    assert not found.skipped
    assert set(found.resized) == set(axes_that_follow(ours, "channels"))
    old, new = dict(source.named_parameters()), dict(target.named_parameters())
    for key, (axis,) in axes_that_follow(ours, "channels").items():
        first, second = old[key].unbind(axis)
        torch.testing.assert_close(
            new[key], torch.stack([second, (first + second) / 2, first], dim=axis)
        )
    # With nothing in the new channel it sees what the source saw.
    if name != "light_unet":
        data = image(3)
        data[:, 1] = 0
        expected = logits(source, data[:, [2, 0]])
        torch.testing.assert_close(logits(target, data), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["unetr", "trans_unet"])
def test_places_of_another_patch_are_interpolated(name):
    network = NetworkConfig(name=name, features=(4, 4, 8))
    theirs, ours = describe(network), describe(network, patch_size=(32, 16, 16))
    source, target, found = transfer(theirs, ours, [0])
    (key,) = found.resized
    assert found.resized[key] == "places in the patch interpolated"
    old, new = source.state_dict()[key], target.state_dict()[key]
    expected = torch.nn.functional.interpolate(old, tuple(new.shape[2:]), mode="trilinear")
    assert torch.equal(new, expected)
    assert not found.skipped


def test_another_network_leaves_what_does_not_fit_as_it_was():
    ours = describe(NetworkConfig(features=(4, 4, 8, 8)))
    _, target, found = transfer(describe(), ours, [0])
    fresh = build(ours, 1).state_dict()
    assert set(found.skipped.values()) >= {"the source has no such weights"}
    for name in set(found.skipped) & set(fresh):
        assert torch.equal(target.state_dict()[name], fresh[name])
    assert {*found.loaded, *found.resized, *found.skipped} >= set(fresh)


def test_asking_which_axes_follow_changes_no_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    axes_that_follow(describe(), "outputs")
    assert torch.equal(torch.rand(3), expected)
