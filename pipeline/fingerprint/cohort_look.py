"""What the training cases look like together; what new studies are compared with."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from pipeline.fingerprint.appearance import ChannelLook, Look, Spread
from pipeline.fingerprint.template import Template, make_template

AlongAxes = tuple[Spread, Spread, Spread]


class ChannelSpread(BaseModel):
    """How one channel spreads over the training cases: `ChannelLook`, number by number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    percentile_00_5: Spread
    percentile_05: Spread
    percentile_50: Spread
    percentile_95: Spread
    percentile_99_5: Spread
    spread: Spread
    offset: Spread
    gap: Spread
    share_lowest: Spread
    share_highest: Spread
    share_air: Spread
    share_bone: Spread


class CohortLook(BaseModel):
    """How the training cases look: only numbers over all of them, and their mean picture.

    Attributes:
        size_mm: Shape times spacing along R, A, S, in mm.
        shear_degrees: Deviation of the voxel axes from right angles.
        roughness: Of the roughest axis and channel.
        texture: Roughness along R, A, S relative to their mean, of the first channel.
        largest_jump: Of the axis and channel with the largest.
        doubled_slices: Share of slices like the one before, of the worst axis and channel; so with
            `made_up_slices`, the mean of their neighbours, and `empty_slices`, of one value.
        channels: Intensities of each.
        template: The mean picture, where there are enough cases for one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_mm: AlongAxes
    shear_degrees: Spread
    roughness: Spread
    texture: AlongAxes
    largest_jump: Spread
    doubled_slices: Spread
    made_up_slices: Spread
    empty_slices: Spread
    channels: tuple[ChannelSpread, ...]
    template: Template | None = None


def describe_looks(looks: Sequence[Look]) -> CohortLook:
    """Describe the training cases together, at least one."""
    return CohortLook(
        size_mm=_along([look.size_mm for look in looks]),
        shear_degrees=Spread.of([look.shear_degrees for look in looks]),
        roughness=Spread.of([look.roughness for look in looks]),
        texture=_along([look.channels[0].texture for look in looks]),
        largest_jump=Spread.of([look.largest_jump for look in looks]),
        doubled_slices=Spread.of([look.share_of_slices("doubled") for look in looks]),
        made_up_slices=Spread.of([look.share_of_slices("made_up") for look in looks]),
        empty_slices=Spread.of([look.share_of_slices("empty") for look in looks]),
        channels=tuple(
            _describe_channel(channels)
            for channels in zip(*(look.channels for look in looks), strict=True)
        ),
        template=make_template([[each.cube_RAS for each in look.channels] for look in looks]),
    )


def _describe_channel(looks: Sequence[ChannelLook]) -> ChannelSpread:
    low, p05, middle, p95, high = zip(*(look.quantiles for look in looks), strict=True)
    return ChannelSpread(
        percentile_00_5=Spread.of(low),
        percentile_05=Spread.of(p05),
        percentile_50=Spread.of(middle),
        percentile_95=Spread.of(p95),
        percentile_99_5=Spread.of(high),
        spread=Spread.of([look.spread for look in looks]),
        offset=Spread.of([look.offset for look in looks]),
        gap=Spread.of([look.gap for look in looks]),
        share_lowest=Spread.of([look.share_lowest for look in looks]),
        share_highest=Spread.of([look.share_highest for look in looks]),
        share_air=Spread.of([look.share_air for look in looks]),
        share_bone=Spread.of([look.share_bone for look in looks]),
    )


def _along(rows: Sequence[tuple[float, float, float]]) -> AlongAxes:
    r, a, s = (Spread.of(values) for values in zip(*rows, strict=True))
    return r, a, s
