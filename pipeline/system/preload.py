"""What worker processes need, for the process that they are forked from: importing it is its work.

MONAI is among it, which modules import only in the functions that use it.
"""

from importlib import import_module

from pipeline.system.optional import leave_optional_out

leave_optional_out()
for _name in (
    "pipeline.cohort.child",
    "monai.data.utils",
    "monai.networks.blocks.dynunet_block",
    "monai.transforms",
):
    import_module(_name)
