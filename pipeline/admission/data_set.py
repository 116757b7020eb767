"""Check a data set: each case by itself, and beside the others as a model would see it."""

from pipeline.admission.peers import Peers
from pipeline.manifest import Finding, Manifest, check_manifest
from pipeline.study import StudyConfig
from pipeline.transforms import LabelWatch


def check_data_set(manifest: Manifest, config: StudyConfig | None = None) -> list[Finding]:
    """Report what `check_manifest` does, which cases differ, and what becomes of their labels.

    Args:
        manifest: The data set.
        config: How studies are read, if not as the manifest says.
    """
    peers = Peers([channel.modality for channel in manifest.channels])
    labels = LabelWatch(manifest)
    findings = check_manifest(manifest, config, peers.add, labels.see)
    return findings + peers.findings() + labels.cropped() + labels.thinned()
