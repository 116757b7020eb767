"""The layout is the architecture: data flows down the list of stages, imports point up it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline"
STAGES = [
    "errors", "volume", "system", "study", "manifest", "phantom", "transforms", "fingerprint",
    "patches", "gate", "network", "losses", "inference", "postprocessing", "evaluation", "model",
    "output", "segmentation", "export", "training", "planning", "journal", "inputs", "cohort",
    "config", "cluster", "pacs", "reproduction", "selection", "refinement", "cli",
]  # fmt: skip
MAX_LINES = 400
MODULES = sorted(PACKAGE.rglob("*.py"))


def stage_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_stages(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("pipeline.")}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_point_up_the_list_of_stages(module):
    stage = stage_of(module)
    if stage in ("__init__", "__main__"):
        return
    allowed = set(STAGES[: STAGES.index(stage) + 1])
    assert imported_stages(module) <= allowed


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_modules_are_small_and_documented(module):
    text = module.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text))


def test_every_stage_is_listed():
    found = {stage_of(module) for module in MODULES} - {"__init__", "__main__"}
    assert found == set(STAGES)
