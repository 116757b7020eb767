"""What training minimises: how far a network's output is from the annotation, as one number.

`build_loss()` makes the loss that a `LossConfig` names. All losses share one rule of what counts
(`comparison.py`): ignored voxels count in nothing, and the classes that a case does not annotate
are background to it (exclusive classes) or left out (overlapping regions).
"""

from pipeline.losses.build import Logits, Loss, LossConfig, build_loss
from pipeline.losses.comparison import class_shares

__all__ = ["Logits", "Loss", "LossConfig", "build_loss", "class_shares"]
