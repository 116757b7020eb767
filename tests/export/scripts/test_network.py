import pytest
import torch

from pipeline.export.scripts.network import load_network


class Double(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.weight * x


@pytest.fixture
def program():
    return torch.export.export(Double(), (torch.zeros(2),))


def test_bears_the_calls_that_monai_makes(program, tmp_path):
    program.example_inputs = None
    torch.export.save(program, tmp_path / "model.pt2")
    network = load_network(str(tmp_path / "model.pt2"), "cpu").eval().train()
    with torch.no_grad():
        assert network(torch.tensor([1.0, 3.0])).tolist() == [2, 6]


def test_pickles_are_refused(program, tmp_path):
    """Torch itself puts the inputs into the file as a pickle."""
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="holds pickles"):
        load_network(str(tmp_path / "model.pt2"), "cpu")
