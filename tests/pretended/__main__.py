"""Run the tests of this folder in a process whose torch believes in a GPU from its import on."""

import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def main() -> int:
    """Compile what torch asks a GPU, load it, run pytest with the arguments of this process."""
    spec = importlib.util.find_spec("torch")
    torch_folder = Path(spec.submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "pretend_gpu.so"
        libraries = torch_folder / "lib"
        command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", "-I", torch_folder / "include"]
        command += [HERE / "pretend_gpu.cpp", "-o", library]
        command += ["-L", libraries, f"-Wl,-rpath,{libraries}", "-lc10", "-ltorch_cpu"]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library))
        return pytest.main(
            ["-p", "no:cacheprovider", "-n", "0", "-q", *(sys.argv[1:] or [str(HERE)])]
        )


if __name__ == "__main__":
    sys.exit(main())
