import ast
import sys

from pipeline.export.bundle import bundle_sources

ALLOWED = {"torch", "monai", "nibabel", "numpy", "scipy"}


def imported(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_modules_need_only_each_other_and_what_a_bundle_may_need():
    sources = bundle_sources()
    for text in sources.values():
        for module in imported(text):
            first, _, rest = module.partition(".")
            if first == "scripts":
                assert f"{rest}.py" in sources
            else:
                assert first in ALLOWED or first in sys.stdlib_module_names


def test_what_they_import_comes_along_unchanged_but_for_imports():
    sources = bundle_sources()
    assert {"__init__.py", "grids.py", "placement.py", "resample.py"} <= sources.keys()
    assert "from scripts.volume import Grid" in sources["placement.py"]
    assert "from pipeline" not in "".join(sources.values())
