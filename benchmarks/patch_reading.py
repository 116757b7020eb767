"""Compare ways to store a training case by how long a patch takes to read.

    .venv/bin/python -m benchmarks.patch_reading [FOLDER]    # on the disk to measure; 1 GB

Cold: after the system was told to drop the file from memory. Warm: read just before.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.patches import cache
from pipeline.patches.cache import Blocks, write_blocks

SHAPE = (512, 512, 300)
NUM_PATCHES = 16
Read = Callable[[Sequence[int], Sequence[int]], npt.NDArray[np.generic]]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        layouts = store(Path(name))
        sizes = {path: path.stat().st_size / 1e6 for path, _ in layouts.values()}
        print("| layout | MB | patch | cold, ms | warm, ms |\n|---|---|---|---|---|")
        for edge in (128, 64, 40):
            for label, (path, read) in layouts.items():
                cold_ms, warm_ms = measure(path, read, edge)
                patch = f"{edge}^3"
                print(f"| {label} | {sizes[path]:.0f} | {patch} | {cold_ms:.1f} | {warm_ms:.2f} |")


def store(folder: Path) -> dict[str, tuple[Path, Read]]:
    """Write a case in every layout; return where it is and how to read a box of it."""
    volume = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    plain = folder / "plain.npy"
    np.save(plain, volume)

    def read_mapped(start: Sequence[int], stop: Sequence[int]) -> npt.NDArray[np.generic]:
        i, j, k = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return np.array(np.load(plain, mmap_mode="r")[:, i, j, k])

    layouts: dict[str, tuple[Path, Read]] = {"C order, mapped": (plain, read_mapped)}
    for edge in (8, 16, 32):
        path = folder / f"{edge}.npy"
        cache.EDGE = edge
        write_blocks(path, volume)
        stored = Blocks(path, 1, SHAPE, np.float32)

        def read(
            start: Sequence[int], stop: Sequence[int], edge: int = edge, stored: Blocks = stored
        ) -> npt.NDArray[np.generic]:
            cache.EDGE = edge
            return stored.read(start, stop)

        layouts[f"blocks of {edge}^3"] = path, read
    return layouts


def measure(path: Path, read: Read, edge: int) -> tuple[float, float]:
    """Return the median times to read a patch, cold and warm, in ms."""
    rng = np.random.default_rng(1)
    cold, warm = [], []
    for _ in range(NUM_PATCHES):
        start = rng.integers(0, np.subtract(SHAPE, edge) + 1)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for times in (cold, [], warm):
            begin = time.perf_counter()
            read(start, start + edge)
            times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(cold), 1e3 * statistics.median(warm)


if __name__ == "__main__":
    main()
