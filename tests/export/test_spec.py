"""Who follows the declaration with other tools gets the masks of `trivox segment`."""

import itertools
import json

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from scipy import ndimage, special

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.export.onnx import onnx_spec, write_onnx
from pipeline.inputs import find_studies
from pipeline.manifest import Region
from pipeline.manifest.scheme import SCHEMES
from pipeline.postprocessing import Rule
from pipeline.transforms import ChannelNormalisation
from pipeline.transforms.preprocess import normalise as trivox_normalise

CT = ChannelNormalisation(kind="ct", low=-200, high=400, mean=100, std=100)
MR = ChannelNormalisation(kind="mr")
REGIONS = (Region("whole", ("organ", "lesion"), "organ"), Region("core", ("lesion",), "lesion"))


def crop_of(data, spacing, spec):
    """Return the slices of the crop."""
    ct = np.array([kind == "ct" for kind in spec["foreground"]])[:, None, None, None]
    foreground = np.where(ct, data > spec["air_hu"], data != 0).any(axis=0)
    slices = []
    for axis in range(3):
        margin = int(np.ceil(spec["margin_mm"] / spacing[axis]))
        along = np.flatnonzero(foreground.any(axis=tuple({0, 1, 2} - {axis})))
        slices.append(slice(max(along[0] - margin, 0), along[-1] + 1 + margin))
    return tuple(slices)


def axis_maps(shape, spacing, spec):
    """Return number of working voxels, offset and step of each axis."""
    maps = []
    for n, own, wanted in zip(shape, spacing, spec["spacing_mm"], strict=True):
        step = wanted / own
        if abs(step - 1) < spec["same_spacing"]:
            maps.append((n, 0, 1))
            continue
        m = max(1, round(n / step))
        maps.append((m, (n - 1) / 2 - step * (m - 1) / 2, step))
    return maps


def read_at(data, positions):
    where = np.meshgrid(*positions, indexing="ij")
    return ndimage.map_coordinates(data, where, order=1, mode="nearest", output=np.float64)


def normalise(data, spec):
    if spec["method"] == "clip_and_scale":
        return (np.clip(data, spec["low"], spec["high"]) - spec["mean"]) / spec["std"]
    match spec["method"]:
        case "z_score":
            return (data - data.mean()) / (data.std() or 1)
        case "percentiles_to_0_1":
            low, high = np.percentile(data, spec["percentiles"])
            return (np.clip(data, low, high) - low) / (high - low)
        case "range_to_0_1":
            return (data - data.min()) / (data.max() - data.min())
        case "divide":
            return data / spec["by"]
        case "none":
            return data
        case "z_score_of_bulk":
            low, high = np.percentile(data[data != 0], spec["percentiles"])
            bulk = data[(data != 0) & (data >= low) & (data <= high)]
            clipped = np.clip(data, low - (high - low), high + (high - low))
            return np.where(data == 0, 0, (clipped - bulk.mean()) / bulk.std())
    nonzero = data != 0
    result = data.copy()
    result[nonzero] = (data[nonzero] - data[nonzero].mean()) / (data[nonzero].std() or 1)
    return result


def run_windows(data, spec, session):
    size = np.array(spec["size"])
    missing = np.maximum(size - data.shape[1:], 0)
    before = missing // 2
    pads = [(0, 0), *zip(before, missing - before, strict=True)]
    data = np.pad(data, pads, mode="edge")
    starts = [
        sorted({min(start, n - w) for start in range(0, max(n - w, 0) + step, step)})
        for n, w, step in zip(data.shape[1:], size, spec["step"], strict=True)
    ]
    along = [
        np.exp(-((np.arange(w) - (w - 1) / 2) ** 2) / (2 * (spec["gaussian_sigma"] * w) ** 2))
        for w in size
    ]
    weights = np.einsum("i,j,k->ijk", *along).clip(spec["smallest_weight"])
    total, weight = 0, np.zeros(data.shape[1:])
    for corner in itertools.product(*starts):
        box = tuple(slice(s, s + w) for s, w in zip(corner, size, strict=True))
        window = data[(slice(None), *box)].astype(np.float32)[None]
        logits = session.run(["logits"], {"image": window})[0][0]
        padded = np.zeros((len(logits), *data.shape[1:]))
        padded[(slice(None), *box)] = logits * weights
        total, weight[box] = total + padded, weight[box] + weights
    inside = tuple(
        slice(b, b + n - m) for b, n, m in zip(before, data.shape[1:], missing, strict=True)
    )
    return (total / weight)[(slice(None), *inside)]


def follow(folder, paths):
    """Segment as the README says."""
    spec = json.loads((folder / "preprocessing.json").read_text())
    session = onnxruntime.InferenceSession(folder / spec["network"]["file"])
    images = [nib.as_closest_canonical(nib.load(path)) for path in paths]
    data = np.stack([image.get_fdata() for image in images])
    spacing = np.linalg.norm(images[0].affine[:3, :3], axis=0)
    crop = crop_of(data, spacing, spec["crop"])
    cropped = data[(slice(None), *crop)]
    maps = axis_maps(cropped.shape[1:], spacing, spec["resample"])
    there = [offset + step * np.arange(m) for m, offset, step in maps]
    working = np.stack(
        [
            normalise(read_at(channel, there), how)
            for channel, how in zip(cropped, spec["normalise"], strict=True)
        ]
    )
    logits = run_windows(working, spec["windows"], session)
    activate = {"softmax": lambda x: special.softmax(x, axis=0), "sigmoid": special.expit}
    probabilities = activate[spec["activation"]](logits)
    back = [
        (np.arange(n) - offset) / step
        for n, (_, offset, step) in zip(cropped.shape[1:], maps, strict=True)
    ]
    shares = np.stack([read_at(probability, back) for probability in probabilities])
    values = np.array(spec["restore"]["values"])
    if spec["restore"]["method"] == "most_probable":
        labels = values[shares.argmax(axis=0)]
    else:
        labels = np.zeros(shares.shape[1:], int)
        for value, share in zip(values, shares, strict=True):
            labels[share > spec["restore"]["threshold"]] = value
    whole = np.full(data.shape[1:], spec["restore"]["outside"])
    whole[crop] = labels
    original = nib.load(paths[0])
    to_ras = nib.io_orientation(original.affine)
    back_again = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], to_ras)
    native = nib.orientations.apply_orientation(whole, back_again)
    voxel = abs(np.linalg.det(original.affine[:3, :3]))
    return clean_up(native, spec["components"], voxel)


def clean_up(labels, rules, voxel_mm3):
    cleaned = labels.copy()
    for rule in rules:
        components, number = ndimage.label(labels == rule["value"], np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel(), minlength=number + 1)[1:]
        for index, size in enumerate(sizes, start=1):
            small = size * voxel_mm3 < rule["min_volume_mm3"]
            rank = np.count_nonzero(sizes > size) + np.count_nonzero(sizes[: index - 1] == size)
            if small or (rule["keep_largest"] is not None and rank >= rule["keep_largest"]):
                cleaned[components == index] = 0
    return cleaned


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_the_declaration_is_enough(make_model, save_study, tmp_path, kind):
    if kind == "labels":
        rules = (Rule(label="*", min_volume_mm3=30), Rule(label="lesion", keep_largest=2))
        model = make_model(channels=(CT, MR), mirror_axes=("R",), rules=rules)
    else:
        model = make_model("light_unet", channels=(MR,), regions=REGIONS)
    num_channels = len(model.description.channels)
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    paths = [save_study(scans / f"a_000{n}.nii.gz", seed=n) for n in range(num_channels)]
    (tmp_path / "onnx").mkdir()
    write_onnx(model, tmp_path / "onnx")
    found = follow(tmp_path / "onnx", paths)
    studies = find_studies([scans], num_channels=num_channels, out=masks)
    segment_cohort(studies, model, masks, SegmentOptions(), torch.device("cpu"))
    expected = np.asarray(nib.load(masks / f"{studies[0].case}_seg.nii.gz").dataobj)
    assert set(np.unique(expected)) == {0, 4, 9}
    # Other tools round otherwise; that decides only where two labels are as probable.
    assert np.count_nonzero(found != expected) <= 5


@pytest.mark.parametrize("kind", SCHEMES)
def test_each_scheme_is_declared(make_model, kind):
    data = np.random.default_rng(0).normal(100, 30, (9, 8, 7)).astype(np.float32).clip(1, 250)
    data[:3], data[5, 5, 5] = 0, 250
    channel = ChannelNormalisation(kind=kind, low=60, high=140, mean=90, std=20)
    (declared,) = onnx_spec(make_model(channels=(channel,)).description)["normalise"]
    expected = trivox_normalise(torch.from_numpy(data), channel).numpy()
    np.testing.assert_allclose(normalise(data, declared), expected, atol=1e-5)


def test_it_is_plain_json(make_model):
    spec = onnx_spec(make_model().description)
    assert json.loads(json.dumps(spec)) == spec
    assert spec["windows"]["step"] == [8, 8, 4]
    assert spec["left_out"] == []
    assert spec["channels"] == [{"name": "C0", "modality": "CT"}]
    assert spec["network"]["outputs"] == ["background", "organ", "lesion"]
