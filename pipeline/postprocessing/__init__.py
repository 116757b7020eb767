"""Clean up a label map after the network, as the model's configuration says.

`postprocess()` applies the rules; `check_rules()` tells beforehand whether they fit a label set.
"""

from pipeline.postprocessing.components import (
    ComponentRule,
    PostprocessingConfig,
    check_rules,
    keep_rules,
    postprocess,
)

__all__ = ["ComponentRule", "PostprocessingConfig", "check_rules", "keep_rules", "postprocess"]
