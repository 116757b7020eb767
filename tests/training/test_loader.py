import gc
import itertools
import multiprocessing
import shutil
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, StudyError
from pipeline.patches import Augmentation, CachedCase, PatchDataset
from pipeline.patches.cache import write_arrays
from pipeline.training.distributed import Ranks
from pipeline.training.loader import BatchLoader, SliceSampler, build_loader
from pipeline.transforms import AugmentationConfig

CPU = torch.device("cpu")
ALONE = Ranks(CPU)
SPACING_MM = (8.0, 8.0, 8.0)


@pytest.fixture(scope="session")
def cached(tmp_path_factory):
    cases = []
    for n in range(3):
        rng = np.random.default_rng(n)
        folder = tmp_path_factory.mktemp(f"case{n}")
        image = rng.normal(size=(2, 20, 24, 18)).astype(np.float32)
        label = rng.integers(0, 3, image.shape[1:]).astype(np.int16)
        write_arrays(folder, torch.from_numpy(image), torch.from_numpy(label), 3)
        cases.append(CachedCase(f"case{n}", folder, (True, n != 1)))
    return cases


def first_batches(loader, number):
    return list(itertools.islice(loader, number))


def assert_same(found, expected):
    for batch, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, batch, other))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_loader_gives_the_batches_that_are_left(
    cached, make_config, tmp_path, num_workers
):
    config = make_config(tmp_path, f"training.num_workers={num_workers}")
    alone = make_config(tmp_path)
    whole = first_batches(build_loader(cached, alone, SPACING_MM, ALONE, 0), 5)
    rest = first_batches(build_loader(cached, config, SPACING_MM, ALONE, 3), 2)
    image, label, annotated = whole[0]
    assert (image.shape, label.shape) == ((2, 2, 16, 16, 16), (2, 16, 16, 16))
    assert annotated.shape == (2, 2)
    assert not torch.equal(image, whole[1].image)
    assert_same(rest, whole[3:])


def test_sums_do_not_depend_on_the_number_of_threads(cached, make_config, tmp_path):
    """Patches large enough that torch would divide a sum among threads."""
    size = "training.patch_size=[48,48,48]"
    config = make_config(tmp_path, size, "augmentation.gamma_probability=1")
    one = first_batches(build_loader(cached, config, SPACING_MM, ALONE, 0), 2)
    torch.set_num_threads(2)
    try:
        two = first_batches(build_loader(cached, config, SPACING_MM, ALONE, 0), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert_same(two, one)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_learn_from_the_batches_of_one(cached, make_config, tmp_path, world_size):
    config = make_config(tmp_path, "training.batch_size=6")
    whole = first_batches(build_loader(cached, config, SPACING_MM, ALONE, 2), 3)
    parts = [
        first_batches(build_loader(cached, config, SPACING_MM, Ranks(CPU, rank, world_size), 2), 3)
        for rank in range(world_size)
    ]
    joined = [[torch.cat(of_ranks) for of_ranks in zip(*n, strict=True)] for n in zip(*parts)]  # noqa: B905
    assert_same(joined, whole)


def test_each_rank_takes_its_slice_of_every_batch():
    slices = [
        list(itertools.islice(SliceSampler(4, Ranks(CPU, rank, 2), 3), 2)) for rank in range(2)
    ]
    assert slices == [[[12, 13], [16, 17]], [[14, 15], [18, 19]]]
    with pytest.raises(ConfigError, match=r"batch_size: 3 patches cannot be shared"):
        SliceSampler(3, Ranks(CPU, 0, 2), 0)


def test_another_device_augments_what_the_workers_cut(cached):
    """A device other than the CPU gets regions, and the same patches come of them."""

    class Spy(Augmentation):
        devices = ()

        def apply(self, image_BCIJK, label_BIJK, changes):
            self.devices += (image_BCIJK.device.type,)
            on_cpu = torch.ones(image_BCIJK.shape), torch.ones(label_BIJK.shape).short()
            return super().apply(*on_cpu, changes)

    config = AugmentationConfig(flip_axes=("R",))
    loaders = []
    for device in (torch.device("meta"), CPU):
        augmentation = Spy(config, (8, 8, 8))
        patches = PatchDataset(cached, augmentation, foreground_share=0.5, seed=0)
        loader = BatchLoader(patches, SliceSampler(4, ALONE, 0), augmentation, device, 0)
        loaders.append(first_batches(loader, 3))
        assert augmentation.devices == (device.type,) * 3
    for there, here in zip(*loaders, strict=True):
        assert torch.equal(there.image, here.image)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives(cached, make_config, tmp_path):
    config = make_config(
        tmp_path, "augmentation.noise_probability=0", "augmentation.elastic_probability=0.5"
    )
    gpu = Ranks(torch.device("cuda"))
    here = first_batches(build_loader(cached, config, SPACING_MM, ALONE, 0), 10)
    there = first_batches(build_loader(cached, config, SPACING_MM, gpu, 0), 10)
    for batch, other in zip(there, here, strict=True):
        assert batch.image.is_cuda
        torch.testing.assert_close(batch.image.cpu(), other.image, atol=1e-3, rtol=1e-3)
        assert (batch.label.cpu() == other.label).float().mean() > 0.999
    again = first_batches(build_loader(cached, config, SPACING_MM, gpu, 0), 10)
    assert_same(again, there)


def test_workers_leave_signals_to_the_parent(cached, make_config, tmp_path, monkeypatch):
    """A signal to the whole group reaches them too; they go on until their parent ends them."""
    config = make_config(tmp_path, "training.num_workers=1", "training.batch_size=1")
    getitem = PatchDataset.__getitem__

    def signalled(self, index):
        if index == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        return getitem(self, index)

    monkeypatch.setattr(PatchDataset, "__getitem__", signalled)
    assert len(first_batches(build_loader(cached, config, SPACING_MM, ALONE, 0), 8)) == 8


def test_memory_stays_flat(cached, make_config, tmp_path):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")

    def resident_mib():
        gc.collect()
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    batches = iter(build_loader(cached, make_config(tmp_path), SPACING_MM, ALONE, 0))
    for _ in itertools.islice(batches, 50):
        pass
    before = resident_mib()
    for _ in itertools.islice(batches, 150):
        pass
    assert resident_mib() - before < 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_case_that_cannot_be_read_is_named_and_leaves_no_worker(
    cached, make_config, tmp_path, num_workers
):
    """An error keeps all that it passed alive, and a worker that is left keeps the process."""
    for path in cached[0].folder.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "image.npy").write_bytes(b"torn")
    broken = [CachedCase("broken", tmp_path, (True, True))]
    config = make_config(tmp_path, f"training.num_workers={num_workers}")
    before = multiprocessing.active_children()
    with (
        pytest.raises(StudyError, match=r"'broken' of the cache cannot be read.*--resume") as error,
        closing(build_loader(broken, config, SPACING_MM, ALONE, 0)) as loader,
    ):
        next(iter(loader))
    assert error.value.where == str(tmp_path)
    assert not set(multiprocessing.active_children()).difference(before)
