"""What `trivox postprocess-search` decided, and what it decides where the image tells nothing.

    python -m benchmarks.crf_searched MODEL OUT [data.root=...]

copies the run that MODEL belongs to into OUT and searches there with a field that sees the image
with a twentieth of its contrast under noise: it should not be accepted.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import table
from pipeline.postprocessing.crf import Crf
from pipeline.selection import search_postprocessing
from pipeline.selection.evidence import DECISION, Decision

CONTRAST = 0.05


def searched_section(models: Mapping[str, str]) -> list[str]:
    """Return the lines about the decisions in model folders, by name."""
    lines = ["## Chosen on validation", ""]
    rows, structures = [], []
    for name, folder in models.items():
        decision = Decision.model_validate_json((Path(folder) / DECISION).read_bytes())
        best = max((c for c in decision.candidates if c.kind == "setting"), key=lambda c: c.gain)
        interval = ""
        if decision.gain is not None:
            interval = f"{decision.gain:+.4f} [{decision.low:+.4f}, {decision.high:+.4f}]"
        rows.append((
            name, str(decision.num_cases), f"{best.name}: {best.gain:+.4f}", decision.proposed,
            interval, decision.reason, f"{decision.seconds:.0f}",
        ))  # fmt: skip
        structures += [
            (name, each.name, f"{each.dice_before:.4f}", f"{each.dice_after:.4f}",
             f"{each.nsd_before:.4f}", f"{each.nsd_after:.4f}")
            for each in decision.structures
        ]  # fmt: skip
    lines += table(
        [
            "",
            "cases",
            "best field on all cases",
            "proposed",
            "nested change of Dice",
            "verdict",
            "s",
        ],
        rows,
    )
    lines += ["", "By choices on cases that they were not made on:", ""]
    headings = ["", "label", "Dice before", "after", "NSD before", "after"]
    return [*lines, *table(headings, structures), ""]


def main() -> None:
    """Search where the field sees next to nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    run = options.out / options.model.parent.name
    shutil.copytree(
        options.model.parent,
        run,
        ignore=shutil.ignore_patterns("cache", "selection", "postprocessing"),
    )
    rng = np.random.default_rng(0)

    def refine(image_CIJK, labels_IJK, uncertain, *others):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
        label_values, spacing_mm, config = others
        spread = image_CIJK.std()
        noise = rng.normal(0, spread, image_CIJK.shape)
        dim = (CONTRAST * image_CIJK + noise).astype(np.float32)
        crf = Crf(config, torch.device("cpu"))
        return crf.refine_uncertain(dim, labels_IJK, uncertain, label_values, spacing_mm)

    decision = search_postprocessing(run / options.model.name, options.overrides, refine=refine)
    print(decision.verdict, decision.reason, decision.proposed, sep="; ")


if __name__ == "__main__":
    main()
