"""From a configuration to what a run learns from: cases, their split, their faults."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import ManifestError, PipelineError
from pipeline.evaluation import ScoringRules
from pipeline.fingerprint import Fingerprint, settle_preprocessing, take_fingerprint
from pipeline.gate import Peers
from pipeline.manifest import Case, Manifest, Split, Volumes, split_cases
from pipeline.manifest.check import (
    ONE_PATIENT,
    SAME_FILES,
    SAME_VOXELS,
    check_copies,
    files_of,
    time_points,
)
from pipeline.manifest.sides import mirrored_sides
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.model.description import first_run
from pipeline.output import volumes_ml
from pipeline.patches import LabelWatch
from pipeline.patches.kept import DEFAULT_MARGIN_MM, unseen_labels
from pipeline.postprocessing import check_rules
from pipeline.study import Study, read_label_map
from pipeline.system.progress import track
from pipeline.training.config import RunConfig
from pipeline.training.data import (
    check_trainable,
    log_findings,
    open_manifest,
    read_cases,
    with_warnings,
)
from pipeline.training.finetune import adopt_preprocessing, training_cases
from pipeline.training.folder import RunFolder
from pipeline.training.recorder import RecordedSplit
from pipeline.training.through_crf import check_crf
from pipeline.training.validation import config_for
from pipeline.volume import LabelMap, hash_voxels

Reading = tuple[Case, Study, LabelMap]

logger = logging.getLogger(__name__)


class Onlooker:
    """What is kept of each case as it is read.

    Args:
        manifest: The data set.
        flip_axes: Axes that training patches will be mirrored along.
        crop_margin_mm: Of the preprocessing.

    Attributes:
        labels: What preprocessing keeps of the labels.
        contents: Hash of the voxels of each case that was read, by its name.
    """

    def __init__(
        self,
        manifest: Manifest,
        flip_axes: Sequence[str] = (),
        crop_margin_mm: float = DEFAULT_MARGIN_MM,
    ) -> None:
        self._manifest = manifest
        self._flip_axes = flip_axes
        self._peers = Peers([channel.modality for channel in manifest.channels])
        self.labels = LabelWatch(manifest, crop_margin_mm)
        self.contents: dict[str, str] = {}

    def check_names(self, splits: Sequence[Split]) -> None:
        """Look at the names of files, cases and labels, before anything is read.

        Args:
            splits: All that are trained on.

        Raises:
            ManifestError: If one file lies on both sides of a split; names the two cases.
        """
        manifest = self._manifest
        cases = [case for case in manifest.cases if case.split != "test"]
        check_copies(files_of(cases), splits, manifest, SAME_FILES)
        names = (*manifest.labels, *(region.name for region in manifest.regions))
        warnings = [*mirrored_sides(names, self._flip_axes)]
        if not any(case.split for case in cases):
            warnings += [f"{text}. {ONE_PATIENT}" for text in time_points(cases)]
        for text in warnings:
            logger.warning("%s: %s", manifest.path, text)

    def over(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        """Yield the readings, and look at each."""
        for case, study, label_map in readings:
            self.contents[case.name] = hash_voxels(study.volume)
            self._peers.add(study)
            self.labels.see(case, study, label_map)
            yield case, study, label_map

    def report(self, splits: Sequence[Split]) -> None:
        """Log what is odd about the cases, and refuse copies on both sides of a split.

        Args:
            splits: All that are trained on.

        Raises:
            ManifestError: Naming two cases with the same voxels.
        """
        for text in check_copies(self.contents, splits, self._manifest, SAME_VOXELS):
            logger.warning("%s: %s", self._manifest.path, text)
        log_findings(self._peers.findings(), self._manifest)
        log_findings(self.labels.cropped(), self._manifest)


@dataclass(frozen=True)
class Prepared:
    """What a run learns from.

    Attributes:
        manifest: The data set.
        split: Its training and validation cases.
        fingerprint: Of the cases that decide the preprocessing: those of the training; in a
            cross-validation all of them, so that its members share one preprocessing.
        volumes_ml: Of the labels of the cases, where the folds follow from them.
        contents: Hash of the voxels of each case, by name; empty in runs of earlier versions.
    """

    manifest: Manifest
    split: Split
    fingerprint: Fingerprint
    volumes_ml: Volumes
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def unseen(self) -> list[str]:
        """The declared labels that no training case has."""
        return unseen_labels(self.manifest, self.split.train, self.fingerprint, self.volumes_ml)

    def recorded(self, split: Split) -> RecordedSplit:
        """Return what a run's folder keeps of a split of these cases."""
        return RecordedSplit.of(split, self.volumes_ml, self.contents)


def prepare_run(config: RunConfig, folder: RunFolder) -> Prepared:
    """Prepare a run of one fold: from its folder if it was begun, else by reading every case.

    Raises:
        PipelineError: If the data cannot be used.
    """
    manifest, data = open_manifest(config), config.data
    if data.fold == "all":
        raise ValueError("fold=all is for cross_validate")
    if data.fold and any(case.split in ("train", "validation") for case in manifest.cases):
        logger.warning(
            "data.fold=%d is not used: the manifest says which cases validate", data.fold
        )
    volumes = folder.read_split().volumes_ml if folder.is_begun else _read_volumes(manifest)
    split = split_cases(
        manifest, folds=data.folds, fold=data.fold, seed=config.seed, volumes_ml=volumes
    )
    check_trainable(manifest, split)
    check_rules(manifest.labels, config.postprocessing)
    check_crf(config.training.crf, manifest)
    if folder.is_begun:
        return Prepared(
            manifest, split, folder.read_fingerprint(), volumes, folder.read_split().contents
        )
    watch = Onlooker(manifest, config.augmentation.flip_axes, config.preprocessing.crop_margin_mm)
    watch.check_names([split])
    fingerprint = _read_all_cases(manifest, split, config, watch)
    watch.report([split])
    return Prepared(manifest, split, fingerprint, volumes, watch.contents)


def prepare_folds(config: RunConfig, folder: RunFolder) -> list[Prepared]:
    """Prepare each fold of a cross-validation, with one fingerprint over all cases.

    Every case that is not a test case is dealt into a fold, also where the manifest says which ones
    train and which validate: each is to be validated once.

    The fingerprint is of all cases since the members of a model share one preprocessing. Held-out
    cases so enter its spacing and, for CT, four intensities, taken from labelled voxels, as in
    nnU-Net; and, with class weights in the loss, the median volumes of the labels.

    Raises:
        ConfigError: If the cases are others than when the cross-validation was begun.
        PipelineError: If the data cannot be used.
    """
    manifest, data = open_manifest(config), config.data
    cases = tuple(replace(case, split=None) for case in manifest.cases if case.split != "test")
    if any(case.split in ("train", "validation") for case in manifest.cases):
        logger.warning("fold=all deals cases anew that the manifest sets to train or validation")
    manifest = replace(manifest, cases=cases)
    everything = Split(train=cases, validation=cases)
    check_trainable(manifest, everything)
    check_rules(manifest.labels, config.postprocessing)
    check_crf(config.training.crf, manifest)
    if folder.is_begun:
        folder.check_split(everything)
        fingerprint, recorded = folder.read_fingerprint(), folder.read_split()
        volumes, contents = recorded.volumes_ml, recorded.contents
        splits = _all_splits(manifest, config, volumes)
    else:
        # Before the long reading: whether there are enough subjects, and labels of all.
        split_cases(manifest, folds=data.folds, fold=0, seed=config.seed)
        onlooker = Onlooker(
            manifest, config.augmentation.flip_axes, config.preprocessing.crop_margin_mm
        )
        onlooker.check_names([])
        fingerprint, volumes = _read_for_folds(manifest, config, onlooker)
        contents = onlooker.contents
        splits = _all_splits(manifest, config, volumes)
        onlooker.report(splits)
    return [Prepared(manifest, split, fingerprint, volumes, contents) for split in splits]


def _all_splits(manifest: Manifest, config: RunConfig, volumes: Volumes) -> list[Split]:
    folds, seed = config.data.folds, config.seed
    return [
        split_cases(manifest, folds=folds, fold=fold, seed=seed, volumes_ml=volumes)
        for fold in range(folds)
    ]


def describe_run(
    config: RunConfig, prepared: Prepared, source: Model | None = None
) -> ModelDescription:
    """Describe the model that a run will leave.

    Args:
        config: The experiment.
        prepared: What it learns from.
        source: The model that it starts from, whose preprocessing it keeps.

    Raises:
        ConfigError: If the source's channels are not those of the data.
        ManifestError: If a name cannot be kept in a model.
    """
    manifest = prepared.manifest
    channels = tuple(
        ChannelDescription(name=channel.name, modality=channel.modality)
        for channel in manifest.channels
    )
    window = config.inference.window or config.training.patch_size
    settled = settle_preprocessing(config.preprocessing, manifest.channels, prepared.fingerprint)
    origin = {}
    if source is not None:
        settled = adopt_preprocessing(settled, channels, source.description)
        origin = {"from": {"name": source.description.name, "sha256": source.sha256}}
    description = ModelDescription(
        name=config.name,
        channels=channels,
        labels={name: manifest.labels[name] for name in sorted(manifest.labels)},
        codes={name: manifest.codes[name] for name in sorted(manifest.codes)},
        regions=manifest.regions,
        study=manifest.study,
        preprocessing=settled,
        network=config.network,
        patch_size=config.training.patch_size,
        mirror_axes=config.augmentation.flip_axes,
        inference=config.inference.model_copy(update={"window": window}),
        postprocessing=config.postprocessing,
        fingerprint=prepared.fingerprint,
        admission=config.admission,
        scoring=ScoringRules.of(config_for(manifest, config.evaluation)),
        training={
            "data": manifest.name,
            "seed": config.seed,
            "fold": config.data.fold,
            "folds": config.data.folds,
            **({"never_seen": prepared.unseen} if prepared.unseen else {}),
            **origin,
        },
        training_cases=training_cases(
            prepared.split.train, prepared.contents, source.description if source else None
        ),
    )
    _refuse_code(description, manifest)
    return description


def _refuse_code(description: ModelDescription, manifest: Manifest) -> None:
    """Refuse names that would be code in the model: its folder is a MONAI Bundle."""
    place = first_run(description.model_dump(mode="json"))
    if place is not None:
        found = f"{place[:100]!r}: MONAI, in whose format models are kept, would take this for code"
        remedy = "Use a name that begins with a letter or digit."
        raise ManifestError(manifest.path, found, remedy)


def _read_volumes(manifest: Manifest) -> Volumes:
    """Measure every label, to stratify by; nothing where the manifest sets the split itself."""
    labels = {case.name: case.label for case in manifest.cases if case.split is None and case.label}
    volumes: dict[str, dict[str, float]] = {}
    if not labels:
        return volumes
    for name, path in track(labels.items(), "Reading labels", len(labels)):
        try:
            label_map = read_label_map(path, manifest.study)
        except PipelineError:
            # Named with its remedy when images and labels are read, right after this.
            continue
        volumes[name] = volumes_ml(label_map.labels_IJK, label_map.grid, manifest.labels)
    return volumes


def _read_all_cases(
    manifest: Manifest, split: Split, config: RunConfig, onlooker: Onlooker
) -> Fingerprint:
    """Read every case once, so that a bad one stops the run now and not when it is validated.

    Returns:
        The fingerprint of the training cases.
    """
    training = {case.name for case in split.train}
    cases = (*split.train, *split.validation)
    readings = with_warnings(read_cases(cases, manifest, manifest.study, "Reading"), manifest)
    of_training = (each for each in onlooker.over(readings) if each[0].name in training)
    return _fingerprint(of_training, manifest, config)


def _read_for_folds(
    manifest: Manifest, config: RunConfig, onlooker: Onlooker
) -> tuple[Fingerprint, Volumes]:
    """Read every case once, for the fingerprint of all and the volumes of their labels."""
    volumes = {}

    def measured() -> Iterator[Reading]:
        readings = read_cases(manifest.cases, manifest, manifest.study, "Reading")
        for reading in onlooker.over(with_warnings(readings, manifest)):
            case, _, label_map = reading
            volumes[case.name] = volumes_ml(label_map.labels_IJK, label_map.grid, manifest.labels)
            yield reading

    return _fingerprint(measured(), manifest, config), volumes


def _fingerprint(readings: Iterable[Reading], manifest: Manifest, config: RunConfig) -> Fingerprint:
    volumes = ((study.volume, label_map) for _, study, label_map in readings)
    try:
        return take_fingerprint(volumes, config.seed, manifest.ignore_value)
    except ValueError as error:
        remedy = "Check the labels with `trivox check`."
        raise ManifestError(manifest.path, str(error), remedy) from error
