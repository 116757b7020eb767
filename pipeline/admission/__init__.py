"""Whether a model may segment a study: compared with what the model was trained on, before it does.

A finding warns or rejects. In doubt it warns: a good study that is turned away is a study lost, and
whoever looks at a warning loses a minute.
"""

from pipeline.admission.admit import admit, weigh
from pipeline.admission.candidate import rejection
from pipeline.admission.config import Action, AdmissionConfig
from pipeline.admission.data_set import check_data_set
from pipeline.admission.peers import Peers
from pipeline.admission.volumes import check_volumes
from pipeline.findings import Finding, Verdict
from pipeline.manifest import Modality

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
