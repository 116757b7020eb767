"""The data set of a run, and how it is read."""

from pathlib import Path

from pipeline.errors import TrainingError
from pipeline.manifest import Manifest, load_manifest, with_settings
from pipeline.outside import read_yaml
from pipeline.phantom import make_cohort
from pipeline.training.config import CONFIG, RunConfig


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
