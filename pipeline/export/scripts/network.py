"""Load the network of a bundle: the graph that `torch.export` wrote, with its weights."""

import zipfile
from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass


class ExportedNetwork(torch.nn.Module):
    """An exported graph as a network that bears `eval()` and `train()`; it knows evaluation only.

    Args:
        graph: From `torch.export`.
    """

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        # Not as a child, whose mode would be changed.
        self._graph = (graph,)

    def forward(self, image_BCIJK: torch.Tensor) -> torch.Tensor:
        """Map windows to logits, averaged over the members and the mirrored windows."""
        logits_BCIJK: torch.Tensor = self._graph[0](image_BCIJK.as_subclass(torch.Tensor))
        return logits_BCIJK


def load_network(path: str, device: torch.device | str) -> ExportedNetwork:
    """Load an exported network onto a device.

    Raises:
        ValueError: If the file holds pickles, which could execute code; those that Trivox writes
            hold none.
    """
    if _has_pickles(Path(path)):
        raise ValueError(f"{path}: holds pickles; it was not written by `trivox export`")
    program = move_to_device_pass(torch.export.load(path), torch.device(device))
    return ExportedNetwork(program.module())


def _has_pickles(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            is_pickle = info.filename.endswith(".pt") and info.file_size > 0
            is_config = info.filename.endswith("_config.json")
            if is_pickle or (is_config and b'"use_pickle": true' in archive.read(info)):
                return True
    return False
