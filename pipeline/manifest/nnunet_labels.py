"""Read the labels of an nnU-Net v2 data set: exclusive ones, regions, and an ignore label.

Source:
    https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/region_based_training.md and
    ignore_label.md beside it.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import ManifestError
from pipeline.manifest.annotation import check_ignore_value, check_regions
from pipeline.manifest.case import Region
from pipeline.manifest.rules import foreground_labels

Values = int | tuple[int, ...]

IGNORE = "ignore"
"""The name that nnU-Net reserves."""


def read_nnunet_labels(
    entries: Mapping[str, Values], order: tuple[int, ...] | None, path: Path
) -> tuple[dict[str, int], int | None, tuple[Region, ...]]:
    """Return label names and values, the ignored value, and regions if the data set has any.

    Where one entry lists several values, all of them are regions, as in nnU-Net. A value that no
    entry names alone is a label called by its number, such as `"label 2"`.

    Args:
        entries: The key `labels`.
        order: The key `regions_class_order`: the value that each region writes.
        path: The `dataset.json`, for errors.

    Raises:
        ManifestError: If labels, regions or the ignored value do not hold.
    """
    where = f"{path}: labels"
    values = {name: _as_tuple(value) for name, value in entries.items()}
    ignored = values.pop(IGNORE, None)
    if ignored is not None and len(ignored) != 1:
        raise ManifestError(
            where, f"label 'ignore' has {len(ignored)} values", "Give ignored voxels one value."
        )
    empty = [name for name, listed in values.items() if not listed]
    if empty:
        raise ManifestError(where, f"region {empty[0]!r} has no values", "List those it has.")
    regions = {name: listed for name, listed in values.items() if listed != (0,)}
    has_regions = any(len(listed) > 1 for listed in regions.values())
    # A value may be shared among regions, but a second name for one by itself stays an error.
    named = [(name, listed[0]) for name, listed in values.items() if len(listed) == 1]
    if has_regions:
        alone = {value for _, value in named}
        shared = sorted({value for listed in regions.values() for value in listed} - alone - {0})
        named += [(f"label {value}", value) for value in shared]
    labels = foreground_labels(named, where)
    ignore_value = check_ignore_value(ignored[0] if ignored else None, labels, where)
    if not has_regions:
        return labels, ignore_value, ()
    return labels, ignore_value, _regions(regions, order, labels, path)


def _as_tuple(value: Values) -> tuple[int, ...]:
    return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else (value,)


def _regions(
    values: Mapping[str, tuple[int, ...]],
    order: tuple[int, ...] | None,
    labels: Mapping[str, int],
    path: Path,
) -> tuple[Region, ...]:
    where = f"{path}: regions_class_order"
    if order is None or len(order) != len(values):
        found = "is missing" if order is None else f"has {len(order)} values"
        raise ManifestError(
            where,
            f"the key {found}, and there are {len(values)} regions",
            "List the value that each region writes, in the order of the labels.",
        )
    name_of = {value: name for name, value in labels.items()}
    for name, listed in values.items():
        if 0 in listed:
            raise ManifestError(
                f"{path}: labels", f"region {name!r} holds background (0)", "Leave the 0 out."
            )
    unknown = [value for value in order if value not in name_of]
    if unknown:
        listed_values = ", ".join(map(str, name_of))
        raise ManifestError(where, f"no region has value {unknown[0]}", f"Use {listed_values}.")
    regions = (
        Region(name, tuple(name_of[value] for value in listed), name_of[written])
        for (name, listed), written in zip(values.items(), order, strict=True)
    )
    return check_regions(regions, labels, where)
