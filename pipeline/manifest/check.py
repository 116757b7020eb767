"""Check a data set before anybody trains on it."""

from pipeline.manifest.case import Manifest
from pipeline.manifest.compare import compare_cases, find_untrainable
from pipeline.manifest.examine import Look, Watch, examine_case
from pipeline.manifest.finding import Finding
from pipeline.progress import track
from pipeline.study import StudyConfig


def check_manifest(
    manifest: Manifest,
    config: StudyConfig | None = None,
    watch: Watch | None = None,
    look: Look | None = None,
) -> list[Finding]:
    """Read every file of a data set once and report what would spoil a training.

    Errors: files that are missing, unreadable, refused by `read_study` (NaN among others) or
    changed since their sha256 was noted; image and label on different grids; label values that are
    not declared; cases without a label; one image under two subjects; a subject on both sides of
    the split; no two subjects to train and validate with.
    Warnings: empty label maps; labels that no case has, that a case does not annotate
    and yet has, or that regions lose; outliers in spacing or size; one image twice under one
    subject; and all that `read_study` warns of.

    One case is in memory at a time, and a bad one does not stop the check.

    Args:
        manifest: The data set.
        config: How studies are read, if not as the manifest says.
        watch: Called with each study that could be read.
        look: Called with each case whose label map could be read, too.

    Returns:
        What was found: first case by case, in the manifest's order, then between cases. Empty if
        all is well.
    """
    findings: list[Finding] = []
    facts = []
    for case in track(manifest.cases, "Checking", total=len(manifest.cases)):
        case_facts, case_findings = examine_case(
            case, manifest, config or manifest.study, watch, look
        )
        facts.append(case_facts)
        findings.extend(case_findings)
    return findings + compare_cases(facts, manifest) + [*find_untrainable(facts, manifest)]
