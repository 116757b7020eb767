"""Measure admission: false alarms on good studies, catches on broken ones; write admission.md.

    taskset -c 1 python -m benchmarks.admission [--data FOLDER]

FOLDER holds `Task04_Hippocampus` and `cases`, real studies; without it the phantoms are measured.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.admission_corruptions import CORRUPTIONS, in_ras_order
from benchmarks.common import machine, table
from pipeline.fingerprint import Fingerprint, take_fingerprint
from pipeline.gate import AdmissionConfig, Finding, Modality, admit
from pipeline.phantom.cohort import make_study
from pipeline.study import Study, read_study
from pipeline.study.header import header_from_grid
from pipeline.volume import LabelMap, Volume

PAGE = Path(__file__).with_suffix(".md")
SEED = 20240
FOLDS = 5
GOOD = "**good, as it is**"
OTHER = "another modality and body part"

REAL_CT = (
    "totalseg/example_ct.nii.gz", "totalseg/example_ct_sm.nii.gz",
    "elastix/Baselines/3DCT_lung.mha", "elastix/Data/3DCT_lung_baseline_small.mha",
    "innereye/patch_sampling/scan_small.nii.gz",
    "ivadomed/ct_scan/sub-spleen2/ct/sub-spleen2_ct.nii.gz",
    "tptbox_spine/sample_ct/sub-ct_label-22_ct.nii.gz",
)  # fmt: skip
REAL_MR = (
    "ivadomed/sub-unf01/anat/sub-unf01_T1w.nii.gz", "ivadomed/sub-unf01/anat/sub-unf01_T2w.nii.gz",
    "nibabel/someones_anatomy.nii.gz", "niftijs/avg152T1_LR_nifti.nii.gz", "niivue/MR_Gd.nii.gz",
    "pyradiomics/brain1_image.nrrd", "pyradiomics/breast1_image.nrrd", "sct/t1/t1w.nii.gz",
    "sct/t2/t2.nii.gz", "simplecrf/2013_12_1_img.nii.gz", "totalseg/example_mr_sm.nii.gz",
)  # fmt: skip


@dataclass
class Tally:
    """What became of studies."""

    verdicts: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)

    def add(self, findings: Sequence[Finding]) -> None:
        """Count one study."""
        verdicts = {finding.verdict for finding in findings}
        kind = "rejected" if "reject" in verdicts else "warned" if verdicts else "passed"
        self.verdicts[kind] += 1
        self.checks.update(sorted({finding.check for finding in findings}))

    def cells(self) -> list[str]:
        """Return the cells of a table: rejected, warned, passed, and which checks spoke."""
        counts = [str(self.verdicts[kind]) for kind in ("rejected", "warned", "passed")]
        return [*counts, ", ".join(f"{name} {n}" for name, n in self.checks.most_common(4))]


@dataclass(frozen=True)
class Split:
    """A fingerprint, and studies that it has not seen."""

    fingerprint: Fingerprint
    studies: Sequence[Volume]


def split_of(training: Sequence[Volume], studies: Sequence[Volume]) -> Split:
    """Take the fingerprint of some volumes, to be tried on others."""
    cases = [
        (volume, LabelMap(np.ones(volume.data_CIJK.shape[1:], np.uint8), volume.affine))
        for volume in training
    ]
    return Split(take_fingerprint(cases, 0), studies)


def folds(volumes: Sequence[Volume]) -> list[Split]:
    """Each fifth against the fingerprint of the others."""
    return [
        split_of([v for n, v in enumerate(volumes) if n % FOLDS != fold], volumes[fold::FOLDS])
        for fold in range(FOLDS)
    ]


def ask(volume: Volume, split: Split, modality: Modality) -> tuple[Finding, ...]:
    """Put a volume before the gate."""
    study = Study("case", volume, header_from_grid(volume.grid), (), ())
    modalities = [modality] * len(volume.data_CIJK)
    return admit(study, split.fingerprint, modalities, AdmissionConfig())


def section(
    title: str, splits: Sequence[Split], modality: Modality, others: Sequence[Volume]
) -> Iterator[str]:
    """Yield a table of what happens to good, broken and foreign studies."""
    tallies: dict[str, Tally] = {GOOD: Tally()}
    told = [
        {} if split.fingerprint.look is None or split.fingerprint.look.template is None
        else split.fingerprint.look.template.votes
        for split in splits
    ]  # fmt: skip
    for split in splits:
        for volume in split.studies:
            tallies[GOOD].add(ask(volume, split, modality))
            upright = in_ras_order(volume)
            for name, corrupt in CORRUPTIONS[modality].items():
                found = ask(corrupt(upright), split, modality)
                tallies.setdefault(name, Tally()).add(found)
        for volume in others:
            tallies.setdefault(OTHER, Tally()).add(ask(volume, split, modality))
    flips = {"R": "LAS", "A": "RPS", "S": "RAI"}
    can = [f"{axis} in {sum(code in each for each in told)}" for axis, code in flips.items()]
    headings = ["study", "rejected", "warned", "passed", "checks that spoke (studies)"]
    yield from (
        f"## {title}",
        "",
        f"Of {len(splits)} fingerprint(s), a flip along these axes can be told: {', '.join(can)}; "
        f"of the 47 wrong orientations {statistics.mean(map(len, told)):.0f} on average.",
        "",
        *table(headings, [[name, *tally.cells()] for name, tally in tallies.items()]),
        "",
    )


def few_cases(volumes: Sequence[Volume], modality: Modality, name: str) -> Iterator[list[str]]:
    """Yield rows: false alarms by the number of training cases."""
    for num in (1, 3, 5, 8, 12, 24):
        tally = Tally()
        for start in range(0, len(volumes), max(1, len(volumes) // 4)):
            turned = [*volumes[start:], *volumes[:start]]
            split = split_of(turned[:num], turned[num:])
            for volume in split.studies:
                tally.add(ask(volume, split, modality))
        yield [name, str(num), *tally.cells()]


def leave_one_out(folder: Path, names: Sequence[str], modality: Modality) -> Iterator[list[str]]:
    """Yield a row for each file: against the fingerprint of all the others."""
    volumes = [read_study([folder / name], case="c", num_channels=1).volume for name in names]
    for n, name in enumerate(names):
        others = [volume for other, volume in enumerate(volumes) if other != n]
        found = ask(volumes[n], split_of(others, [volumes[n]]), modality)
        texts = [f"{finding.verdict}: {finding.check}, {finding.found}" for finding in found]
        yield [modality, name.split("/")[0], "; ".join(texts) or "passed"]


def timing(small: Volume, split: Split, modality: Modality) -> Iterator[str]:
    """Yield the lines on what the gate costs."""
    rng = np.random.default_rng(0)
    data = rng.integers(-1000, 1000, (1, 800, 512, 512), np.int16).astype(np.float32)
    # In memory as NIfTI files are: the first axis runs fastest.
    large = Volume(data.transpose(0, 3, 2, 1), np.diag([0.8, 0.8, 1.0, 1.0]))
    rows = []
    for volume, rounds in ((small, 200), (large, 3)):
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            ask(volume, split, modality)
            seconds.append(time.perf_counter() - start)
        shape = " x ".join(str(n) for n in volume.data_CIJK.shape[1:])
        rows.append([shape, f"{1000 * statistics.median(seconds):.1f}"])
    yield from ("## Time", "", *table(["voxels", "ms (median)"], rows), "")


def phantoms(kind: str, num: int) -> list[Volume]:
    """Make synthetic studies."""
    scans = [make_study("ct" if kind == "ct" else "mr", SEED, n) for n in range(num)]
    return [Volume(scan.data_CIJK.astype(np.float32), scan.grid.affine) for scan in scans]


def page(data: Path | None) -> Iterator[str]:
    """Yield the lines of the page."""
    ct, mr = phantoms("ct", 48), phantoms("mr", 24)
    yield from _INTRODUCTION
    yield from (f"Measured on {machine()}.", "")
    heads = [Volume(volume.data_CIJK[:1], volume.affine) for volume in mr]
    phantom = split_of(ct[:24], ct[24:])
    yield from section("Phantom CT: 24 train, 24 others", [phantom], "CT", heads)
    doubled = [Volume(np.concatenate([v.data_CIJK] * 2), v.affine) for v in ct[:12]]
    yield from section(
        "Phantom MR, two channels: 12 train, 12 others",
        [split_of(mr[:12], mr[12:])],
        "MR",
        doubled,
    )
    rows = [*few_cases(ct, "CT", "phantom CT")]
    small, split, modality = ct[30], phantom, "CT"
    if data is not None:
        paths = sorted((data / "Task04_Hippocampus" / "imagesTr").glob("hippo*.nii.gz"))
        crops = [read_study([path], case="c", num_channels=1).volume for path in paths]
        splits = folds(crops)
        small, split, modality = crops[0], splits[0], "MR"
        yield from section(
            f"Hippocampus (real MR crops): {len(crops)} in five folds", splits, "MR", ct[:8]
        )
        for kind in ("fixed", "moving"):
            found = sorted((data / f"cases/deepreg/paired/train/{kind}_images").glob("*.nii.gz"))
            volumes = [read_study([path], case="c", num_channels=1).volume for path in found]
            title = f"Prostate ({kind} images of 20 pairs, 8 bits, real): five folds"
            yield from section(title, folds(volumes), "MR", ct[:8])
        rows += few_cases(crops, "MR", "hippocampus")
    headings = ["data", "training cases", "rejected", "warned", "passed", "checks"]
    yield from (
        "## Good studies, by the number of training cases",
        "",
        *table(headings, rows),
        "",
    )
    if data is not None:
        rows = [*leave_one_out(data / "cases", REAL_CT, "CT")]
        rows += leave_one_out(data / "cases", REAL_MR, "MR")
        yield from (
            "## Real studies of all kinds, each against the others of its modality",
            "",
            "Lungs, spleens, spines, whole trunks; heads, breasts, necks: no cohort that anyone "
            "would train on, but each is a sound study that must not be refused.",
            "",
            *table(["modality", "source", "findings"], rows),
            "",
        )
    yield from timing(small, split, modality)


_INTRODUCTION = (
    "# Admission: false alarms and catches",
    "",
    "Each study goes through the gate of a model that has not seen it: as it is, and broken in "
    "many ways (`admission_corruptions.py`). Written by `python -m benchmarks.admission`. No "
    "threshold was fitted study by study, but the constants were chosen with these data at hand.",
    "",
    "What cannot be told:",
    "",
    "- Flips and exchanged axes of what looks alike from both sides (the phantom head). Where "
    "training cases do not tell them, nothing is said.",
    "- Over-smoothed images: within what scanners and reconstructions do.",
    "- A factor on MR intensities is no error, the network scales them itself; so normalised MR "
    "only warns. A constant added to MR whose scale is large beside it passes.",
    "- Every second slice left out, with the header to match, is a thicker scan. Without, it shows "
    "by the field of view, if training's hardly varies, or by the texture, if it is strong.",
    "- A flip along an axis that the model was trained on mirrored along is no error either; here "
    "no model was.",
    "- Cropping warns, and is refused if hardly anything is left of the usual field of view.",
    "",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with Task04_Hippocampus and cases")
    options = parser.parse_args()
    torch.set_num_threads(1)
    PAGE.write_text("\n".join(page(options.data)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
