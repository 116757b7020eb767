"""From a manifest to the cache that patches are cut from: every case read and preprocessed once."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import ManifestError, PipelineError, TrainingError
from pipeline.fingerprint import Fingerprint
from pipeline.manifest import (
    Case,
    Finding,
    Manifest,
    Split,
    check_channels,
    load_manifest,
    with_settings,
)
from pipeline.patches import CachedCase, cache_key, is_whole, name_thin, write_case
from pipeline.phantom import make_cohort
from pipeline.study import Study, StudyConfig, place_labels, read_label_map, read_study
from pipeline.system.documents import read_yaml
from pipeline.system.progress import track
from pipeline.training.config import CONFIG, RunConfig
from pipeline.training.room import check_room
from pipeline.transforms import Preprocessing
from pipeline.volume import LabelMap


def open_manifest(config: RunConfig) -> Manifest:
    """Load the manifest that the configuration names, or make the phantom cohort first.

    What the configuration sets takes the place of what the manifest says on how to read the data.
    """
    data = config.data
    if data.manifest is not None:
        manifest = load_manifest(data.manifest, data.root, allow_outside=data.allow_outside)
    else:
        assert data.phantom is not None
        assert data.root is not None
        manifest = load_manifest(make_cohort(data.root, data.phantom))
    return with_settings(manifest, config.study, config.preprocessing)


def adopt_reading(config: RunConfig) -> RunConfig:
    """Return the configuration with all that its manifest says on how to read the data.

    It is kept with the run, so that a manifest that changes meanwhile is noticed. A run that an
    earlier version began goes on with the normalisation of its time.
    """
    manifest = open_manifest(config)
    schemes = {channel.name: channel.scheme for channel in manifest.channels}
    if _was_begun_without_schemes(config.folder / CONFIG):
        schemes |= {
            channel.name: "ct" if channel.modality == "CT" else "zscore_nonzero"
            for channel in manifest.channels
            if channel.normalisation is None
        }
    preprocessing = config.preprocessing.model_copy(update={"normalisation": schemes})
    return config.model_copy(update={"study": manifest.study, "preprocessing": preprocessing})


def _was_begun_without_schemes(path: Path) -> bool:
    """Tell whether a run's recorded settings are whole and say nothing of normalisation."""
    try:
        return "normalisation" not in read_yaml(path, TrainingError)["preprocessing"]
    except (TrainingError, TypeError, LookupError):
        # There is no run yet; or it is damaged, which is told where its settings are compared.
        return False


MOST_ODD_CASES = 10
"""Cases whose warnings are logged one by one."""

logger = logging.getLogger(__name__)


def read_case(case: Case, num_channels: int, config: StudyConfig) -> tuple[Study, LabelMap]:
    """Read a case's image, and its label on the image's voxels.

    What is odd about the label is among the study's warnings.

    Raises:
        PipelineError: If one cannot be read, or the label does not lie on the image's voxels.
    """
    if case.label is None:
        raise ManifestError(case.name, "no label", "Add one, or mark the case as split=test.")
    study = read_study(case.images, case=case.name, num_channels=num_channels, config=config)
    label_map = place_labels(read_label_map(case.label, config), case.label.name, study.place)
    odd = tuple(f"label: {text}" for text in label_map.warnings)
    return replace(study, warnings=(*study.warnings, *odd)), label_map


def read_cases(
    cases: Sequence[Case], manifest: Manifest, config: StudyConfig, description: str
) -> Iterator[tuple[Case, Study, LabelMap]]:
    """Read all cases, one at a time; name all that cannot be used, not only the first.

    Raises:
        ManifestError: After the last case, if any of them cannot be used.
    """
    problems: list[PipelineError] = []
    for case in track(cases, description, len(cases)):
        try:
            study, label_map = read_case(case, len(manifest.channels), config)
            check_channels(study, manifest.channels)
            _check_declared(case, label_map, manifest)
        except PipelineError as error:
            problems.append(error)
            logger.error("%s", error)
            continue
        yield case, study, label_map
    if problems:
        found = f"{len(problems)} of {len(cases)} cases cannot be used; the first: {problems[0]}"
        remedy = "Run `trivox check` on the manifest for all findings with remedies."
        raise ManifestError(manifest.path, found, remedy)


def with_warnings(
    readings: Iterator[tuple[Case, Study, LabelMap]], manifest: Manifest
) -> Iterator[tuple[Case, Study, LabelMap]]:
    """Yield what was read, and log what was odd but acceptable about the first cases."""
    num_odd = 0
    for reading in readings:
        case, study, _ = reading
        num_odd += bool(study.warnings)
        for warning in study.warnings if num_odd <= MOST_ODD_CASES else ():
            logger.warning("%s: %s", case.name, warning)
        yield reading
    if num_odd > MOST_ODD_CASES:
        text = "%d cases have warnings; `trivox check %s` says all of them"
        logger.warning(text, num_odd, manifest.path)


def _check_declared(case: Case, label_map: LabelMap, manifest: Manifest) -> None:
    """Refuse label values that the manifest does not name: they would be taught as background."""
    found = set(np.unique(label_map.labels_IJK).tolist())
    found -= {0, *manifest.labels.values(), manifest.ignore_value}
    if found:
        values = ", ".join(map(str, sorted(found)[:10]))
        remedy = "Declare them in the manifest's labels, or correct the label map."
        raise ManifestError(case.name, f"label values {values} are not declared", remedy)


def cache_cases(
    cases: Sequence[Case],
    manifest: Manifest,
    settings: Preprocessing,
    values: list[int],
    config: RunConfig,
    fingerprint: Fingerprint | None = None,
) -> list[CachedCase]:
    """Preprocess the cases that are not in the cache yet, or damaged there, and return all.

    Args:
        cases: To return.
        manifest: That lists them.
        settings: Of the preprocessing.
        values: Label value of each class.
        config: The experiment.
        fingerprint: Of the cases, to see before whether the disk has room for them.

    Raises:
        PipelineError: If a case cannot be used, or the disk has no room.
    """
    ignored = manifest.ignore_value
    folders = {
        case.name: config.data.cache / cache_key(case, settings, manifest.study, values, ignored)
        for case in cases
    }
    missing = [case for case in cases if not _is_cached(case, folders[case.name])]
    if missing:
        if fingerprint is not None:
            check_room(config.data.cache, len(missing), fingerprint, settings)
        for case, study, label_map in read_cases(
            missing, manifest, manifest.study, "Preprocessing"
        ):
            write_case(study, label_map, settings, values, folders[case.name], ignored)
    cached = [CachedCase(case.name, folders[case.name], manifest.annotates(case)) for case in cases]
    names = sorted(manifest.labels, key=lambda name: values.index(manifest.labels[name]))
    thin = (name_thin(one.name, names, one.facts.kept, settings.spacing_mm) for one in cached)
    log_findings([finding for findings in thin for finding in findings], manifest)
    return cached


def log_findings(findings: Sequence[Finding], manifest: Manifest) -> None:
    """Log what was found about the cases; of many findings the first, and how many there are."""
    for finding in findings[:MOST_ODD_CASES]:
        logger.warning("%s: %s. %s", finding.case, finding.found, finding.remedy)
    if len(findings) > MOST_ODD_CASES:
        more = len(findings) - MOST_ODD_CASES
        logger.warning("and %d more; `trivox check %s` says all", more, manifest.path)


def log_unseen(names: Sequence[str]) -> None:
    """Log the labels that no training case has."""
    for name in names:
        text = "%r is in no training case; the model will not find it. %s"
        logger.warning(text, name, "Add cases that have it, or take it off the manifest's labels.")


def _is_cached(case: Case, folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if is_whole(folder):
        return True
    text = "%s: case %r is damaged or of an earlier version, and is made again"
    logger.warning(text, folder, case.name)
    return False


def check_trainable(manifest: Manifest, split: Split) -> None:
    """Refuse a data set that names no labels or whose files are not there, before any long work.

    Raises:
        ManifestError: If there are no labels; or saying how many files are missing, and the first.
    """
    if not manifest.labels:
        remedy = "Describe the data set in a manifest with labels; see data_manifests/README.md."
        raise ManifestError(manifest.path, "it names no labels to train on", remedy)
    files = [
        file
        for case in (*split.train, *split.validation)
        for file in (*case.images, *([case.label] if case.label else []))
    ]
    missing = [file for file in files if not file.exists()]
    if missing:
        found = f"{len(missing)} of {len(files)} files are missing, the first is {missing[0]}"
        remedy = "Set data.root=FOLDER (or `make train DATA=FOLDER`) to where the data lies."
        raise ManifestError(manifest.path, found, remedy)
