"""What the exported folders say of themselves, for people: what they carry, and what not.

Exports know two actions, which work on components and whose order is no matter: `keep_largest` and
`min_volume_mm3`. Rules are applied in order, so of a list that holds others they carry the part
before the first of those: later rules would find another label map than the one they were chosen
for. Rules that only warn are passed over. A conditional random field is not carried, but does not
stop the rules.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.export.graph import window_of
from pipeline.model import ModelDescription
from pipeline.postprocessing import EACH_LABEL, Rule
from pipeline.postprocessing.keep import Keep


def keep_rules(description: ModelDescription) -> dict[int, Keep]:
    """Return what components of each label value must be, of the labels with a carried rule."""
    found: dict[int, Keep] = {}
    carried, _ = _divide(description.postprocessing.rules)
    for rule in carried:
        for name, value in description.labels.items():
            if rule.label in (name, EACH_LABEL):
                largest, least_mm3 = found.get(value, Keep(None, 0.0))
                ranks = [n for n in (largest, rule.keep_largest) if n is not None]
                least_mm3 = max(least_mm3, rule.min_volume_mm3 or 0.0)
                found[value] = Keep(min(ranks, default=None), least_mm3)
    return dict(sorted(found.items()))


def declared_rules(description: ModelDescription) -> list[dict[str, Any]]:
    """Return the same for a file."""
    return [
        {"value": value, "keep_largest": rule.largest, "min_volume_mm3": rule.min_volume_mm3}
        for value, rule in keep_rules(description).items()
    ]


def left_out(description: ModelDescription) -> list[str]:
    """Say, one thing each, what of a model's clean-up exports do not carry."""
    config = description.postprocessing
    crf = ["the conditional random field"] if config.crf else []
    _, rest = _divide(config.rules)
    return crf + [f"the rule `{rule}`" for rule in rest]


def _divide(rules: Sequence[Rule]) -> tuple[list[Rule], list[Rule]]:
    """Return the rules that are carried, and the others."""
    carried: list[Rule] = []
    rest: list[Rule] = []
    for rule in rules:
        is_known = rule.keep_largest is not None or rule.min_volume_mm3 is not None
        only_warnings = all(other.volume_ml is not None for other in rest)
        (carried if is_known and only_warnings else rest).append(rule)
    return carried, rest


_BUNDLE = """# {name}: a MONAI Bundle

{what}

## Run it

Needs Python 3.11 or newer, torch {torch} or newer, and monai, nibabel, scipy and fire; nothing is
fetched at run time. In the folder above this file:

    python -m monai.bundle run --config_file configs/inference.json \\
        --dataset_dir SCANS --output_dir MASKS

`SCANS` is a NIfTI file or a folder of them, searched with all below it{channels}. Each mask,
`<case>_seg.nii.gz`, lies on exactly the voxels of its study. A study that cannot be read is named;
the others go on, and the command ends with an error.

Other entries of `configs/inference.json` can be set in the same way: `--precision bf16` (or fp16)
computes faster where the device can, `--non_finite repair` accepts studies with NaN voxels,
`--device cpu` stays off the GPU.

## What it does

The same as `trivox segment` with the same precision. The masks are the same, but where two labels
are equally probable up to rounding either may win, and Trivox computes no windows of air around
the body, where it writes background. Not carried along: Trivox refuses label maps
given in place of images, and volumes of impossible size; this bundle does not look.
{left_out}
| value | label |
|---|---|
{labels}

`scripts/` holds the steps that MONAI has no word for: reading affines in mm, the crop around the
foreground, the working grid centred on it, and the clean-up of components.
"""

_ONNX = """# {name}: an ONNX network

{what}

`network.onnx` maps a batch of windows, `image` (float32; batch, channels, then R, A, S), to
`logits` (float32; batch, outputs, R, A, S). Members of an ensemble and mirrored windows are inside
it. A batch may be of any size; a window has {window} voxels.

`preprocessing.json` says what goes in and what comes out. Follow it from top to bottom:

- `channels`: Read one volume per channel, in this order, all on one grid, as float32, after the
  file's own scaling of intensities.
- `orientation`: Permute and flip the voxel axes so that they run to the patient's right, front and
  head (R, A, S). Do not rotate.
- `crop`: Take the box around all voxels that are foreground in any channel: above `air_hu` where
  `foreground` says ct, other than 0 where it says mr. Widen it by `margin_mm` / the volume's
  spacing on each side, rounded up to whole voxels, as far as the volume goes. A volume without
  foreground is kept whole.
- `resample`: Along each axis, with n voxels in the crop, and step = `spacing_mm` / the volume's
  spacing. If step differs from 1 by less than `same_spacing`, leave the axis as it is (step is 1
  and offset 0 below). Otherwise there are m = max(1, n / step) working voxels, rounded to a whole
  number (halves to even); working voxel w reads the crop at offset + step * w, linearly, repeating
  the border, with offset = (n - 1) / 2 - step * (m - 1) / 2.
- `normalise`, by channel: `clip_and_scale`: clip to `low` and `high`, subtract `mean`, divide by
  `std`. `z_score_of_nonzero`: of the voxels that are not 0, subtract the mean and divide by the
  standard deviation (divided by n, not n - 1; if it is 0, by 1). Zeros stay. `z_score`: the same
  over all voxels. `z_score_of_bulk`: take the two `percentiles` (linearly interpolated) of the
  voxels that are not 0, and the mean and standard deviation of those between; clip to the
  percentiles widened on both sides by what lies between them; subtract that mean and divide by that
  deviation. Zeros stay. `percentiles_to_0_1`: clip to the two `percentiles` of all voxels, which
  become 0 and 1. `range_to_0_1`: the least and the largest value become 0 and 1. `divide`: divide
  by `by`. `none`: leave values as they are.
- `windows`: Where the volume is smaller than a window, repeat its border, on both sides alike (an
  odd voxel behind). Along each axis windows start every `step` voxels, or at 0 alone where the
  volume is as large as a window; one that would go beyond the end is moved back to end with it.
  Add up the windows' logits, weighted by a Gaussian about each window's centre: the product over
  the axes of exp(-d^2 / 2 s^2), with d voxels from the centre and s = `gaussian_sigma` times the
  edge. Weights below `smallest_weight` are raised to it. Divide by the sum of the weights.
- `activation`: `softmax` over the outputs, or `sigmoid` of each.
- `restore`: Bring the probabilities of each output back to the crop, linearly: voxel v reads the
  working grid at (v - offset) / step, repeating the border. `most_probable`: the output with the
  largest value wins, and its entry in `values` is written. `regions`: each output writes its entry
  in `values` where it is above `threshold`, later ones over earlier ones. Where equal values (or
  one that is `threshold`) leave it open, the last of equals counts if it is also what the nearest
  working voxel says (half-way the one behind; there the first of equals), else the first.
  Outside the crop is `outside`. Undo the flips and the permutation.
- `components`: Of each label value listed, drop the components (of voxels that share a face, an
  edge or a corner) that are smaller than `min_volume_mm3`, and all but the `keep_largest` largest,
  unless that is null. Of components of equal size, the one that holds the voxel with the smallest
  index, compared axis by axis in the order of the file, comes first. The measure is that of the
  label map before any were dropped.
- `left_out`: Other parts of Trivox's clean-up, in words, that this file does not declare. Its masks
  differ from yours where those change them.

| value | label |
|---|---|
{labels}
"""


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$]|^[#+_-]|_$")


def in_markdown(name: str) -> str:
    """Return a name so that a page shows it as it is: on one line, no links, no tags.

    Source:
        https://spec.commonmark.org/0.31.2/#backslash-escapes.
    """
    return _MARKUP.sub(r"\\\g<0>", _CONTROL.sub(" ", name))


def _code(what: str) -> str:
    """Return text with one quotation in backticks, of which a name may have more."""
    before, tick, quoted = _CONTROL.sub(" ", what).partition("`")
    return before + tick + quoted.removesuffix("`").replace("`", "'") + tick


def bundle_readme(description: ModelDescription) -> str:
    """Return the README of a bundle."""
    several = "; channels of one study are `<case>_0000.nii.gz`, `<case>_0001.nii.gz`, ..."
    return _BUNDLE.format(
        name=in_markdown(description.name),
        what=_what(description),
        torch=torch.__version__.partition("+")[0],
        channels=several if len(description.channels) > 1 else "",
        labels=_table(description),
        left_out=_left_out(description),
    )


def onnx_readme(description: ModelDescription) -> str:
    """Return the README of an ONNX folder."""
    return _ONNX.format(
        name=in_markdown(description.name),
        what=_what(description),
        window=" x ".join(map(str, window_of(description))),
        labels=_table(description),
    )


def _left_out(description: ModelDescription) -> str:
    missing = left_out(description)
    if not missing:
        return ""
    listed = "\n".join(f"- {_code(what)}" for what in missing)
    return (
        "\nParts of the clean-up are not carried along either. The masks differ from those of "
        f"`trivox segment` where\nthese change or judge them:\n\n{listed}\n"
    )


def _what(description: ModelDescription) -> str:
    channels = ", ".join(f"{in_markdown(c.name)} ({c.modality})" for c in description.channels)
    labels = _listed([in_markdown(name) for name in description.labels])
    return (
        f"Segments {labels} in {channels}. Exported by Trivox. It is a research tool and no "
        "medical device."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _table(description: ModelDescription) -> str:
    by_value = sorted(description.labels.items(), key=lambda item: item[1])
    return "\n".join(
        f"| {value} | {in_markdown(name)} |" for name, value in [("background", 0), *by_value]
    )
