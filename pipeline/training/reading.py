"""The data set of a run, and how it is read."""

from pipeline.manifest import Manifest, load_manifest, with_settings
from pipeline.phantom import make_cohort
from pipeline.training.config import RunConfig


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

    It is kept with the run, so that a manifest that changes meanwhile is noticed.
    """
    manifest = open_manifest(config)
    schemes = {channel.name: channel.scheme for channel in manifest.channels}
    preprocessing = config.preprocessing.model_copy(update={"normalisation": schemes})
    return config.model_copy(update={"study": manifest.study, "preprocessing": preprocessing})
