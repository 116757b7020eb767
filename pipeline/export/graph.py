"""The networks of a model as one graph that runs without their code.

Axes: B = batch, C = channels, I, J, K = voxel axes of a window in RAS order.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from pipeline.errors import ModelError
from pipeline.inference import FlipAxis
from pipeline.model import Model, ModelDescription

MAX_BATCH = 4096
"""Windows in one batch that a graph may be given; torch wants a limit."""

_AXES: tuple[FlipAxis, ...] = ("R", "A", "S")


class MeanLogits(torch.nn.Module):
    """The mean of the logits of all members and all mirrored windows.

    Args:
        networks: The members.
        axes: Along which windows are mirrored too, in all combinations.
    """

    def __init__(self, networks: Sequence[torch.nn.Module], axes: Sequence[FlipAxis]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)
        dimensions = [2 + _AXES.index(axis) for axis in axes]
        counts = range(len(dimensions) + 1)
        self.flips = [f for count in counts for f in itertools.combinations(dimensions, count)]

    def forward(self, image_BCIJK: torch.Tensor) -> torch.Tensor:
        """Map windows to logits in float32."""
        total_BCIJK: torch.Tensor | None = None
        for network, flip in itertools.product(self.networks, self.flips):
            windows_BCIJK = image_BCIJK.flip(flip) if flip else image_BCIJK
            logits_BCIJK = network(windows_BCIJK).float()
            logits_BCIJK = logits_BCIJK.flip(flip) if flip else logits_BCIJK
            total_BCIJK = logits_BCIJK if total_BCIJK is None else total_BCIJK + logits_BCIJK
        if total_BCIJK is None:
            raise ValueError("no networks to export")
        return total_BCIJK / (len(self.networks) * len(self.flips))


def window_of(description: ModelDescription) -> tuple[int, int, int]:
    """Return the size of the windows, which a graph is made for.

    Raises:
        ModelError: If the model does not say.
    """
    return description.window


def export_graph(model: Model) -> ExportedProgram:
    """Trace a model's networks, on the CPU.

    Returns:
        A graph from `image_BCIJK`, a batch of windows of any number, to their mean logits. It holds
        no pickled objects, no paths of this machine, and no checks on data types, so that it runs
        under autocast too.

    Raises:
        ModelError: If torch cannot export one of the networks.
    """
    description = model.description
    axes = description.mirror_axes if description.inference.mirror else ()
    mean = MeanLogits(model.networks, axes).cpu().eval()
    # Never looked at, so that it takes no memory however large the window is.
    example = torch.empty(2, len(description.channels), *window_of(description))
    batch = Dim("batch", min=1, max=MAX_BATCH)
    try:
        with torch.no_grad():
            program = torch.export.export(mean, (example,), dynamic_shapes=({0: batch},))
    # What torch cannot trace it reports in many ways.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        found = f"torch cannot export {description.network.name} ({first_line[:200]})"
        raise ModelError(description.name, found, "Use `trivox segment` instead.") from error
    _drop_type_checks(program)
    _drop_traces(program)
    program.example_inputs = None
    return program


def _drop_traces(program: ExportedProgram) -> None:
    """Drop which lines of which files each operation comes from: those are paths of this machine.

    What is kept is what the network computes and how its parts are called.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _drop_type_checks(program: ExportedProgram) -> None:
    check: Any = torch.ops.aten._assert_tensor_metadata.default
    for node in list(program.graph.nodes):
        if node.target is check:
            program.graph.erase_node(node)
    program.graph_module.recompile()
