"""The comparison as a page: a table for each data set, its curves, and what they can tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import machine, table
from benchmarks.compare_result import Result

HEADINGS = (
    "network", "parameters, M", "GFLOPs a window", "iterations", "s / iteration", "peak memory, GB",
    "s / study", "Dice [95 % CI]", "HD95, mm", "NSD at 1 mm",
)  # fmt: skip

HOW = """\
- **Training**: every network gets the same minutes, data, patches, batch, augmentation, loss,
  optimiser and learning rate, and its default shape; precision and memory layout are what each
  measures to be its fastest. Each trains in a process of its own. The minutes count the training
  and the short validations in between (about {num_validations} of up to 4 cases); reading the data,
  the choice of arithmetic and the final validation come on top.
- **GFLOPs** are of one forward pass of a window of the patch's size, two for a multiplication with
  its addition. **Seconds an iteration** contain the wait for patches. **Peak memory** is that of a
  training step: of the training process and its loaders, or of tensors on a GPU.
- **Seconds a study**: median over up to {num_studies} validation studies, from a study in memory to
  its mask: preprocessing, network, restoring, clean-up.
- **Scores** are those of all validation cases, segmented whole at the end: mean over cases of the
  mean over labels. Intervals are from bootstrapping cases.
- The curves' Dice is that of the short validations, so it differs from the table's; their loss is a
  running mean.
"""

CAVEATS = """\
An equal time budget favours networks that are cheap to train: they take more steps, and a few
minutes end long before a large one has learnt what it could. Transformers (`unetr`, `trans_unet`)
start without knowing that neighbours belong together, and need more steps and more data than this;
where they are behind here, that says little about hours of training. Nothing was tuned for any
network: the learning rate and the other settings were made for the default `unet`, which may well
gain by that. Each figure comes from one seed and one fold. The intervals are over cases; they hold
neither the noise of another seed, which in budgets this short can be as large as the differences
between neighbours in the table, nor that of a machine with other work. Read the order of groups
from these tables, not that of two networks whose intervals overlap.
"""


@dataclass(frozen=True)
class Section:
    """One data set of the comparison.

    Attributes:
        name: For file names.
        title: Heading.
        command: That trained its networks.
        networks: All that are compared, in the order of the table.
        results: Of those that are finished.
        failures: Why a network could not be trained.
        note: What to know before reading, such as why nothing was run.
    """

    name: str
    title: str
    command: str
    networks: Sequence[str]
    results: Mapping[str, Result] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def page(
    sections: Sequence[Section],
    path: Path,
    *,
    minutes: float,
    num_validations: int,
    num_studies: int,
) -> str:
    """Return the page that will lie at `path`, beside its pictures."""
    how = HOW.format(num_validations=num_validations, num_studies=num_studies)
    lines = [
        "# Architectures, compared",
        "",
        f"Each network trained for {minutes:g} minutes. Machine: {machine()}.",
        "",
        *(f"    {command}" for command in dict.fromkeys(s.command for s in sections)),
        "",
        "The command goes on where it was stopped; remove `runs/compare` to start anew.",
        "",
        "## What an equal budget tells, and what it does not",
        "",
        CAVEATS,
        *(line for section in sections for line in _section_lines(section, path)),
        "## How it was measured",
        "",
        how,
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def picture(page_path: Path, section: Section) -> Path:
    """Return where a section's curves lie."""
    return page_path.with_name(f"{page_path.stem}_{section.name}.png")


def _section_lines(section: Section, path: Path) -> list[str]:
    lines = [f"## {section.title}", ""]
    if section.note:
        lines += [section.note, ""]
    if section.results:
        numbers = {result.num_cases for result in section.results.values()}
        lines += [f"{max(numbers)} validation cases.", ""]
    if section.results or section.failures or not section.note:
        lines += [*table(HEADINGS, (_row(name, section) for name in section.networks)), ""]
    if section.results:
        lines += [f"![Validation Dice and loss over time]({picture(path, section).name})", ""]
    return lines


def _row(name: str, section: Section) -> list[str]:
    if name in section.failures:
        reason = section.failures[name].replace("|", "\\|")
        return [f"`{name}`", f"failed: {reason}", *[""] * (len(HEADINGS) - 2)]
    if name not in section.results:
        return [f"`{name}`", "not run yet", *[""] * (len(HEADINGS) - 2)]
    result = section.results[name]
    mean, low, high = result.dice
    return [
        f"`{name}`",
        f"{result.parameters / 1e6:.2f}",
        f"{result.gflops:.1f}",
        f"{result.iterations}",
        _number(result.step_s, 3),
        _number(result.memory_gb, 2),
        f"{result.study_s:.3f}",
        f"{mean:.3f} [{low:.3f}, {high:.3f}]",
        f"{result.hd95_mm:.1f}",
        f"{result.nsd:.3f}",
    ]


def _number(value: float | None, decimals: int) -> str:
    return "too few steps" if value is None else f"{value:.{decimals}f}"
