"""The code that a bundle carries: our own modules, so that it cannot drift from them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pipeline

ROOT = Path(pipeline.__file__).parent
SCRIPTS = ROOT / "export" / "scripts"
PACKAGE = "scripts"
"""What the modules' package is called in a bundle; MONAI's convention."""

_IMPORT = re.compile(r"^(\s*from )pipeline(?:\.\w+)*\.(\w+)( import )", re.MULTILINE)


def bundle_sources() -> dict[str, str]:
    """Return the text of each module of a bundle by file name.

    They are the modules of `pipeline/export/scripts` and all of Trivox that these import, in one
    folder, importing each other from there.
    """
    found: dict[str, Path] = {}
    waiting = sorted(SCRIPTS.glob("*.py"))
    while waiting:
        path = waiting.pop()
        if found.setdefault(path.name, path) != path:
            raise ValueError(f"{path} and {found[path.name]} have the same name")
        waiting += [module for module in _imported(path) if module not in found.values()]
    return {
        name: _IMPORT.sub(rf"\1{PACKAGE}.\2\3", path.read_text("utf-8"))
        for name, path in sorted(found.items())
    }


def _imported(path: Path) -> Iterator[Path]:
    """Yield the modules of Trivox that a module imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            yield ROOT.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
