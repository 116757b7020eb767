import re

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.network import NetworkConfig, build_network
from pipeline.training.arithmetic import (
    check_repeatable,
    explain,
    is_out_of_memory,
    torch_settings,
)

cudnn = torch.backends.cudnn
CPU = torch.device("cpu")


def current():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
    )


def fail_within(deterministic):
    with torch_settings(deterministic=deterministic):
        raise ValueError("broken")


@pytest.mark.parametrize("deterministic", [True, False])
def test_settings_hold_inside_the_block_only(deterministic):
    torch.use_deterministic_algorithms(not deterministic, warn_only=not deterministic)
    before = current()
    try:
        with torch_settings(deterministic=deterministic):
            assert current() == (deterministic, False, not deterministic)
        assert current() == before
        with pytest.raises(ValueError, match="broken"):
            fail_within(deterministic)
        assert current() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operation_that_cannot_repeat_is_refused():
    """Of the few that a CPU has: `put_` adds up in any order."""
    with torch_settings(deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you", "memory ran out", "batch_size"),
        ("DataLoader worker (pid 3) is killed by signal: Killed. ", "patches died", "num_workers"),
        ("Deterministic behavior was enabled. Set CUBLAS_WORKSPACE_CONFIG", "cuBLAS", ":4096:8"),
        ("put_ has no deterministic form. You can", "^put_ has no deterministic form$", "=false"),
    ],
)
def test_what_the_user_can_mend_is_explained(text, found, remedy):
    what, how = explain(RuntimeError(text), CPU)
    assert re.search(found, what)
    assert remedy in how


def test_a_bug_is_not_explained_away():
    assert explain(RuntimeError("Caught RuntimeError in DataLoader worker process 0."), CPU) is None


def test_memory_that_runs_out_is_known_on_every_device():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def on_meta(name, **settings):
    with torch.device("meta"):
        return build_network(NetworkConfig(name=name, **settings), 1, 2, (32, 32, 32))


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("unet", {"upsampling": "linear"}, r"trilinear interpolation in \S*upsample\S* of unet"),
        ("residual_unet", {}, r"mean-pooling in \S+ of residual_unet"),
        ("attention_unet", {}, r"max-pooling in pools\.0 of attention_unet"),
        ("fcn", {}, r"max-pooling in pools\.0 of fcn"),
        ("segnet", {}, r"max-pooling in the network itself of segnet"),
    ],
)
def test_networks_that_a_gpu_cannot_repeat_are_refused_by_layer(name, settings, found):
    network = on_meta(name, **settings)
    with pytest.raises(ConfigError, match=rf"{found} has no gradient.*deterministic=false"):
        check_repeatable(network, (1, 1, 32, 32, 32), name)
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["unet", "mednext", "unetr"])
def test_other_networks_are_not(name):
    check_repeatable(on_meta(name), (1, 1, 32, 32, 32), name)
