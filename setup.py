"""Put the configurations and manifests of the top-level folders into the package that is built."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigurations(build_py):
    """Builds the package as usual, and copies `configs/` and `data_manifests/` into it."""

    def run(self) -> None:
        """Build; an editable installation finds both folders beside the package."""
        super().run()
        if self.editable_mode:
            return
        for folder in ("configs", "data_manifests"):
            target = Path(self.build_lib) / "pipeline" / folder
            shutil.copytree(folder, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigurations})
