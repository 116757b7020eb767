"""Which device is chosen, and what is said where one cannot be, on machines that are made up."""

import logging
import re

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.inference import (
    check_device_name,
    choose_device,
    choose_kind,
    device,
    failure_of,
    short_of_memory,
    split_devices,
)

CPU = torch.device("cpu")
GB = 10**9
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed "
    "a driver from http://www.nvidia.com/Download/index.aspx"
)
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: "
    "http://www.nvidia.com/Download/index.aspx"
)
"""As torch 2.11 says it."""


def gpu(number):
    return torch.device("cuda", number)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Make up a machine: its card, its driver, torch's build and what torch says of the GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "ROOT", tmp_path)

    def make(*, card=False, driver="", cuda="13.0", says=NO_DRIVER, listed=0):
        if card:
            place = tmp_path / "sys/bus/pci/devices/0000:17:00.0"
            place.mkdir(parents=True)
            (place / "vendor").write_text("0x10de\n")
            (place / "class").write_text("0x030200\n")
        if driver:
            (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
            (tmp_path / "proc/driver/nvidia/version").write_text(
                f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Sat Oct  7 2023\n"
                "GCC version:  gcc version 9.4.0 (Ubuntu 9.4.0-1ubuntu1~20.04.2)\n"
            )

        def init():
            raise RuntimeError(says)

        monkeypatch.setattr(torch, "__version__", "2.11.0+" + ("cu130" if cuda else "cpu"))
        monkeypatch.setattr(torch.version, "cuda", cuda or None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        # Where a driver is loaded, NVML counts whatever torch can use.
        monkeypatch.setattr(torch.cuda, "device_count", lambda: listed)
        monkeypatch.setattr(torch.cuda, "init", init)

    return make


@pytest.fixture
def cards(monkeypatch):
    """Make up usable GPUs: free and all GB of each; text instead of a number is an error."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    looked = []

    def make(*memory, capability=(9, 0), built=("sm_75", "sm_80", "sm_86", "sm_90", "sm_120")):
        def mem_get_info(which):
            looked.append(which.index)
            free, total = memory[which.index]
            if isinstance(free, str):
                raise RuntimeError(free)
            return round(free * GB), round(total * GB)

        for name, stand_in in {
            "is_available": lambda: bool(memory),
            "device_count": lambda: len(memory),
            "mem_get_info": mem_get_info,
            "get_device_name": lambda _: "NVIDIA A100",
            "get_device_capability": lambda _: capability,
            "get_arch_list": lambda: list(built),
            "memory_reserved": lambda _: 2 * GB,
            "set_device": lambda which: looked.append(f"current {which}"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
        return looked

    return make


# --- Names ---


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_names_of_devices(name):
    check_device_name(name)
    assert split_devices(name) == (name,)


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "CPU", "meta", "cuda:99999", "all"]
)
def test_unknown_device(name):
    text = rf"^device: '{name}' is no device\. Use auto, cpu, cuda or cuda:N\.$"
    for ask in (choose_device, choose_kind, check_device_name):
        with pytest.raises(ConfigError, match=text):
            ask(name)


def test_several_are_named_by_all_or_by_their_numbers(cards):
    cards((40, 40), (40, 40), (1, 40))
    assert split_devices("all") == ("cuda:0", "cuda:1", "cuda:2")
    assert split_devices("cuda:2,cuda:00") == ("cuda:2", "cuda:0")
    with pytest.raises(
        ConfigError, match=r"'cuda:0,cuda:3', but torch finds cuda:0, cuda:1, cuda:2"
    ):
        split_devices("cuda:0,cuda:3")


@pytest.mark.parametrize(
    "names", ["cuda:0,cpu", "cpu,cpu", "cuda,cuda:1", "0,1", "all,cuda:0", ","]
)
def test_what_is_no_list_of_gpus_is_refused(names):
    with pytest.raises(ConfigError, match=r"is no list of GPUs\. Name GPUs by .* cuda:0,cuda:1"):
        split_devices(names)


def test_one_gpu_is_not_taken_twice():
    with pytest.raises(ConfigError, match="names a GPU twice"):
        split_devices("cuda:1,cuda:01")


def test_all_gpus_where_there_are_none_is_an_error_that_says_why(machine):
    machine(card=True, driver="470.223.02", says=OLD_DRIVER, listed=2)
    with pytest.raises(ConfigError, match=r"^device: 'all', but the NVIDIA driver 470\.223\.02"):
        split_devices("all")


# --- Which GPU ---


def test_the_only_gpu_is_taken_and_becomes_the_current_one(cards):
    looked = cards((39, 40))
    for name in ("auto", "cuda", "cuda:0"):
        assert choose_device(name) == gpu(0)
    assert looked == [0, "current cuda:0"] * 3
    assert choose_device("cpu") == CPU
    assert choose_kind("auto") == choose_kind("cuda") == torch.device("cuda")


@pytest.mark.parametrize(
    ("memory", "taken", "looks"),
    [
        ([(40, 80), (80, 80)], 0, [0]),  # Half is enough, and the second is left alone.
        ([(39, 80), (80, 80)], 1, [0, 1]),
        ([(3, 80), (9, 80), (5, 80)], 1, [0, 1, 2]),
        ([(3, 80), (9, 12), (80, 80)], 1, [0, 1]),
        ([("CUDA error: out of memory", 80), (1, 80)], 1, [0, 1]),
    ],
)
def test_of_several_gpus_one_is_taken_that_others_leave_alone(cards, memory, taken, looks):
    looked = cards(*memory)
    assert choose_device("auto") == gpu(taken)
    assert looked == [*looks, f"current cuda:{taken}"]


def test_a_gpu_that_is_named_is_taken_however_full_it_is(cards):
    looked = cards((80, 80), (1, 80))
    assert choose_device("cuda:1") == gpu(1)
    assert looked == [1, "current cuda:1"]


def test_a_number_that_no_gpu_has(cards, monkeypatch):
    cards((80, 80), (80, 80))
    text = r"^device: 'cuda:2', but torch finds cuda:0, cuda:1 here\. Name one of those\. Or use"
    with pytest.raises(ConfigError, match=text):
        choose_device("cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(ConfigError, match=r"cuda:1 here, with CUDA_VISIBLE_DEVICES='4,5'\. Name"):
        choose_device("cuda:5")


# --- GPUs that cannot be used ---

CASES = {
    "none": (
        {},
        "torch finds none here: Found no NVIDIA driver on your system",
        None,
    ),
    "old driver": (
        {"card": True, "driver": "470.223.02", "says": OLD_DRIVER, "listed": 1},
        "the NVIDIA driver 470.223.02 knows CUDA up to 11.4, but this torch (2.11.0+cu130) is "
        "built for CUDA 13.0",
        "Install the driver 580 or later, or a torch for an older CUDA",
    ),
    "CPU build": (
        {"card": True, "driver": "580.65.06", "cuda": ""},
        "the machine has an NVIDIA GPU, but this torch (2.11.0+cpu) is built without CUDA",
        "Install one with CUDA (https://pytorch.org/get-started/locally/).",
    ),
    "CPU build and old driver": (
        {"card": True, "driver": "470.223.02", "cuda": ""},
        "is built without CUDA",
        "Update the NVIDIA driver 470.223.02 to 525 or later. Install one with CUDA",
    ),
    "CPU build, no card": (
        {"cuda": ""},
        "but this torch (2.11.0+cpu) is built without CUDA",
        None,
    ),
    "no driver": (
        {"card": True},
        "the machine has an NVIDIA GPU, but no NVIDIA driver",
        "Install the driver 580 or later.",
    ),
    "container": (
        {"driver": "580.65.06"},
        "the machine has the NVIDIA driver 580.65.06, but libcuda.so is not to be found",
        "docker run --gpus all",
    ),
    "broken": (
        {"card": True, "driver": "580.65.06", "says": "Error 802: system not yet initialized\n"},
        "torch finds none here: Error 802: system not yet initialized",
        "See what `nvidia-smi` says.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_why_there_is_no_gpu_is_said_with_what_to_do(machine, caplog, case):
    how, found, remedy = CASES[case]
    machine(**how)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ConfigError) as caught:
            choose_device(name)
        assert caught.value.found.startswith(f"{name!r}, but ")
        assert found in caught.value.found
        assert caught.value.remedy.endswith(" Or use cpu.")
        assert (remedy or "") in caught.value.remedy
    with caplog.at_level(logging.INFO):
        assert choose_device("auto") == CPU
    if remedy is None:
        assert not caplog.records, "simply no GPU"
        return
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(rf"^device: .*{re.escape(found)}.*\. The CPU is used\. ", record.message)
    assert remedy in record.message
    assert choose_kind("auto") == CPU
    with pytest.raises(ConfigError, match="'cuda', but"):
        choose_kind("cuda")


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_gpus_that_are_hidden_on_purpose_are_not_missed(machine, monkeypatch, caplog, value):
    machine(card=True, driver="580.65.06", says="No CUDA GPUs are available")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert choose_device("auto") == CPU
    assert not caplog.records
    text = rf"'cuda', but CUDA_VISIBLE_DEVICES='{value}' hides every GPU\. Unset it\. Or use cpu\."
    with pytest.raises(ConfigError, match=text):
        choose_device("cuda")


def test_a_number_that_names_no_gpu_is_told(machine, monkeypatch, caplog):
    machine(card=True, driver="580.65.06", says="No CUDA GPUs are available")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert choose_device("auto") == CPU
    assert "CUDA_VISIBLE_DEVICES='7' torch says: No CUDA GPUs are available" in caplog.text
    assert "`nvidia-smi -L`" in caplog.text


def test_what_torch_warns_of_is_not_said_twice(machine, monkeypatch, recwarn):
    machine(card=True, driver="470.223.02", says=OLD_DRIVER)

    def is_available():
        import warnings

        warnings.warn(f"CUDA initialization: {OLD_DRIVER}", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    assert choose_device("auto") == CPU
    assert not recwarn.list


@pytest.mark.parametrize(
    ("capability", "built", "age"),
    [
        ((7, 0), ("sm_75", "sm_80", "sm_90", "sm_120"), "an older"),
        ((10, 0), ("sm_75", "sm_90"), "a newer"),
        ((8, 0), ("sm_75", "sm_86", "compute_90"), "a newer"),
    ],
)
def test_a_gpu_that_this_torch_has_no_code_for_is_not_taken(cards, caplog, capability, built, age):
    cards((80, 80), capability=capability, built=built)
    version = "{}.{}".format(*capability)
    text = (
        rf"cuda:0 \(NVIDIA A100\) has compute capability {version}, and this torch \(2\.11.*7\.5, "
    )
    with pytest.raises(ConfigError, match=rf"{text}.*Install a torch for {age} CUDA"):
        choose_device("cuda")
    assert choose_device("auto") == CPU
    assert re.search(rf"{text}.*The CPU is used", caplog.text)


@pytest.mark.parametrize(
    ("capability", "built"),
    [
        ((8, 9), ("sm_75", "sm_86")),
        ((7, 5), ("sm_75",)),
        ((12, 0), ("sm_80", "compute_90")),
        ((9, 0), ()),  # Torch does not say.
        ((9, 0), ("gfx942",)),  # By AMD.
    ],
)
def test_code_runs_on_gpus_that_are_not_older(cards, capability, built):
    cards((80, 80), capability=capability, built=built)
    assert choose_device("cuda") == gpu(0)


def test_a_gpu_without_any_memory_left_is_named(cards, caplog):
    cards(("CUDA error: out of memory\nCUDA kernel errors might be", 80))
    text = (
        r"^device: 'cuda:0', but cuda:0 \(NVIDIA A100\) says: CUDA error: out of memory\. End what"
    )
    with pytest.raises(ConfigError, match=text) as caught:
        choose_device("cuda:0")
    assert "nvidia-smi" in caught.value.remedy
    assert choose_device("auto") == CPU
    assert "out of memory. The CPU is used. End what uses it (`nvidia-smi` shows it)" in caplog.text


# --- Memory ---


def test_memory_that_others_take_is_told_from_a_card_that_is_too_small(cards):
    """Of 40 GB, 3 are free and 2 are torch's own; the other 35 are others'."""
    cards((3, 40))
    found, remedy = short_of_memory(gpu(0), 20 * GB, 4 * GB)
    assert (
        found == "of 40.0 GB of cuda:0 (NVIDIA A100) 4.0 GB can be had, since others take 35.0 GB"
    )
    assert remedy.startswith("end what takes it (`nvidia-smi` shows it), or take another GPU")
    found, remedy = short_of_memory(gpu(0), 39 * GB + 1, 4 * GB)
    assert found == "of 40.0 GB of cuda:0 (NVIDIA A100) 4.0 GB can be had"
    assert remedy == "or take a larger GPU or cpu"


def test_main_memory_is_told_as_such(monkeypatch):
    monkeypatch.setattr(device, "total_bytes", lambda: 8 * GB)
    found, remedy = short_of_memory(CPU, 9 * GB, 1 * GB)
    assert (found, remedy) == ("of 8.0 GB of main memory 1.0 GB are free", "or free memory")


# --- A device that fails ---


def test_a_gpu_that_does_not_answer_has_failed(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    assert failure_of(CPU) == ""
    assert failure_of(gpu(1)) == ""
    assert asked == [gpu(1)]

    def synchronize(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert failure_of(gpu(1)) == "CUDA error: an illegal memory access was encountered"
