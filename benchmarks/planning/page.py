"""The record as a page: verdicts, then the runs of each data set, then how it was measured."""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import table
from benchmarks.planning.grounds import NUM_TEST, NUM_TRAIN
from benchmarks.planning.hand_made import HAND_MADE
from benchmarks.planning.record import Content, Scores
from benchmarks.planning.runs import SHARE
from benchmarks.planning.schedule import PLAN, STARTING, Run, num_unnamed, schedule
from benchmarks.planning.verdicts import STRAY_MM, verdicts

COMMAND = "python -m benchmarks.planning --data /path/to/Task04_Hippocampus"

HEADINGS = (
    "plan", "min", "spacing, mm", "patch", "batch", "features", "steps", "s / step",
    "s by the clock", "Dice", "HD95, mm", "NSD at 1 mm", "volume, %", "no stray beyond 10 mm",
    "farthest stray, mm", "clean-up", "without it: Dice, HD95",
)  # fmt: skip

HOW = """\
- **Data**: phantoms of {num_train} cases to train on (folds deal them, so that a fifth validates)
  and {num_test} test cases; hippocampus with fold 0, and in a second set fold 2, of the five folds
  of `configs/msd_hippocampus.yaml` as test cases, a tenth of the others validating. Planning,
  training and the choice of clean-up never see a test case.
- **Minutes** are counted, so that a busy machine changes nothing and a run can be resumed: a run of
  M minutes makes M x 60 x share / seconds a step. The seconds of a step of that plan on two cores
  were measured once (marked *p* where they are from processor time, since other processes took the
  cores), and the share, {share:g}, leaves room for waiting for patches and for validating on the
  way{found}. The seconds that the training then took by the clock stand beside. Runs marked
  *clock* ended by the clock instead. The choice of clean-up comes on top.
- **Scores** are means over the test cases of the mean over labels, of masks as the model gives
  them, with the clean-up that was chosen at the end of its training. A *stray piece* is a connected
  part of a label that shares no voxel with the reference of that label; its distance is that of its
  farthest voxel. Volume errors are signed.
- **The best plan made by hand** has the highest mean Dice on the test cases at even places of the
  sorted list, and is compared with the plan on those at odd places.
- The **{starting}** is the plan that `trivox plan` made before it weighed candidates, trained as
  any other now, but without clean-up, which there was none of.
"""


def page(content: Content) -> str:
    """Return the page."""
    runs = schedule(content)
    done = [run for run in runs if run.key in content.runs]
    machines = dict.fromkeys(found["machine"] for found in content.runs.values())
    dates = sorted({found["date"] for found in content.runs.values()})
    total = len(runs) + num_unnamed(content)
    lines = [
        "# Plans, held against plans made by hand",
        "",
        f"    {COMMAND}",
        "",
        f"{len(done)} of {total} runs are done"
        + (f", from {dates[0]} to {dates[-1]}" if dates else "")
        + ". The command goes on where it was stopped.",
        "",
        *(f"Machine: {machine}." for machine in machines),
        "",
        "## What was to be reached",
        "",
        *table(
            ["", "wanted", "found", ""],
            ([v.what, v.wanted, v.found, _state(v.state)] for v in verdicts(content)),
        ),
        "",
    ]
    for data in dict.fromkeys(run.data for run in runs):
        rows = [_row(run, content) for run in runs if run.data == data]
        lines += [f"## {data}", "", *table(HEADINGS, rows), ""]
    lines += ["## The plans made by hand", "", "Written down before any of them was run.", ""]
    for data, plans in HAND_MADE.items():
        lines += [f"{data}:", "", *(f"- **{plan.name}**: {plan.reason}" for plan in plans), ""]
    tried = Path(__file__).with_name("tried.md").read_text("utf-8")
    return "\n".join([*lines, "## How it was measured", "", _how(content), tried])


def _how(content: Content) -> str:
    shares = sorted(run["share"] for run in content.runs.values() if run["share"] is not None)
    found = ""
    if shares:
        middle = statistics.median(shares)
        found = f" (the runs had {shares[0]:.2f} to {shares[-1]:.2f}, median {middle:.2f})"
    return HOW.format(
        num_train=NUM_TRAIN, num_test=NUM_TEST, share=SHARE, found=found, starting=STARTING
    )


def _state(state: str) -> str:
    return f"**{state}**" if state == "missed" else state


def _row(run: Run, content: Content) -> list[str]:
    name = f"**{run.plan}**" if run.plan == PLAN else run.plan
    start = [name, str(run.minutes)]
    if run.key not in content.runs:
        reason = content.failures.get(run.key)
        note = "not run" if reason is None else f"failed: {reason}".replace("|", "\\|")
        return [*start, note, *[""] * (len(HEADINGS) - 3)]
    found = content.runs[run.key]
    scores = Scores.of(found["scores"])
    return [*start, *_plan_cells(run, found, content), *_score_cells(scores), *_clean(found)]


def _plan_cells(run: Run, found: Mapping[str, Any], content: Content) -> Iterator[str]:
    plan = found["plan"]
    yield _by_axis(plan["spacing_mm"])
    yield _by_axis(plan["patch_size"])
    yield str(plan["batch_size"])
    yield "-".join(map(str, plan["features"])) + ", mirrored" * plan["mirror"]
    yield str(found["iterations"])
    step = content.steps.get(f"{run.data}: {plan['step']}")
    note = " *p*" if step is not None and step["how"] != "clock" else ""
    yield "" if step is None else f"{step['seconds']:.3g}{note}"
    yield f"{found['train_s']:.0f}" + " *clock*" * (found["by"] == "clock")


def _score_cells(scores: Scores) -> Iterator[str]:
    yield f"{scores.mean('dice'):.4f}"
    yield f"{scores.mean('hd95_mm'):.2f}"
    yield f"{scores.mean('nsd'):.3f}"
    yield f"{scores.mean('volume_error_percent'):+.1f}"
    yield f"{100 * scores.share_within(STRAY_MM):.0f} %"
    yield f"{scores.values['stray_mm'].max():.0f}"


def _clean(found: Mapping[str, Any]) -> Iterator[str]:
    yield found["clean_up"]["chosen"].replace("|", "\\|")
    raw = Scores.of(found["without"])
    yield f"{raw.mean('dice'):.4f}, {raw.mean('hd95_mm'):.2f}"


def _by_axis(values: list[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
