"""What was otherwise when a mask was recorded, and can explain that it comes out otherwise now."""

from collections.abc import Mapping

from pipeline.report import Provenance

_NO_VOXELS = ("trivox", "dicom")
"""Settings that decide no voxel, or are among the versions."""


def list_differences(recorded: Provenance, again: Provenance) -> tuple[str, ...]:
    """Return, in words, in what the making of two masks differed, other than input and model."""
    pairs: list[tuple[str, object, object]] = [
        ("device", recorded.device, again.device),
        ("arithmetic", recorded.arithmetic, again.arithmetic),
    ]
    # What an older version did not record cannot be compared.
    pairs += [
        (name, recorded.environment[name], again.environment[name])
        for name in recorded.environment.keys() & again.environment.keys()
    ]
    pairs += _each(recorded.versions, again.versions)
    settings = [
        {name: value for name, value in side.recipe.settings.items() if name not in _NO_VOXELS}
        for side in (recorded, again)
    ]
    pairs += [(f"settings of {name}", one, other) for name, one, other in _each(*settings)]
    return tuple(
        f"{name}: {one} when it was recorded, {other} now"
        for name, one, other in sorted(pairs, key=lambda pair: pair[0])
        if one != other
    )


def _each(
    one: Mapping[str, object], other: Mapping[str, object]
) -> list[tuple[str, object, object]]:
    names = one.keys() | other.keys()
    return [(name, one.get(name, "none"), other.get(name, "none")) for name in names]
