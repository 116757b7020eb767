"""Check a data set: each case by itself, and beside the others as a model would see it."""

from pipeline.admission.peers import Peers
from pipeline.manifest import Finding, Manifest, check_manifest
from pipeline.study import StudyConfig


def check_data_set(manifest: Manifest, config: StudyConfig | None = None) -> list[Finding]:
    """Report what `check_manifest` does, and which cases differ from the others.

    Args:
        manifest: The data set.
        config: How studies are read, if not as the manifest says.
    """
    peers = Peers([channel.modality for channel in manifest.channels])
    findings = check_manifest(manifest, config, peers.add)
    return findings + peers.findings()
