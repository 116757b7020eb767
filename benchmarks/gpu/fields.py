"""The same problems for the field on both devices."""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.crf_cases import HALVES, MANY, MANY_SPACING_MM, make_abdomen, make_many
from benchmarks.crf_cases import Problem as Scene
from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.sections import Found
from benchmarks.gpu.timing import synchronize
from benchmarks.postprocessing import MANY_BAND_MM, MANY_CLASSES, PARAMETERS
from pipeline.inference import choose_device
from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.postprocessing.crf.band import band_of_probabilities
from pipeline.postprocessing.crf.kernels import choose_kernels
from pipeline.postprocessing.crf.problem import Limits, Problem, infer_band
from pipeline.postprocessing.crf.refine import uncertain_of_labels

CPU = torch.device("cpu")
MOST_BYTES = 8 * 10**9
SLOWER = 30.0
"""Times as long that the CPU is expected to take, until the small problem has shown it."""

Labels = npt.NDArray[np.unsignedinteger]


class Fields:
    """Refines the same problems on both devices.

    Args:
        context: Of the part.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._device = choose_device(context.device)
        self._slower = SLOWER
        self._config = CrfConfig(
            theta_position_mm=PARAMETERS["position"],
            theta_intensity=PARAMETERS["intensity"],
            weight_appearance=PARAMETERS["look_weight"],
            theta_smoothness_mm=PARAMETERS["smooth"],
            weight_smoothness=PARAMETERS["smooth_weight"],
            iterations=int(PARAMETERS["iterations"]),
        )
        self._scene: Scene | None = None

    def small(self) -> Found:
        """Compare probabilities and labels on the abdomen-like problem."""
        yield "making the problem"
        self._scene = scene = make_abdomen((32, 32, 24) if self._context.tiny else HALVES)
        yield Measured("marginals", self._difference(scene), "in the band, after five rounds")
        yield from self._both("small", lambda crf: self._refine(crf, scene, 1))

    def large(self) -> Found:
        """Compare labels where the problem is there eight times."""
        scene = self._scene
        if scene is None:
            raise RuntimeError("the small problem was not made")
        yield from self._both("large", lambda crf: self._refine(crf, scene, 2))

    def many(self) -> Found:
        """Compare labels of a hundred classes."""
        yield "making a problem of a hundred classes"
        shape, classes = ((40, 40, 24), 9) if self._context.tiny else (MANY, MANY_CLASSES)
        image, labels = make_many(classes, shape)
        values = list(range(classes))
        uncertain = uncertain_of_labels(labels, values, MANY_SPACING_MM, MANY_BAND_MM)
        config = CrfConfig(theta_position_mm=5, theta_intensity=1)

        def refine(crf: Crf) -> Labels:
            many = Crf(config, crf.device, max_bytes=MOST_BYTES, intensity_unit=20.0)
            return many.refine_uncertain(image[None], labels, uncertain, values, MANY_SPACING_MM)

        yield from self._both("many", refine)

    def _refine(self, crf: Crf, scene: Scene, copies: int) -> Labels:
        image = np.tile(scene.image_IJK, (copies,) * 3)[None]
        shares = np.tile(scene.probability_CIJK, (1, *(copies,) * 3))
        return crf.refine_probabilities(image, shares, (1, 1, 1))

    def _both(self, size: str, refine: Callable[[Crf], Labels]) -> Found:
        """Time both devices and compare their labels; the CPU only where there is time for it."""
        on_gpu, on_cpu = (
            Crf(self._config, device, intensity_unit=1.0) for device in (self._device, CPU)
        )
        is_gpu = self._device.type == "cuda"
        # The first time loads kernels.
        refine(on_gpu) if size == "small" else None
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        seconds, labels = self._timed(refine, on_gpu)
        yield Measured(f"{size}_gpu_s", seconds, f"{labels.size / 1e6:.1f} million voxels")
        peak = torch.cuda.max_memory_allocated(self._device) / 1e9 if is_gpu else None
        yield Measured(f"{size}_gpu_gb", peak)
        expected = self._slower * seconds
        if expected > self._context.left_s and not self._context.tiny:
            for name in ("cpu_s", "ratio", "equal"):
                yield Measured(f"{size}_{name}", None, f"left out: about {expected:.0f} s")
            return
        cpu_s, reference = self._timed(refine, on_cpu)
        self._slower = cpu_s / seconds
        threads = torch.get_num_threads()
        yield Measured(f"{size}_cpu_s", cpu_s, f"{threads} threads, {_code()}")
        yield Measured(f"{size}_ratio", self._slower)
        yield Measured(f"{size}_equal", float((labels == reference).mean()))

    def _timed(self, refine: Callable[[Crf], Labels], crf: Crf) -> tuple[float, Labels]:
        start = time.perf_counter()
        labels = refine(crf)
        synchronize(crf.device)
        return time.perf_counter() - start, labels

    def _difference(self, scene: Scene) -> float:
        """Return the largest difference of a probability in the band, by torch's code on both."""
        found = []
        for device in (self._device, CPU):
            band, class_IJK = band_of_probabilities(torch.from_numpy(scene.probability_CIJK))
            problem = Problem(
                torch.from_numpy(scene.image_IJK)[None].to(device),
                band.to(device),
                class_IJK.to(device),
                len(scene.probability_CIJK),
                (1.0, 1.0, 1.0),
            )
            kernels = choose_kernels("torch", device, torch.float32)
            _, share_NS = infer_band(problem, self._config, kernels, Limits(MOST_BYTES, 1.0))
            found.append(share_NS.cpu())
        return float((found[0] - found[1]).abs().max())


def _code() -> str:
    try:
        import numba

        return f"numba {numba.__version__}"
    except ImportError:
        return "torch, since numba is not installed"
