import copy

import pytest
import torch

from pipeline.inference.ensemble import Ensemble

CPU = torch.device("cpu")


def member(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.BatchNorm3d(4), torch.nn.Conv3d(4, 3, 1)
    )


@pytest.fixture
def windows():
    return torch.randn(2, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))


class Spy(torch.nn.Module):
    """Notes what it sees; its outputs are its inputs times a number that is a parameter."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.seen = []

    def __deepcopy__(self, memo):
        copied = Spy(self.factor.item()).train(self.training)
        copied.seen = self.seen
        return copied

    def forward(self, windows_BCIJK):
        self.seen.append(windows_BCIJK)
        return windows_BCIJK * self.factor


def test_members_are_averaged(windows):
    members = [member(seed).eval() for seed in range(3)]
    with torch.no_grad():
        expected = torch.stack([network(windows) for network in members]).mean(dim=0)
    torch.testing.assert_close(Ensemble(members, CPU, None)(windows), expected)


def test_flips_are_turned_back_by_hand():
    """A network that adds each voxel's number along R: mirroring averages it with its opposite."""

    class Numbered(torch.nn.Module):
        def forward(self, windows_BCIJK):
            return windows_BCIJK + torch.arange(4.0).reshape(1, 1, 4, 1, 1)

    found = Ensemble([Numbered()], CPU, None, ("R",))(torch.zeros(1, 1, 4, 2, 2))
    assert (found == 1.5).all()
    found = Ensemble([Numbered()], CPU, None, ("A", "S"))(torch.zeros(1, 1, 4, 2, 2))
    assert found[0, 0, :, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("axes", "flips"),
    [
        (("A",), [(), (3,)]),
        (("R", "S"), [(), (2,), (4,), (2, 4)]),
        (
            ("R", "A", "S"),
            [(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)],
        ),
    ],
)
def test_all_combinations_of_flips_and_members_are_averaged(windows, axes, flips):
    members = [member(seed).eval() for seed in range(2)]
    with torch.no_grad():
        logits = [net(windows.flip(dims)).flip(dims) for net in members for dims in flips]
    expected = torch.stack(logits).mean(dim=0)
    torch.testing.assert_close(Ensemble(members, CPU, None, axes)(windows), expected)


def test_each_member_sees_each_flip_once(windows):
    members = [Spy(), Spy()]
    Ensemble(members, CPU, None, ("R", "S"))(windows)
    for spy in members:
        expected = [windows, windows.flip(2), windows.flip(4), windows.flip((2, 4))]
        assert len(spy.seen) == 4
        assert all(torch.equal(one, other) for one, other in zip(spy.seen, expected, strict=True))


def test_one_network_alone_is_handed_through_as_it_computes(windows):
    assert Ensemble([member()], CPU, torch.bfloat16)(windows).dtype == torch.bfloat16
    of_two = Ensemble([member(0), member(1)], CPU, torch.bfloat16)(windows)
    assert of_two.dtype == torch.float32, "a mean is taken in full"


@pytest.mark.parametrize("is_training", [True, False])
def test_the_originals_are_left_alone(windows, is_training):
    original = member().train(is_training)
    before = copy.deepcopy(original.state_dict())
    strides = [weights.stride() for weights in original.parameters()]
    ensemble = Ensemble([original], CPU, None, ("R",))
    ensemble(windows)
    assert original.training is is_training
    assert [weights.stride() for weights in original.parameters()] == strides
    after = original.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    assert all(weights.grad is None and weights.requires_grad for weights in original.parameters())


def test_later_training_changes_no_prediction(windows):
    original = member()
    ensemble = Ensemble([original], CPU, None)
    before = ensemble(windows)
    with torch.no_grad():
        for weights in original.parameters():
            weights.add_(1)
    assert torch.equal(ensemble(windows), before)


def test_members_are_evaluated(windows):
    """Batch statistics of training would make a window's logits depend on its neighbours."""
    ensemble = Ensemble([member().train()], CPU, None)
    both = ensemble(windows)
    torch.testing.assert_close(both[:1], ensemble(windows[:1]))


@pytest.mark.parametrize("number", [1, 2])
def test_no_gradients(windows, number):
    found = Ensemble([member()] * number, CPU, None)(windows.requires_grad_())
    assert not found.requires_grad


@pytest.mark.parametrize("axes", [(), ("R",)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_members_see_channels_last(windows, dtype, axes):
    spy = Spy()
    Ensemble([spy], CPU, dtype, axes)(windows)
    assert len(spy.seen) == 1 + len(axes)
    for seen in spy.seen:
        assert seen.is_contiguous(memory_format=torch.channels_last_3d)
        assert not seen.is_contiguous()


@pytest.mark.parametrize("number", [1, 2])
def test_input_is_not_changed(windows, number):
    before = windows.clone()
    Ensemble([Spy(2.0)] * number, CPU, None, ("A",))(windows)
    assert torch.equal(windows, before)


def test_no_networks():
    with pytest.raises(ValueError, match=r"^no networks to predict with$"):
        Ensemble([], CPU, None)


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_float32_is_float32_unless_it_is_allowed_to_be_less(allow_tf32):
    """On NVIDIA GPUs torch's default is less; the setting is as before afterwards."""
    seen = []

    class Look(torch.nn.Module):
        def forward(self, windows_BCIJK):
            seen.append(torch.backends.cudnn.allow_tf32)
            return windows_BCIJK

    ensemble = Ensemble([Look()], torch.device("cpu"), None)
    ensemble.networks = [Look()]
    ensemble.allow_tf32 = allow_tf32
    before = torch.backends.cudnn.allow_tf32
    ensemble(torch.zeros(1, 1, 2, 2, 2))
    assert seen == [allow_tf32]
    assert torch.backends.cudnn.allow_tf32 == before
