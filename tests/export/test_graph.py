import zipfile

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.export.graph import MeanLogits, export_graph, window_of
from pipeline.network.config import OPTIONS

WINDOW = (16, 16, 8)


def run(program, windows_BCIJK):
    with torch.no_grad():
        return program.module()(windows_BCIJK)


def mean_logits(model, windows_BCIJK):
    """Members and mirrored windows, one by one."""
    with torch.no_grad():
        logits = [
            network(windows_BCIJK.flip(flip)).flip(flip)
            for network in model.networks
            for flip in [(), (2,), (4,), (2, 4)]
        ]
    return torch.stack(logits).mean(0)


def test_members_and_mirrored_windows_are_inside(make_model):
    model = make_model(members=2, mirror_axes=("R", "S"))
    windows = torch.randn(3, 1, *WINDOW)
    found = run(export_graph(model), windows)
    torch.testing.assert_close(found, mean_logits(model, windows))


@pytest.fixture(scope="module")
def plain(make_model):
    """Return a model and its graph, which takes seconds to trace."""
    model = make_model()
    return model, export_graph(model)


@pytest.mark.parametrize("num_windows", [1, 2, 5])
def test_a_batch_may_have_any_size(plain, num_windows):
    model, program = plain
    windows = torch.randn(num_windows, 1, *WINDOW)
    with torch.no_grad():
        expected = model.networks[0](windows)
    torch.testing.assert_close(run(program, windows), expected)


@pytest.mark.parametrize("name", ["mednext", "trans_unet", "segnet"])
def test_networks_with_odd_parts(make_model, name):
    """Padding by hand, attention, indices; all ten were tried, these stand for the others."""
    assert name in OPTIONS
    model = make_model(name)
    windows = torch.randn(2, 1, *WINDOW)
    with torch.no_grad():
        expected = model.networks[0](windows)
    torch.testing.assert_close(run(export_graph(model), windows), expected)


def test_runs_under_autocast(plain):
    model, program = plain
    windows = torch.randn(2, 1, *WINDOW)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model.networks[0](windows).float()
        torch.testing.assert_close(program.module()(windows), expected)


def test_the_file_holds_no_pickles(plain, tmp_path):
    path = tmp_path / "model.pt2"
    torch.export.save(plain[1], path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    # A pickle begins with its protocol; torch's are zip files with a pickle inside.
    assert not any(
        content[:1] == b"\x80" or b"data.pkl" in content for content in contents.values()
    )
    assert not any(b'"use_pickle": true' in content for content in contents.values())


def test_a_network_that_cannot_be_traced_is_named(make_model):
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = make_model()
    with pytest.raises(ModelError, match=r"^test: torch cannot export unet \(.*trivox segment"):
        export_graph(type(model)(model.description, (Branches(),)))


def test_nothing_to_average():
    with pytest.raises(ValueError, match="no networks"):
        MeanLogits([], ())(torch.zeros(1))


def test_the_window_is_that_of_inference_or_of_training(make_model):
    description = make_model().description
    without = description.inference.model_copy(update={"window": None})
    assert window_of(description) == WINDOW
    description = description.model_copy(update={"inference": without})
    assert window_of(description) == WINDOW
    with pytest.raises(ModelError, match=r"inference\.window="):
        window_of(description.model_copy(update={"patch_size": None}))
