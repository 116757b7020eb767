"""Look at the files of one case, and keep what a check finds and others are compared with.

Axes: C = channel, I, J, K = voxel axes in the file's order.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from pipeline.errors import StudyError
from pipeline.manifest.case import Case, Channel, Manifest
from pipeline.manifest.scheme import NORMALISE_OTHERWISE, fault_of
from pipeline.study import (
    Study,
    StudyConfig,
    place_labels,
    read_label_map,
    read_study,
    source_files,
)
from pipeline.system.files import sha256_of
from pipeline.volume import LabelMap, hash_voxels

ALL_CASES = "(all cases)"
"""Stands in the place of a case's name where a finding concerns the data set as a whole."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        case: Name of the case, or `ALL_CASES`.
        severity: An error spoils a training; a warning is worth a look.
        found: What was found, with the value.
        remedy: What the user can do about it, as a sentence.
    """

    case: str
    severity: Literal["error", "warning"]
    found: str
    remedy: str


def format_findings(findings: Sequence[Finding]) -> Table:
    """Return a table of findings: errors first, then by case."""
    table = Table("case", "severity", "found", "remedy")
    for finding in sorted(findings, key=lambda finding: (finding.severity, finding.case)):
        colour = "red" if finding.severity == "error" else "yellow"
        # Text, because a plain string may hold brackets that would be read as markup.
        table.add_row(
            Text(finding.case),
            Text(finding.severity, style=colour),
            Text(finding.found),
            Text(finding.remedy),
        )
    return table


def summarise_findings(findings: Sequence[Finding], *, num_cases: int) -> str:
    """Return one line such as `"200 cases checked: 1 error, no warnings"`."""
    counts = [
        (sum(finding.severity == severity for finding in findings), severity)
        for severity in ("error", "warning")
    ]
    parts = [f"{n or 'no'} {severity}{'' if n == 1 else 's'}" for n, severity in counts]
    return f"{num_cases} case{'' if num_cases == 1 else 's'} checked: {', '.join(parts)}"


Result = TypeVar("Result")
Watch = Callable[[Study], None]
Look = Callable[[Case, Study, LabelMap], None]


@dataclass(frozen=True)
class CaseFacts:
    """What remains of a case once its voxels are let go.

    Attributes:
        case: The case.
        spacing_mm: Distance between voxels along the axes nearest to R, A and S, in mm; None if
            the image could not be read.
        size_mm: Extent along the same axes, in mm; None likewise.
        content: Hash of the image's voxels; None likewise.
        values: Label values in the label map; None if there is none that could be read.
    """

    case: Case
    spacing_mm: tuple[float, ...] | None = None
    size_mm: tuple[float, ...] | None = None
    content: str | None = None
    values: frozenset[int] | None = None


def examine_case(
    case: Case,
    manifest: Manifest,
    config: StudyConfig,
    watch: Watch | None = None,
    look: Look | None = None,
) -> tuple[CaseFacts, list[Finding]]:
    """Read all files of a case and report what is wrong with them.

    Never raises for what a file holds or lacks: each fault becomes a finding.

    Args:
        case: The case to look at.
        manifest: The data set that the case belongs to.
        config: How studies are admitted.
        watch: Called with each study that could be read.
        look: Called with the case, if image and label map could be read.

    Returns:
        The facts that could be had, and the findings.
    """
    findings: list[Finding] = []
    study = _attempt(lambda: _read_images(case, manifest, config), case, findings)
    label_map = _attempt(lambda: _read_label(case, config), case, findings)
    facts = CaseFacts(case)
    if study is not None:
        findings += [
            Finding(case.name, "warning", warning, "Look at the study before training on it.")
            for warning in study.warnings
        ]
        facts = _describe_image(case, study)
        _attempt(lambda: check_channels(study, manifest.channels), case, findings)
        if watch is not None:
            watch(study)
    if label_map is not None:
        facts = dataclasses.replace(facts, values=_values_in(label_map.labels_IJK))
        findings += _label_findings(facts, manifest)
    if study is not None and label_map is not None and case.label is not None:
        name, onto = case.label.name, study.place
        placed = _attempt(lambda: place_labels(label_map, name, onto), case, findings)
        remedy = "Look at image and label together before training on them."
        findings += [
            Finding(case.name, "warning", f"label: {warning}", remedy)
            for warning in (placed.warnings if placed is not None else ())
        ]
        if placed is not None and look is not None:
            look(case, study, placed)
    return facts, findings


def check_channels(study: Study, channels: Sequence[Channel]) -> None:
    """Refuse a study of which a channel would be the same everywhere once it is normalised.

    Raises:
        StudyError: Names the case and the channel.
    """
    for channel, data_IJK in zip(channels, study.volume.data_CIJK, strict=True):
        fault = fault_of(data_IJK, channel.scheme)
        if fault is not None:
            found = f"channel {channel.name} ({channel.scheme}): {fault}"
            raise StudyError(study.case, found, NORMALISE_OTHERWISE)


def _attempt(read: Callable[[], Result], case: Case, findings: list[Finding]) -> Result | None:
    """Return what `read` gives, or None and a finding that says why it gave nothing."""
    try:
        return read()
    except StudyError as error:
        # The folder is the same for a whole data set and makes the table hard to read.
        found = f"{Path(error.where).name}: {error.found}"
        findings.append(Finding(case.name, "error", found, error.remedy))
    except OSError as error:
        found = f"{Path(str(error.filename)).name}: {error.strerror}"
        remedy = "Check the disk and the file's permissions."
        findings.append(Finding(case.name, "error", found, remedy))
    except MemoryError:
        remedy = "Check it on a larger machine, or crop it."
        findings.append(Finding(case.name, "error", "the study does not fit in memory", remedy))
    return None


def _read_images(case: Case, manifest: Manifest, config: StudyConfig) -> Study:
    _need_files(case.images)
    if case.sha256 is not None:
        actual = sha256_of(*(file for image in case.images for file in source_files(image)))
        if actual != case.sha256:
            raise StudyError(
                case.images[0],
                f"sha256 is {actual[:12]}..., not {case.sha256[:12]}... as the manifest says",
                "Fetch the file again, or correct the manifest if the change is meant.",
            )
    return read_study(
        case.images, case=case.name, num_channels=len(manifest.channels), config=config
    )


def _read_label(case: Case, config: StudyConfig) -> LabelMap | None:
    if case.label is None:
        return None
    _need_files([case.label])
    return read_label_map(case.label, config)


def _need_files(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.exists()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise StudyError(
            missing[0],
            f"the file does not exist{others}",
            "Correct the path in the manifest, or set the data folder.",
        )


def _describe_image(case: Case, study: Study) -> CaseFacts:
    grid = study.volume.grid
    # In the order R, A, S, so that studies stored in different orientations compare like with like.
    axes = np.argsort(nib.io_orientation(grid.affine)[:, 0])
    spacing_mm = np.asarray(grid.spacing_mm)[axes]
    size_mm = spacing_mm * np.asarray(grid.shape)[axes]
    return CaseFacts(
        case, tuple(spacing_mm.tolist()), tuple(size_mm.tolist()), hash_voxels(study.volume)
    )


def _values_in(labels_IJK: npt.NDArray[np.unsignedinteger]) -> frozenset[int]:
    values: set[int] = set()
    for k in range(labels_IJK.shape[2]):
        values.update(np.unique(labels_IJK[..., k]).tolist())
    return frozenset(values)


def _label_findings(facts: CaseFacts, manifest: Manifest) -> list[Finding]:
    case, foreground = facts.case, (facts.values or frozenset()) - {0, manifest.ignore_value}
    if not foreground:
        remedy = "Make sure that the structures are truly absent, or remove the case."
        return [Finding(case.name, "warning", "the label map is empty", remedy)]
    if not manifest.labels:
        return []
    undeclared = sorted(foreground - set(manifest.labels.values()))
    if not undeclared:
        return _unexpected_findings(case, foreground, manifest)
    listed = ", ".join(map(str, undeclared[:10])) + (", ..." if len(undeclared) > 10 else "")
    declared = ", ".join(map(str, manifest.labels.values()))
    found = f"label values {listed} are not declared (declared: {declared})"
    remedy = "Declare them in the manifest's labels, or correct the label map."
    return [Finding(case.name, "error", found, remedy)]


def _unexpected_findings(
    case: Case, foreground: frozenset[int], manifest: Manifest
) -> list[Finding]:
    """Report labels that are in the label map though the case is said not to annotate them."""
    if case.annotated is None:
        return []
    return [
        Finding(
            case.name,
            "warning",
            f"label {name!r} is in the label map, but not among the annotated ones",
            "Add it to the case's annotated labels: as it is, training takes it for background.",
        )
        for name, value in manifest.labels.items()
        if value in foreground and name not in case.annotated
    ]
