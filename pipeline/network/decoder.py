"""The expanding path that most U-Nets share, and their heads."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from pipeline.network.blocks import Upsample
from pipeline.network.config import Level, NetworkConfig

Logits = torch.Tensor | list[torch.Tensor]
# Makes the convolutions of a level from the number of incoming channels and the level.
StageFactory = Callable[[int, Level], nn.Module]


class Heads(nn.ModuleList):
    """1x1x1 convolutions from features to logits: one per supervised level, the finest first."""

    def __init__(self, features: Sequence[int], num_outputs: int) -> None:
        super().__init__(nn.Conv3d(channels, num_outputs, 1) for channels in features)

    def forward(self, features: Sequence[torch.Tensor]) -> Logits:
        """Map features, the finest first, to logits.

        Returns:
            The finest logits; while a network with several heads trains, those of every head.
        """
        if self.training and len(self) > 1:
            return [head(x) for head, x in zip(self, features, strict=True)]
        logits: torch.Tensor = self[0](features[0])
        return logits


class Decoder(nn.Module):
    """Per level: upsample, join the encoder's features, convolve. Then the heads.

    With deep supervision every level but the deepest has a head, as in Isensee et al., Nature
    Methods 18, 2021, doi:10.1038/s41592-020-01008-z.

    Args:
        config: Levels, upsampling and deep supervision.
        num_outputs: Channels of the logits.
        make_stage: Makes what follows a level's concatenation.
        make_gate: Makes what filters the encoder's features, given those of the level below.
    """

    def __init__(
        self,
        config: NetworkConfig,
        num_outputs: int,
        make_stage: StageFactory,
        make_gate: Callable[[Level, Level], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        fine, coarse = config.levels[:-1], config.levels[1:]
        pairs = list(zip(fine, coarse, strict=True))
        self.upsamples = nn.ModuleList(
            Upsample(below.features, level.features, below.stride, config.upsampling)
            for level, below in pairs
        )
        self.gates = nn.ModuleList(make_gate(*pair) for pair in pairs if make_gate is not None)
        self.stages = nn.ModuleList(make_stage(2 * level.features, level) for level in fine)
        supervised = fine if config.deep_supervision else fine[:1]
        self.heads = Heads([level.features for level in supervised], num_outputs)

    def forward(self, encoded: Sequence[torch.Tensor]) -> Logits:
        """Map the encoder's features of every level, the finest first, to logits."""
        x = encoded[-1]
        decoded: list[torch.Tensor] = []
        for index in reversed(range(len(self.stages))):
            skip = self.gates[index](encoded[index], x) if self.gates else encoded[index]
            x = self.stages[index](torch.cat((self.upsamples[index](x), skip), dim=1))
            decoded.insert(0, x)
        logits: Logits = self.heads(decoded[: len(self.heads)])
        return logits
