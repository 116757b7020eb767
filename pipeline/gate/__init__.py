"""Whether a model may segment a study: compared with what the model was trained on, before it does.

A finding warns or rejects. In doubt it warns: a good study that is turned away is a study lost, and
whoever looks at a warning loses a minute.
"""

from pipeline.gate.candidate import Action, AdmissionConfig, rejection
from pipeline.gate.check import admit, check_volumes, weigh
from pipeline.gate.peers import Peers, check_data_set
from pipeline.manifest import Modality
from pipeline.study.findings import Finding, Verdict

__all__ = [
    "Action",
    "AdmissionConfig",
    "Finding",
    "Modality",
    "Peers",
    "Verdict",
    "admit",
    "check_data_set",
    "check_volumes",
    "rejection",
    "weigh",
]
