"""How much the classes around a voxel count against each class that it may be of.

Axes: S = slots of a voxel, one for each class but the background, and perhaps empty ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Compatibility:
    """Costs of classes beside each other.

    Attributes:
        cost_CC: What it costs to be of the row's class beside the column's; None: 1 for different
            classes, the Potts model.
    """

    cost_CC: Sequence[Sequence[float]] | None = None

    def against_background(self, like_NS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what turns messages of the other classes into log-odds against the background.

        The log-odds of class c are, with messages m of all classes, minus the sum over classes l of
        (cost[c, l] - cost[0, l]) m[l]; and the background's message is the sum of all messages,
        less those of the others.

        Args:
            like_NS: `(N, S)`, for the number of slots, device and type.

        Returns:
            `(S, S)` factors of the messages, and `(S,)` factors of the sum of all.
        """
        num_slots = like_NS.shape[1]
        cost_CC = 1 - torch.eye(num_slots + 1, dtype=torch.float64)
        if self.cost_CC is not None:
            number = len(self.cost_CC)
            cost_CC[:number, :number] = torch.tensor(self.cost_CC, dtype=torch.float64)
        factor_SC = cost_CC[0] - cost_CC[1:]
        others_SS = factor_SC[:, 1:] - factor_SC[:, :1]
        return others_SS.to(like_NS), factor_SC[:, 0].to(like_NS)
