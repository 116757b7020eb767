"""Memory that runs out for real: a tensor fills the card, and the study is done or refused."""

from contextlib import contextmanager

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.inference import CellStorage, InferenceConfig, Predictor, Stream
from pipeline.model import Model
from pipeline.network import NetworkConfig, build_network
from pipeline.segmentation import Segmenter, segment_study

pytestmark = pytest.mark.gpu
EDGE = 64
MB = 2**20


@contextmanager
def filled(device, free_bytes):
    """Leave only so much of the card free while the block runs."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    pieces, size = [], 8 * 2**30
    # In pieces, since the card may have no whole that large.
    while free > free_bytes + 4 * MB and size >= 2 * MB:
        try:
            wanted = min(free - free_bytes, size)
            pieces.append(torch.empty(wanted, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            size //= 2
        free, _ = torch.cuda.mem_get_info(device)
    try:
        yield
    finally:
        pieces.clear()
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(NetworkConfig(features=(16, 16, 16)), 1, 60).eval()


@pytest.fixture(scope="module")
def data():
    return torch.randn(1, 128, 96, 160, generator=torch.Generator().manual_seed(0))


def predictor_of(network, device, batch_size):
    config = InferenceConfig(window=(EDGE,) * 3, precision="fp32", batch_size=batch_size)
    return Predictor([network], config, device, 60)


def classes(predictor, data, stream):
    """Return the class of each voxel, block by block."""
    whole = torch.full(data.shape[1:], -1)
    for block in predictor.predict(data, stream):
        box = [
            slice(start, start + n)
            for start, n in zip(block.start, block.values_CIJK.shape[1:], strict=True)
        ]
        whole[tuple(box)] = block.values_CIJK.argmax(dim=0).cpu()
    return whole


def on(device):
    return CellStorage(torch.float32, device, 0)


def test_batches_become_smaller_and_the_study_is_done(gpu, exact, network, data):
    window_bytes = predictor_of(network, gpu, 1).measure_memory(1)
    expected = classes(predictor_of(network, gpu, 2), data, Stream(storage=on(gpu)))
    predictor = predictor_of(network, gpu, 16)
    # Sums in main memory, so that only the batch can give way.
    with filled(gpu, 4 * window_bytes + 256 * MB):
        found = classes(predictor, data, Stream(storage=on(torch.device("cpu"))))
    assert predictor.batch_size < 16
    assert (found != expected).float().mean() <= 1e-3


def test_a_card_that_fills_up_meanwhile_is_made_do_with(
    gpu, exact, study, model, label_change, caplog
):
    """Nothing is left half-way: the study is begun anew, with its sums in main memory, and done.

    Of 118 classes the sums take several times what a window does; that is what becomes free.
    """
    inference = {"window": (32, 32, 32), "batch_size": 8}
    changes = {
        "labels": {f"label {n}": n for n in range(1, 118)},
        "network": NetworkConfig(features=(8, 8, 8)),
        "preprocessing": model.description.preprocessing.model_copy(
            update={"spacing_mm": (2.0, 2.0, 2.0)}
        ),
        "inference": model.description.inference.model_copy(update=inference),
    }
    description = model.description.model_copy(update=changes)
    torch.manual_seed(0)
    network = build_network(description.network, 1, 118).eval()
    segmenter = Segmenter(Model(description, (network,)), gpu)
    expected = segment_study(study, segmenter).labels_IJK
    prepared, filling = segmenter.prepare(study), []

    def fill_half_way(_what, done, total):
        if not filling and 2 * done >= total:
            filling.append(filled(gpu, 0))
            filling[0].__enter__()

    try:
        found = segmenter.segment(prepared, advance=fill_half_way).labels_IJK
    finally:
        filling[0].__exit__(None, None, None)
    assert "memory ran out" in caplog.text
    # Of random weights, many classes are nearly as probable as the first.
    assert label_change(found, expected) <= 0.02


def test_a_study_beside_a_full_card_is_done_in_what_is_left(gpu, exact, study, model, label_change):
    expected = segment_study(study, Segmenter(model, gpu)).labels_IJK
    with filled(gpu, 600 * MB):
        found = segment_study(study, Segmenter(model, gpu)).labels_IJK
    assert label_change(found, expected) <= 1e-3


def test_where_no_window_fits_it_says_so_with_figures(gpu, model):
    """The model's own window, of a network that needs more than is left."""
    description = model.description.model_copy(
        update={"network": NetworkConfig(features=(64, 64, 64))}
    )
    inference = description.inference.model_copy(update={"window": (128, 128, 128)})
    description = description.model_copy(update={"inference": inference})
    network = build_network(description.network, 1, description.num_outputs).eval()
    with (
        filled(gpu, 64 * MB),
        pytest.raises(PipelineError, match="takes at least"),
    ):
        Segmenter(Model(description, (network,)), gpu)
    # And when the memory is there again, it goes on.
    Segmenter(model, gpu)
