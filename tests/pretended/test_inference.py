"""One study's way through a GPU: the labels of the CPU, and how often the host waits.

Before it was counted, the host waited 4 to 26 times a window, by 3 or 40 classes and by what is
kept of their probabilities.
"""

import math
import sys
from contextlib import nullcontext

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils._python_dispatch import _disable_current_modes

from pipeline.errors import ModelError, StudyError
from pipeline.inference import InferenceConfig, NotEnoughMemory
from pipeline.inference.cells import Cells
from pipeline.manifest import Region
from pipeline.model import Model
from pipeline.segmentation import Segmenter
from pipeline.study import Study
from pipeline.transforms import ChannelNormalisation, preprocess, restore
from pipeline.volume import Volume
from tests.segmentation.test_segmenter import describe

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SHAPE = (22, 16, 40)
NUM_WINDOWS = 54
WAIT = "synchronize at pipeline/transforms/transfer.py"


class Collector:
    """Puts together what is handed on, as multiples of 1/255."""

    def __init__(self, num_outputs):
        self.steps = np.zeros((num_outputs, *SHAPE), np.uint8)

    def put(self, index, box, steps_IJK):
        self.steps[index][box] = steps_IJK


class Network(torch.nn.Module):
    """Outputs that differ in place and from voxel to voxel; fits batches up to a size only."""

    def __init__(self, num_outputs):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv3d(1, num_outputs, 3, padding=1)
        torch.nn.init.normal_(self.layer.weight, std=2)
        self.largest, self.sizes = 10**9, []

    def __deepcopy__(self, memo):
        copy = Network(len(self.layer.weight))
        copy.largest, copy.sizes = self.largest, self.sizes
        return copy

    def forward(self, windows_BCIJK):
        self.sizes.append(len(windows_BCIJK))
        if windows_BCIJK.is_cuda and len(windows_BCIJK) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(windows_BCIJK)


@pytest.fixture
def study():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.5)
    data = (100 + 150 * noise / noise.std()).astype(np.float32)
    volume = Volume(data[None], np.diag([-1.0, -1.0, 2.0, 1.0]))
    return Study("case", volume, nib.Nifti1Header(), (), ())


def model_of(num_outputs, kind="labels"):
    names = [f"l{number}" for number in range(1, num_outputs + (kind == "regions"))]
    changes = {
        "labels": {name: value for value, name in enumerate(names, 300)},
        "inference": InferenceConfig(window=(12, 12, 16), precision="fp32"),
    }
    if kind == "regions":
        changes["regions"] = tuple(Region(name, (name,), name) for name in names)
    # Working voxels of 1.1 mm: 20 x 15 x 73.
    description = describe((1.1, 1.1, 1.1)).model_copy(update=changes)
    return Model(description, (Network(num_outputs),))


def segment(model, study, device, sink=None, **others):
    # On a CPU the pretended GPU has nothing to say, and would only take time.
    with _disable_current_modes() if device == CPU else nullcontext():
        segmenter = Segmenter(model, device)
        prepared = segmenter.prepare(study)
        return segmenter, segmenter.segment(prepared, sink, **others)


@pytest.mark.parametrize(
    ("num_outputs", "kind", "top_k", "has_sink"),
    [
        (3, "labels", 0, False),
        (40, "labels", 0, False),
        (12, "labels", 0, True),
        (12, "labels", 3, True),
        (4, "regions", 2, True),
    ],
)
def test_labels_are_those_of_a_cpu_and_the_host_waits_once_a_block(
    gpu, study, num_outputs, kind, top_k, has_sink
):
    model = model_of(num_outputs, kind)
    sinks = [Collector(num_outputs) if has_sink else None for _ in range(2)]
    expected = segment(model, study, CPU, sinks[0], top_k=top_k)[1]
    segmenter = Segmenter(model, GPU)
    prepared, told = segmenter.prepare(study), []
    gpu.waits.clear()
    found = segmenter.segment(
        prepared, sinks[1], top_k=top_k, advance=lambda *step: told.append(step)
    )
    waits = dict(gpu.waits)
    assert len(np.unique(expected.labels_IJK)) > 2
    np.testing.assert_array_equal(found.labels_IJK, expected.labels_IJK)
    if has_sink:
        np.testing.assert_array_equal(sinks[0].steps, sinks[1].steps)
    if top_k:
        for name in ("voxel_N", "index_NK", "probability_NK"):
            one, other = (getattr(each.uncertain, name) for each in (found, expected))
            np.testing.assert_array_equal(one, other)
    assert told[-1] == ("windows", NUM_WINDOWS, NUM_WINDOWS)
    assert all(name.startswith(WAIT) for name in waits), waits
    layout = segmenter.predictor.lay(prepared.working.placement.working.shape)
    num_blocks = len(layout.rows) * len(layout.slabs)
    assert num_blocks < NUM_WINDOWS
    # After the last block come its labels, and before them the number of its uncertain voxels.
    assert sum(waits.values()) <= num_blocks + 1 + (top_k > 0)
    assert found.seconds.keys() == expected.seconds.keys()


def test_sums_in_main_memory_are_waited_for_once_a_batch(gpu, study):
    gpu.free_bytes = 10**10  # of which one batch takes more
    model = model_of(12)
    expected = segment(model, study, CPU)[1]
    segmenter = Segmenter(model, GPU)
    prepared = segmenter.prepare(study)
    gpu.waits.clear()
    found = segmenter.segment(prepared)
    np.testing.assert_array_equal(found.labels_IJK, expected.labels_IJK)
    assert all(name.startswith(WAIT) for name in gpu.waits), gpu.waits
    assert gpu.num_waits == math.ceil(NUM_WINDOWS / segmenter.predictor.batch_size)


# --- Resampling to the working grid ---


@pytest.mark.parametrize("slab", [500, 2**24])
@pytest.mark.parametrize("spacing_mm", [(1.6, 1.2, 3.1), (0.7, 1.0, 2.9), (1.0, 1.0, 2.0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_resampling_there_is_that_of_a_cpu(gpu, study, monkeypatch, slab, spacing_mm, order):
    """The very same here, where the arithmetic is; slab by slab as well."""
    monkeypatch.setattr("pipeline.transforms.resample.SLAB_VOXELS", slab)
    data = np.asarray(study.volume.data_CIJK, order=order)
    volume = Volume(data, study.volume.affine)
    settings = describe(spacing_mm).preprocessing
    expected = preprocess(volume, settings)
    found = preprocess(volume, settings, device=GPU)
    assert found.data_CIJK.is_cuda
    assert torch.equal(found.data_CIJK.cpu(), expected.data_CIJK)


@pytest.mark.parametrize("kind", ["zscore_robust", "percentile", "zscore"])
def test_normalisation_by_the_whole_volume_is_the_cpus(gpu, study, kind):
    settings = describe((1.6, 1.2, 3.1)).preprocessing
    channels = (ChannelNormalisation(kind=kind),)
    settings = settings.model_copy(update={"channels": channels})
    expected = preprocess(study.volume, settings)
    found = preprocess(study.volume, settings, device=GPU)
    assert found.data_CIJK.is_cuda
    assert torch.equal(found.data_CIJK.cpu(), expected.data_CIJK)


def test_a_study_is_prepared_where_there_is_room(gpu, study, monkeypatch):
    segmenter = Segmenter(model_of(3), GPU)
    prepared = segmenter.prepare(study)
    assert prepared.working.data_CIJK.is_cuda
    assert not prepared.without_data().working.data_CIJK.numel()
    # Of 90 % of 18 GB one batch takes 16, and 4 slabs of float32 a quarter.
    gpu.free_bytes = 18 * 10**9
    assert not Segmenter(model_of(3), GPU).prepare(study).working.data_CIJK.is_cuda

    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    # The function has the module's name.
    module = sys.modules["pipeline.transforms.preprocess"]
    monkeypatch.setattr(module, "resample_view_on", short)
    on_host = segmenter.prepare(study).working.data_CIJK
    assert not on_host.is_cuda
    assert torch.equal(on_host, prepared.working.data_CIJK.cpu())


# --- Memory that runs out ---


def test_batches_shrink(gpu, study, caplog):
    model = model_of(3)
    expected = segment(model, study, CPU)[1]
    network = model.networks[0]
    network.largest = 3
    segmenter, found = segment(model, study, GPU)
    np.testing.assert_array_equal(found.labels_IJK, expected.labels_IJK)
    assert segmenter.predictor.batch_size == 2
    assert "going on with batches of 2 windows" in caplog.text


def no_cells(monkeypatch):
    make = Cells._make

    def short(cells, index):
        if cells.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(cells, index)

    monkeypatch.setattr(Cells, "_make", short)


def no_way_back(monkeypatch):
    interpolate = restore.interpolate

    def short(values_CIJK, *others):
        if values_CIJK.is_cuda:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        return interpolate(values_CIJK, *others)

    monkeypatch.setattr(restore, "interpolate", short)


@pytest.mark.parametrize("shortage", [no_cells, no_way_back])
def test_sums_go_to_main_memory(gpu, study, monkeypatch, caplog, shortage):
    model = model_of(5)
    sinks = [Collector(5), Collector(5)]
    expected = segment(model, study, CPU, sinks[0], top_k=2)[1]
    shortage(monkeypatch)
    segmenter, found = segment(model, study, GPU, sinks[1], top_k=2)
    assert segmenter.predictor.batch_size == 1
    np.testing.assert_array_equal(found.labels_IJK, expected.labels_IJK)
    np.testing.assert_array_equal(found.uncertain.voxel_N, expected.uncertain.voxel_N)
    np.testing.assert_array_equal(sinks[0].steps, sinks[1].steps)
    assert "case: memory ran out; beginning again with sums of logits in main memory" in caplog.text


def no_volume(monkeypatch, _):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("pipeline.inference.predictor.upload", short)


def no_window(_, network):
    network.largest = 0


@pytest.mark.parametrize("shortage", [no_volume, no_window])
def test_a_study_that_no_fallback_helps_is_refused_with_figures(gpu, study, monkeypatch, shortage):
    segmenter = Segmenter(model_of(3), GPU)
    prepared = segmenter.prepare(study)
    shortage(monkeypatch, segmenter.predictor.ensemble.networks[0])
    gpu.free_bytes = 50 * 10**9
    # One window of 1 GB, 0.5 for the way back; nine tenths of what is free can be had.
    text = (
        r"case: memory ran out with windows one by one, which take about 1\.5 GB.*"
        r"45\.0 GB can be had, since others take 30\.0 GB\. Set a smaller inference\.window, end"
    )
    with pytest.raises(StudyError, match=text) as caught:
        segmenter.segment(prepared)
    assert isinstance(caught.value.__cause__, NotEnoughMemory)


def test_a_model_that_the_gpu_has_no_room_for_is_refused_with_figures(gpu):
    gpu.free_bytes = 3 * 10**9
    model = model_of(3)
    model.networks[0].largest = 0
    text = r"inference\.window: .*at least 3\.0 GB.*of 80\.0 GB of cuda:0 .* 3\.0 GB can be had"
    with pytest.raises(ModelError, match=text):
        Segmenter(model, GPU)
