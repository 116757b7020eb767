"""The plan as a YAML file: each group of settings under the rule and the numbers it comes from."""

import math
import shlex
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from pipeline import __version__
from pipeline.errors import ConfigError
from pipeline.manifest import Manifest
from pipeline.manifest.scheme import SCHEMES
from pipeline.patches.resident import BYTES_PER_LABEL, BYTES_PER_VALUE
from pipeline.planning import rules
from pipeline.planning.compose import Plan, settings_of
from pipeline.planning.reasons import table
from pipeline.planning.rules import BYTES_PER_GB
from pipeline.planning.search import LARGEST_PATCH
from pipeline.system.files import write_text
from pipeline.training import RunConfig

WIDTH = 96

RESIDENT_SHARE = 0.5
"""Of what a step leaves free, that training cases may take."""


def write_plan(plan: Plan, manifest: Manifest, path: Path) -> None:
    """Write the file, after making sure that it says what `plan.config` says."""
    text = plan_text(plan, manifest)
    if RunConfig.model_validate(yaml.safe_load(text)) != plan.config:
        raise ConfigError(path, "the plan does not read back as it was made", "Report this.")
    write_text(path, text)


def plan_text(plan: Plan, manifest: Manifest) -> str:
    """Return the commented YAML."""
    settings = settings_of(
        plan.choice, plan.candidate, plan.config.training.max_minutes or 0, plan.config.estimate
    )
    head: dict[str, object] = {key: settings[key] for key in ("name", "device") if key in settings}
    data = {key: settings[key] for key in ("data", "study") if key in settings}
    groups: list[tuple[Iterable[str], dict[str, object]]] = [
        ([*_on_data(plan, manifest), *_on_candidates(plan)], head | data),
        (_on_preprocessing(plan, manifest), {"preprocessing": settings["preprocessing"]}),
        (_on_mirroring(plan), {"augmentation": settings["augmentation"]}),
        (_on_network(plan), {"network": settings["network"]}),
        (_on_training(plan, manifest), {"training": settings["training"]}),
        *(
            [(_on_inference(), {"inference": settings["inference"]})]
            if "inference" in settings
            else []
        ),
        (_on_estimate(plan), {"estimate": settings["estimate"]}),
    ]
    return "\n".join(_comment(lines) + _dump(values) for lines, values in groups)


def summary_of(plan: Plan) -> list[str]:
    """Return what a plan says, in a few lines to print."""
    training, estimate = plan.config.training, plan.config.estimate
    assert estimate is not None
    allowed = ", ".join(plan.config.augmentation.flip_axes) or "none"
    lines = [
        f"spacing {_numbers(plan.candidate.spacing_mm, ' x ')} mm, patch "
        f"{_numbers(training.patch_size, ' x ')} voxels, batch {training.batch_size}, features "
        f"{_numbers(plan.candidate.features)}, mirrored axes: {allowed}",
        f"{training.max_minutes:g} minutes on {plan.device}; about {estimate.memory_gb:g} GB of "
        f"{plan.memory_gb:.3g} GB, {estimate.seconds_per_iteration:g} s per iteration",
    ]
    if plan.choice.kind == "cuda":
        lines += [on_gpu_figures(plan), on_residence(plan)]
    lines += [on_accuracy(plan), on_more_time(plan)]
    lines += [plan.on_trials] if plan.on_trials else []
    lines += ["", *table(plan.considered), ""]
    return [*lines, f"train with: trivox train {shlex.quote(str(plan.choice.request.out))}"]


def on_accuracy(plan: Plan) -> str:
    """Say what the labels keep at the spacing: a bound for any network that learns there."""
    spacing_mm, look = plan.candidate.spacing_mm, plan.look
    (kept,) = (one for one in look.accuracies if one.spacing_mm == spacing_mm)
    return (
        f"resampled to this spacing and back, the labels of {look.num_cases} cases keep a Dice of "
        f"{kept.dice:.3f} and an HD95 of {kept.hd95_mm:.2g} mm: about the most to be reached"
    )


def on_more_time(plan: Plan) -> str:
    """Say what would be chosen with four times the minutes."""
    minutes = plan.config.training.max_minutes or 0
    same = plan.with_more.candidate == plan.candidate
    words = "the same" if same else str(plan.with_more.candidate)
    return f"with {4 * minutes:g} minutes it would be: {words}"


def on_gpu_figures(plan: Plan) -> str:
    """Say where a plan's figures of a GPU come from."""
    gpu, is_timed = plan.choice.gpu, plan.timing == "measured"
    subject = "memory is" if is_timed else "memory and time are"
    if gpu is not None and gpu.name == plan.device:
        return f"{subject} from measurements on {gpu.name} ({gpu.measured})"
    subject += " an estimate" if is_timed else " estimates"
    if gpu is None:
        return f"{subject}: no GPU has been measured yet"
    return (
        f"{subject} from measurements on {gpu.name} ({gpu.measured}), the GPU whose memory is "
        "nearest of those that were measured"
    )


def on_residence(plan: Plan) -> str:
    """Say whether the training set is expected to stay on the GPU while it trains."""
    survey, estimate = plan.choice.survey, plan.config.estimate
    assert estimate is not None
    voxels = sum(math.prod(body.size_mm) for body in survey.bodies)
    voxels /= math.prod(plan.candidate.spacing_mm)
    num_channels = len(survey.fingerprint.channels)
    needed_gb = voxels * (BYTES_PER_VALUE * num_channels + BYTES_PER_LABEL) / BYTES_PER_GB
    room_gb = (plan.memory_gb - estimate.memory_gb) * RESIDENT_SHARE
    verdict = "stays on the GPU" if needed_gb <= room_gb else "is read from the cache"
    room = f"{max(0.0, room_gb):.3g} GB are there for it"
    return f"the training set {verdict}: it takes about {needed_gb:.2g} GB, {room}"


def _on_data(plan: Plan, manifest: Manifest) -> list[str]:
    survey, fingerprint = plan.choice.survey, plan.choice.survey.fingerprint
    shape, size = fingerprint.shape_percentiles, fingerprint.size_percentiles_mm
    lines = [
        f"Planned by trivox {__version__} for {manifest.name}, to train on {plan.device} within "
        f"{plan.memory_gb:.3g} GB of memory. Rules: Isensee et al., nnU-Net, Nature Methods 18, "
        "2021, doi:10.1038/s41592-020-01008-z, where not said otherwise. Change what you know "
        "better.",
        f"{fingerprint.num_cases} cases; along R, A, S (10th, 50th, 90th percentile):",
    ]
    for what, percentiles in (
        ("spacing in mm", fingerprint.spacing_percentiles_mm),
        ("shape in voxels", shape),
        ("size in mm", size),
    ):
        if percentiles is not None:
            each = (_numbers(row) for row in (percentiles.p10, percentiles.p50, percentiles.p90))
            lines.append(f"- {what}: {'; '.join(each)}")
    lines.append(
        f"- size of the crop to what is not air or zero, in mm: {_numbers(survey.size_mm)}"
    )
    for channel, found in zip(manifest.channels, fingerprint.channels, strict=True):
        lines.append(
            f"- {channel.name} ({channel.modality}) in labelled voxels: mean {found.mean:.4g}, std "
            f"{found.std:.4g}, 0.5 to 99.5 % {found.percentile_00_5:.4g} to "
            f"{found.percentile_99_5:.4g}"
        )
    sizes = {label.value: label for label in fingerprint.labels}
    for name, value in manifest.labels.items():
        label = sizes.get(value)
        if label is None:
            lines.append(f"- label {name}: in no case")
            continue
        low, middle, high = label.volume_ml
        lines.append(
            f"- label {name}: in {label.num_cases} of {fingerprint.num_cases} cases, "
            f"{middle:.3g} ml ({low:.3g} to {high:.3g})"
        )
    if plan.choice.folds is not None:
        lines.append(f"Validation: fold 0 of {plan.choice.folds}; fold=all validates each in turn.")
    elif any(case.split for case in manifest.cases if case.split != "test"):
        lines.append("Validation: on the cases that the manifest sets aside.")
    else:
        lines.append("One subject only: add a second one, which training needs to validate.")
    return lines


def _on_candidates(plan: Plan) -> list[str]:
    """Return the candidates that were considered, as a table, and what it means."""
    minutes = plan.config.training.max_minutes or 0
    more = on_more_time(plan)
    return [
        f"Candidates for {minutes:g} minutes. Loses: Dice that is expected to be lost by the "
        "spacing, by what a patch does not see, and by too few steps; an estimate to choose by. "
        "Volume: the share of the median volume in a patch. Sees: that of a structure with what "
        "surrounds it, on the mean. Passes: how often the whole of every case is seen.",
        *(f"  {line}" for line in table(plan.considered)),
        f"{more[0].upper()}{more[1:]}.",
        *([f"{plan.on_trials[0].upper()}{plan.on_trials[1:]}."] if plan.on_trials else []),
    ]


def _on_preprocessing(plan: Plan, manifest: Manifest) -> list[str]:
    survey, candidate = plan.choice.survey, plan.candidate
    fingerprint, target = survey.fingerprint, rules.target_spacing(survey)
    median = _numbers(fingerprint.spacing_mm)
    ratio = f"largest over smallest {fingerprint.anisotropy:.2g}"
    if rules.is_anisotropic(survey):
        text = (
            f"Spacing: thick slices ({ratio}, the shape differs as much), so the 10th percentile "
            f"along them and else the median, {median}: {_numbers(target)}."
        )
    else:
        text = (
            f"Spacing: the median, {median} ({ratio}: no thick slices, which begin where spacing "
            "and shape both differ by a factor of 3)."
        )
    lines = [text]
    if candidate.spacing_mm != target:
        lines.append(
            "Coarser than that, by what the table above says. nnU-Net trains a cascade instead."
        )
    text = on_accuracy(plan)
    lines.append(f"{text[0].upper()}{text[1:]}.")
    kinds = [f"{channel.name}: {SCHEMES[channel.scheme]}" for channel in manifest.channels]
    lines.append(f"Normalisation is as the manifest says, or the modality. {'; '.join(kinds)}.")
    return lines


def _on_mirroring(plan: Plan) -> list[str]:
    lines = ["Mirroring (nnU-Net mirrors all axes; here only where the labels allow it):"]
    for decision in plan.choice.mirroring:
        shown = [*decision.evidence[:6]]
        if len(decision.evidence) > len(shown):
            shown.append(f"and {len(decision.evidence) - len(shown)} findings more")
        verdict = "mirrored" if decision.is_allowed else "not mirrored"
        lines.append(f"- {decision.axis}: {verdict}: {'; '.join(shown)}.")
    if plan.config.augmentation.model_dump().items() >= rules.STRONG_AUGMENTATION.items():
        lines.append(
            f"The budget shows every case more than {rules.MANY_PASSES} times, so patches are also "
            "turned, scaled, bent and coarsened more than by default (nnU-Net augments alike "
            "whatever the budget)."
        )
    return lines


def _on_network(plan: Plan) -> list[str]:
    shape, features = plan.candidate.shape, plan.candidate.features
    lines = [
        f"{len(features)} levels: an axis is halved while 4 voxels stay and its spacing is below "
        f"twice the finest; patch / strides = {_numbers(shape.deepest_size, ' x ')} voxels at "
        f"the deepest level. {features[0]} features at the finest level, doubled at each."
    ]
    if any(1 in kernel for kernel in shape.kernel_sizes):
        lines.append(
            "Kernels are 1 along an axis of a single slice, and until its spacing is within twice "
            "the finest one."
        )
    return lines


def _on_training(plan: Plan, manifest: Manifest) -> list[str]:
    choice, candidate = plan.choice, plan.candidate
    survey, training = choice.survey, plan.config.training
    edges = [n * mm for n, mm in zip(training.patch_size, candidate.spacing_mm, strict=True)]
    rarest = min(survey.fingerprint.labels, key=lambda label: label.num_cases * label.volume_ml[1])
    name = next((n for n, v in manifest.labels.items() if v == rarest.value), str(rarest.value))
    asked = choice.request.minutes is not None
    budget = "as asked for" if asked else "for about 100 passes over all volumes, within bounds"
    best = plan.considered[0].prospect
    return [
        f"Patch: {_numbers(edges, ' x ')} mm, as near to a cube as the median volume allows and a "
        f"multiple of what the levels need; {candidate.patch_share:.0%} of the median volume. At "
        f"most about {LARGEST_PATCH[choice.kind]:,} voxels on this kind of device.",
        f"Batch: at least 2. The budget holds about {best.steps} steps, which see the whole of "
        f"every case {best.passes:.3g} times.",
        f"Sampling: labels fill {survey.foreground_share:.2%} of a volume (median). A labelled "
        f"patch is placed on one of its case's classes, all as often, so that the rarest, {name}, "
        "counts as much as the largest where it is.",
        f"Budget: {training.max_minutes:g} minutes, {budget}; about ten validations on the way.",
    ]


def _on_inference() -> list[str]:
    return [
        "A study is a few small windows, which are soon predicted: the predictions of its mirror "
        "images are averaged with it."
    ]


def _on_estimate(plan: Plan) -> list[str]:
    estimate = plan.config.estimate
    assert estimate is not None
    way = {
        "measured": f"measured on {plan.device}",
        "busy": f"estimated on {plan.device}, from the processor time of one thread, since other "
        "processes took the cores; plan again when it is idle to measure it",
        "counted": "from the arithmetic, not measured",
    }[plan.timing]
    lines = [
        f"Memory: traced from a real step on a small patch and scaled, of {plan.memory_gb:.3g} GB. "
        f"Time, but for waiting for patches: {way}; {plan.gflops:.3g} GFLOP an iteration. "
        "Training logs what it really took.",
    ]
    if plan.choice.kind == "cuda":
        lines += [
            f"{text[0].upper()}{text[1:]}." for text in (on_gpu_figures(plan), on_residence(plan))
        ]
    return lines


def _comment(lines: Iterable[str]) -> str:
    wrapped = []
    for line in lines:
        if line.startswith("  "):  # Of a table.
            wrapped.append(line)
            continue
        indent = "  " if line.startswith("- ") else ""
        wrapped += textwrap.wrap(
            line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "".join(f"# {line}\n" for line in wrapped)


def _dump(values: Mapping[str, object]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, width=WIDTH)


def _numbers(values: Iterable[float], separator: str = ", ") -> str:
    return separator.join(f"{value:.4g}" for value in values)
