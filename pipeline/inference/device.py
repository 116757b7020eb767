"""Which device to compute on, and what to say where the one that is wanted cannot be used.

Torch says why it finds no GPU once and in passing, or not at all; a GPU without a driver, one that
is hidden and none at all look the same to it. So the machine is asked as well.

Source:
    Drivers that versions of CUDA need: https://docs.nvidia.com/deploy/cuda-compatibility/.
"""

import logging
import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch

from pipeline.errors import ConfigError
from pipeline.system.disk import in_words
from pipeline.system.memory import total_bytes

logger = logging.getLogger(__name__)

ROOT: Final = Path("/")
"""Where `proc` and `sys` lie."""

CPU: Final = torch.device("cpu")

_NO_GPU_WANTED = ("", "-1", "NoDevFiles")
"""What users and schedulers set CUDA_VISIBLE_DEVICES to where no GPU shall be used."""

_LEAST_DRIVER = {13: 580, 12: 525}
"""Of NVIDIA, for each major version of CUDA that torch is built for."""

_NVIDIA, _DISPLAY = "0x10de", "0x03"
"""Vendor, and beginning of the class of graphics cards, on the PCI bus."""

_NVIDIA_SMI = "`nvidia-smi` shows it"
_INSTALL = "https://pytorch.org/get-started/locally/"


def check_device_name(name: str) -> None:
    """Make sure that a name is one that a device can have, here or on another machine.

    Raises:
        ConfigError: If it is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ConfigError("device", f"{name!r} is no device", "Use auto, cpu, cuda or cuda:N.")


def split_devices(names: str) -> tuple[str, ...]:
    """Return each device of those that are named: `all` GPUs, several (cuda:0,cuda:1) or one.

    Raises:
        ConfigError: If they are none, or of `all` or several not each one is there.
    """
    if names != "all" and "," not in names:
        check_device_name(names)
        return (names,)
    numbers = None if names == "all" else _numbers(names)
    try:
        gpus = _find_gpus()
        if numbers is not None:
            gpus = [_by_number(gpus, number) for number in numbers]
    except _UnusableError as lack:
        raise lack.for_user(names) from lack
    return tuple(map(str, gpus))


def _numbers(names: str) -> list[int]:
    """Return the number of each GPU of a list."""
    several = names.split(",")
    if not all(re.fullmatch(r"cuda:\d{1,3}", name) for name in several):
        remedy = "Name GPUs by their numbers, as cuda:0,cuda:1, or all."
        raise ConfigError("device", f"{names!r} is no list of GPUs", remedy)
    numbers = [int(name.partition(":")[2]) for name in several]
    if len(set(numbers)) < len(numbers):
        raise ConfigError("device", f"{names!r} names a GPU twice", "Name each of them once.")
    return numbers


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; a GPU becomes torch's current one.

    `auto` is a GPU, or the CPU where none can be used. A warning says why, unless there is simply
    none. Of several GPUs, `auto` and `cuda` are the first one with half of its memory free, or else
    the one with most.

    Raises:
        ConfigError: If there is no such device, or it cannot be used.
    """
    check_device_name(name)
    if name == "cpu":
        return CPU
    try:
        device = _choose_gpu(_find_gpus(), name)
    except _UnusableError as lack:
        return _without_gpu(name, lack)
    # Libraries ask what the current one can do, and make streams there.
    torch.cuda.set_device(device)
    return device


def choose_kind(name: str) -> torch.device:
    """Return what `choose_device` would for auto, cpu or cuda, but leave open which GPU it is.

    Raises:
        ConfigError: If there is no such device, or it cannot be used.
    """
    check_device_name(name)
    if name == "cpu":
        return CPU
    try:
        _find_gpus()
    except _UnusableError as lack:
        return _without_gpu(name, lack)
    return torch.device("cuda")


def short_of_memory(device: torch.device, needed: int, free: int) -> tuple[str, str]:
    """Return what a device lacks, and what helps besides asking for less, both in words.

    Args:
        device: A GPU that was chosen, or the CPU.
        needed: Bytes that something takes at the least.
        free: Bytes that can be had there.
    """
    if device.type == "cpu":
        found = f"of {in_words(total_bytes())} of main memory {in_words(free)} are free"
        return found, "or free memory"
    on_card, total = torch.cuda.mem_get_info(device)
    # What torch does not hold is others', apart from what CUDA itself takes for this process.
    others = total - on_card - torch.cuda.memory_reserved(device)
    found = f"of {in_words(total)} of {_describe(device)} {in_words(free)} can be had"
    if needed > free + others:
        return found, "or take a larger GPU or cpu"
    found += f", since others take {in_words(others)}"
    return found, f"end what takes it ({_NVIDIA_SMI}), or take another GPU (cuda:N) or cpu"


def failure_of(device: torch.device) -> str:
    """Return why a device does not compute any more; empty if it does.

    An error within a kernel leaves a process without its GPU for as long as it lives, whatever it
    computes next; so does a GPU that is gone.
    """
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            return _first_line(error)
    return ""


class _UnusableError(Exception):
    """No GPU can be used.

    Args:
        found: Why.
        remedy: What helps, as sentences.
        is_odd: Whether there seems to be one, and nobody said that it should not be used.
    """

    def __init__(self, found: str, remedy: str, *, is_odd: bool) -> None:
        super().__init__(found)
        self.found, self.remedy, self.is_odd = found, remedy, is_odd

    def for_user(self, name: str) -> ConfigError:
        """Return the error for one who asked for a GPU by `name`."""
        return ConfigError("device", f"{name!r}, but {self.found}", f"{self.remedy} Or use cpu.")


def _without_gpu(name: str, lack: _UnusableError) -> torch.device:
    """Go on with the CPU where that is permitted, and say so if it is not what anybody expects."""
    if name != "auto":
        raise lack.for_user(name) from lack
    if lack.is_odd:
        logger.warning("device: %s. The CPU is used. %s", lack.found, lack.remedy)
    return CPU


def _find_gpus() -> list[torch.device]:
    """Return the GPUs that torch reaches; whether it has code for each is another question.

    Raises:
        _UnusableError: If there are none.
    """
    with warnings.catch_warnings():
        # What it warns of is told better below.
        warnings.simplefilter("ignore")
        # The number alone counts GPUs, too, whose driver is too old for this torch.
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number == 0:
        raise _find_lack()
    return [torch.device("cuda", index) for index in range(number)]


def _find_lack() -> _UnusableError:
    """Find out why torch reaches no GPU."""
    visible = _visible()
    if visible is not None and visible.strip() in _NO_GPU_WANTED:
        found = f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU"
        return _UnusableError(found, "Unset it.", is_odd=False)
    driver, has_card = _driver_version(), _has_card()
    if torch.version.cuda is None and torch.version.hip is None:
        found = f"this torch ({torch.__version__}) is built without CUDA"
        if has_card:
            found = f"the machine has an NVIDIA GPU, but {found}"
        remedy = f"{_update(driver)}Install one with CUDA ({_INSTALL})."
        return _UnusableError(found, remedy, is_odd=has_card)
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        said = "no GPU"
    except (RuntimeError, AssertionError) as error:
        said = _first_line(error)
    return _explain(said, driver, has_card=has_card)


def _explain(said: str, driver: str, *, has_card: bool) -> _UnusableError:
    """Say better, where that can be, why torch reaches no GPU than it `said` so."""
    build = f"this torch ({torch.__version__}) is built for CUDA {torch.version.cuda}"
    least = _LEAST_DRIVER.get(int((torch.version.cuda or "0").partition(".")[0]))
    later = f" {least} or later" if least else ""
    if old := re.search(r"driver .* too old \(found version (\d+)\)", said):
        known = f"{int(old[1]) // 1000}.{int(old[1]) % 1000 // 10}"
        found = f"the NVIDIA driver{driver and f' {driver}'} knows CUDA up to {known}, but {build}"
        remedy = f"Install the driver{later}, or a torch for an older CUDA ({_INSTALL})."
        return _UnusableError(found, remedy, is_odd=True)
    if "no NVIDIA driver" in said and driver:
        found = f"the machine has the NVIDIA driver {driver}, but libcuda.so is not to be found"
        remedy = "Start a container with the GPUs (docker run --gpus all)."
        return _UnusableError(found, remedy, is_odd=True)
    if "no NVIDIA driver" in said and has_card:
        found = "the machine has an NVIDIA GPU, but no NVIDIA driver"
        return _UnusableError(found, f"Install the driver{later}.", is_odd=True)
    visible = _visible()
    if visible is not None and has_card:
        found = f"with CUDA_VISIBLE_DEVICES={visible!r} torch says: {said}"
        return _UnusableError(found, "Name GPUs there that `nvidia-smi -L` lists.", is_odd=True)
    remedy = "See what `nvidia-smi` says." if has_card else "Run where there is one."
    return _UnusableError(f"torch finds none here: {said}", remedy, is_odd=has_card)


def _visible() -> str | None:
    """Return which GPUs the driver was told to show; nothing is decided by it, only explained."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")  # noqa: TID251


def _update(driver: str) -> str:
    """Return a sentence where a driver is too old for every torch that may be installed."""
    least = min(_LEAST_DRIVER.values())
    if driver and int(driver.partition(".")[0]) < least:
        return f"Update the NVIDIA driver {driver} to {least} or later. "
    return ""


def _driver_version() -> str:
    """Return the version of the NVIDIA driver that the system has loaded, or an empty text."""
    with suppress(OSError):
        text = (ROOT / "proc/driver/nvidia/version").read_text("utf-8", errors="replace")
        if version := re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text):
            return version[0]
    return ""


def _has_card() -> bool:
    """Tell whether the machine has a GPU by NVIDIA, with a driver or without."""
    if _driver_version():
        return True
    for place in (ROOT / "sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            kind = (place / "class").read_text("ascii")
            if (place / "vendor").read_text("ascii").strip() == _NVIDIA and kind[:4] == _DISPLAY:
                return True
    return False


def _choose_gpu(gpus: list[torch.device], name: str) -> torch.device:
    """Return the GPU called `name`, or the first with half of its memory free, or with most.

    Looking at one takes some of its memory, so those behind are left alone.

    Raises:
        _UnusableError: If it is none, or cannot be used; of several, it speaks of the first.
    """
    if ":" in name:
        gpus = [_by_number(gpus, int(name.partition(":")[2]))]
    lacks: list[_UnusableError] = []
    frees: dict[torch.device, int] = {}
    for gpu in gpus:
        try:
            _check_code(gpu)
            frees[gpu], total = _look_at_memory(gpu)
        except _UnusableError as lack:
            lacks.append(lack)
            continue
        if 2 * frees[gpu] >= total:
            return gpu
    if not frees:
        raise lacks[0]
    return max(frees, key=lambda gpu: frees[gpu])


def _by_number(gpus: list[torch.device], number: int) -> torch.device:
    if number < len(gpus):
        return gpus[number]
    visible = _visible()
    found = f"torch finds {', '.join(map(str, gpus))} here"
    found += "" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible!r}"
    raise _UnusableError(found, "Name one of those.", is_odd=True)


def _check_code(gpu: torch.device) -> None:
    """Raise an error if this torch has no code that runs on a GPU.

    Code runs on GPUs of the same major version that are not older, and what is to be compiled yet
    (`compute_90`) on all that are not older.
    """
    listed = " ".join(torch.cuda.get_arch_list())
    built = [
        (int(number[:-1]), int(number[-1]), kind)
        for kind, number in re.findall(r"(sm|compute)_(\d{2,3})\b", listed)
    ]
    major, minor = torch.cuda.get_device_capability(gpu)
    if not built or any(
        (major, minor) >= (of, since) and (major == of or kind == "compute")
        for of, since, kind in built
    ):
        return
    versions = ", ".join(dict.fromkeys(f"{of}.{since}" for of, since, _ in built))
    found = f"{_describe(gpu)} has compute capability {major}.{minor}, and this torch "
    found += f"({torch.__version__}) has code for {versions}"
    age = "an older" if (major, minor) < min(built)[:2] else "a newer"
    raise _UnusableError(found, f"Install a torch for {age} CUDA ({_INSTALL}).", is_odd=True)


def _look_at_memory(gpu: torch.device) -> tuple[int, int]:
    """Return free and all bytes of a GPU; raise an error if it has none even to be asked."""
    try:
        return torch.cuda.mem_get_info(gpu)
    except RuntimeError as error:
        found = f"{_describe(gpu)} says: {_first_line(error)}"
        remedy = f"End what uses it ({_NVIDIA_SMI}), or take another GPU (cuda:N)."
        raise _UnusableError(found, remedy, is_odd=True) from error


def _describe(gpu: torch.device) -> str:
    return f"{gpu} ({torch.cuda.get_device_name(gpu)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
