"""What a run measures on; `python -m benchmarks.gpu.where DEVICE` is asked as its own process."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
COMMIT = "COMMIT"
"""The file that says in a bundle what `git` says in a checkout."""

PLACES = (ROOT.parent / "data" / "hippocampus", ROOT.parent / "shared/data/Task04_Hippocampus")
"""Where the data are in a bundle, and beside a checkout."""


def main() -> None:
    """Print device, versions, date and commit as JSON, or say in a line why the device won't do."""
    try:
        print(json.dumps(surroundings(sys.argv[1])))
    except (RuntimeError, AssertionError, ImportError) as error:
        sys.exit(f"{sys.argv[1]}: {' '.join(str(error).split())}")


def surroundings(device: str) -> dict[str, Any]:
    """Return what a device is, having computed on it.

    Raises:
        RuntimeError: If there is no such device, or it does not compute.
    """
    import torch

    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU; --device cpu --tiny tries everything without one")
    torch.ones(1, device=place).add(1).item()
    is_gpu = place.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(place) if is_gpu else processor(),
        "driver": driver() if is_gpu else "none",
        "cuda": torch.version.cuda or "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
    }


def processor() -> str:
    """Name the CPU."""
    text = Path("/proc/cpuinfo").read_text("utf-8")
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def driver() -> str:
    """Return the version of NVIDIA's driver."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
        return answer.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def commit() -> str:
    """Return the short name of the commit, and whether files differ from it beside the figures."""
    if (ROOT / COMMIT).is_file():
        return (ROOT / COMMIT).read_text("utf-8").strip()
    words = ["git", "-C", str(ROOT)]
    others = ["--", ".", ":!benchmarks/gpu.md", ":!benchmarks/gpu.json"]
    try:
        name = subprocess.run(
            [*words, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        clean = subprocess.run([*words, "diff", "--quiet", "HEAD", *others], check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + " with changes" * (clean.returncode != 0)


if __name__ == "__main__":
    main()
