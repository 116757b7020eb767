"""Import MONAI and nibabel without what they take along wherever it is installed.

MONAI imports ignite, matplotlib, TensorBoard and whatever else it knows, and nibabel pydicom: it
takes seconds and a hundred megabytes in each process, and nothing here is done through them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LEFT_OUT: dict[str, frozenset[str]] = {
    "monai": frozenset(
        {
            "PIL", "bs4", "clearml", "cucim", "cv2", "einops", "gdown", "h5py", "huggingface_hub",
            "ignite", "imagecodecs", "itk", "lmdb", "matplotlib", "mlflow", "nni", "nrrd", "onnx",
            "onnxruntime", "openslide", "optuna", "pandas", "pydicom", "requests", "scipy.optimize",
            "scipy.signal", "scipy.sparse", "scipy.spatial", "scipy.stats", "skimage",
            "tensorboard", "tensorboardX", "tensorrt", "tifffile", "torchvision", "tqdm",
            "transformers", "zarr",
        }
    ),
    "nibabel": frozenset({"pydicom"}),
}  # fmt: skip
"""Packages that each can do without."""


def leave_optional_out() -> None:
    """Let this process import MONAI and nibabel alone from now on.

    Not for a process of somebody else, who may want what is left out: whether MONAI has ignite, for
    example, is settled when it is imported.
    """
    if not any(isinstance(finder, _LeaveOut) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LeaveOut())


class _LeaveOut(MetaPathFinder):
    """Finds nothing, and refuses what a package that is being imported would take along."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse a module, or leave it to the other finders.

        Raises:
            ModuleNotFoundError: As if it were not installed.
        """
        for importer, left_out in _LEFT_OUT.items():
            if fullname in left_out and _is_under_way(importer):
                raise ModuleNotFoundError(f"left out of {importer}", name=fullname)
        return None


def _is_under_way(package: str) -> bool:
    """Tell whether a package is being imported now."""
    spec = getattr(sys.modules.get(package), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
