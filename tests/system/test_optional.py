import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from pipeline.system.optional import _LeaveOut

ALONE = """
import sys
from pipeline.system.optional import leave_optional_out
leave_optional_out()
number = len(sys.meta_path)
leave_optional_out()
assert len(sys.meta_path) == number
import monai.transforms
import nibabel
print([name for name in ("ignite", "matplotlib", "tensorboard", "pydicom") if name in sys.modules])
import ignite.engine
import pydicom
import scipy.stats
"""


def test_what_is_left_out_can_be_imported_afterwards():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_package_is_missed_only_while_one_that_can_do_without_is_imported(
    monkeypatch, is_under_way
):
    module = ModuleType("nibabel")
    module.__spec__ = ModuleSpec("nibabel", None)
    module.__spec__._initializing = is_under_way
    monkeypatch.setitem(sys.modules, "nibabel", module)
    finder = _LeaveOut()
    assert finder.find_spec("numpy", None) is None
    if is_under_way:
        with pytest.raises(ModuleNotFoundError, match="left out of nibabel") as caught:
            finder.find_spec("pydicom", None)
        assert caught.value.name == "pydicom"
    else:
        assert finder.find_spec("pydicom", None) is None
