"""The check of what came of a study: are its labels as large as in the training cases?"""

from collections.abc import Iterator, Mapping

from pipeline.admission.config import AdmissionConfig
from pipeline.findings import Finding
from pipeline.transforms import Fingerprint, LabelStatistics


def check_volumes(
    volumes_ml: Mapping[str, float],
    labels: Mapping[str, int],
    fingerprint: Fingerprint,
    config: AdmissionConfig,
) -> tuple[Finding, ...]:
    """Compare the volume of each label with its range over the training cases.

    A volume may lie beyond it by `size_warn_factor`, and more where few cases show a label. A label
    that is missing is odd only if every training case has it.

    Args:
        volumes_ml: Of the study's labels, by name, in ml.
        labels: Name and value of each.
        fingerprint: Of the training cases; what earlier versions did not keep is not looked at.
        config: What to look at, and how far a study may differ.

    Returns:
        One finding for all labels that are outside of their range; empty if none is.
    """
    if config.mode == "off" or config.volume == "off":
        return ()
    known = {label.value: label for label in fingerprint.labels}
    odd = [
        text
        for name, value in labels.items()
        if value in known and name in volumes_ml
        for text in _odd(name, volumes_ml[name], known[value], fingerprint, config)
    ]
    if not odd:
        return ()
    is_refused = config.volume == "reject" and config.mode != "warn"
    finding = Finding(
        check="volume",
        verdict="reject" if is_refused else "warn",
        found="; ".join(odd),
        remedy="Look at the mask, and whether the study shows the whole of what the model is for.",
    )
    return (finding,)


def _odd(
    name: str,
    volume_ml: float,
    label: LabelStatistics,
    fingerprint: Fingerprint,
    config: AdmissionConfig,
) -> Iterator[str]:
    lowest, highest = label.range_ml or (label.volume_ml[0], label.volume_ml[2])
    factor = config.size_warn_factor + config.slack_of_few / label.num_cases
    if volume_ml == 0:
        is_odd = label.num_cases == fingerprint.num_cases
    else:
        is_odd = not lowest / factor <= volume_ml <= highest * factor
    if is_odd:
        found = f"{name} has {_rounded(volume_ml)} ml"
        yield f"{found}, in training {_rounded(lowest)} to {_rounded(highest)} ml"


def _rounded(volume_ml: float) -> str:
    return f"{volume_ml:.0f}" if volume_ml >= 100 else f"{volume_ml:.3g}"
