"""The rules for what label maps leave open: ignored voxels, regions, cases in part, codes."""

from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Region
from pipeline.manifest.codes import SegmentCode
from pipeline.manifest.rules import nearest
from pipeline.volume import LARGEST_LABEL


def check_ignore_value(value: int | None, labels: Mapping[str, int], where: object) -> int | None:
    """Return the value of ignored voxels.

    Raises:
        ManifestError: If it is background's, a label's, or out of range.
    """
    if value is None:
        return None
    if not 1 <= value <= LARGEST_LABEL:
        raise ManifestError(
            where,
            f"ignored voxels have the value {value}",
            f"0 is background: use a value from 1 to {LARGEST_LABEL} that no label has.",
        )
    taken = [name for name, used in labels.items() if used == value]
    if taken:
        raise ManifestError(
            where,
            f"ignored voxels and label {taken[0]!r} both have the value {value}",
            "Give ignored voxels a value of their own.",
        )
    return value


def check_regions(
    regions: Iterable[Region], labels: Mapping[str, int], where: object
) -> tuple[Region, ...]:
    """Return regions after holding them to the rules.

    Raises:
        ManifestError: If a name appears twice, is empty, or is that of a label that the region
            does not stand for; a region has no labels, or one that is unknown; or it writes a label
            that is not its own or that another region writes.
    """
    checked: dict[str, Region] = {}
    written_by: dict[str, str] = {}
    for region in regions:
        _check_region_name(region, checked, labels, where)
        if not region.labels:
            raise ManifestError(
                where, f"region {region.name!r} has no labels", "List what it is made of."
            )
        _check_known((*region.labels, region.writes), labels, f"{where}: region {region.name!r}")
        if region.writes not in region.labels:
            raise ManifestError(
                where,
                f"region {region.name!r} writes {region.writes!r}, which is none of its labels",
                f"Use one of: {', '.join(region.labels)}.",
            )
        if region.writes in written_by:
            raise ManifestError(
                where,
                f"regions {written_by[region.writes]!r} and {region.name!r} both write "
                f"{region.writes!r}",
                "Let each region write a label that tells it from the others.",
            )
        checked[region.name] = region
        written_by[region.writes] = region.name
    return tuple(checked.values())


def check_annotated(cases: Iterable[Case], labels: Mapping[str, int], where: object) -> None:
    """Refuse cases that annotate a label that the data set does not have.

    Raises:
        ManifestError: Naming the case, the label, and the known one nearest to it.
    """
    for case in cases:
        _check_known(case.annotated or (), labels, f"{where}: annotated labels of {case.name}")


def check_codes(
    codes: Mapping[str, SegmentCode], labels: Mapping[str, int], where: object
) -> dict[str, SegmentCode]:
    """Return codes after making sure that each is that of a label.

    Raises:
        ManifestError: Naming the unknown label, and the known one nearest to it.
    """
    _check_known(tuple(codes), labels, str(where))
    return dict(codes)


def _check_region_name(
    region: Region, others: Mapping[str, Region], labels: Mapping[str, int], where: object
) -> None:
    if not region.name.strip() or region.name.strip().lower() == "background":
        raise ManifestError(
            where, f"a region is called {region.name!r}", "Name the structure that it is."
        )
    if region.name in others:
        raise ManifestError(
            where, f"region {region.name!r} appears twice", "Give each region a name of its own."
        )
    if region.name in labels and set(region.labels) != {region.name}:
        raise ManifestError(
            where,
            f"region {region.name!r} has the name of a label, but is more than that label",
            "Give the region another name.",
        )


def _check_known(names: Sequence[str], labels: Mapping[str, int], where: str) -> None:
    for name in names:
        if name not in labels:
            raise ManifestError(where, f"unknown label {name!r}", nearest(name, labels))
