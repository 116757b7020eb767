"""A cohort under faults: kills, full disks, an output folder that goes, inputs that change."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import JPEG2000Lossless

from benchmarks.faults_ground import (
    END_S,
    Count,
    Ground,
    Loop,
    finish,
    kill,
    leftovers,
    masks,
    num_equal,
    start,
    states,
)
from pipeline.system.files import sha256_of

NUM_STUDIES = 24


def cohort(ground: Ground) -> Iterator[Loop]:
    """Kill a run at random moments and start it again, until nobody kills it."""
    images = ground.images("in", NUM_STUDIES)
    (images / "cut.nii.gz").write_bytes((images / "s00.nii.gz").read_bytes()[:2000])
    whole, out = ground.folder / "whole", ground.folder / "out"
    began = time.monotonic()
    finish(start(ground.segment(images, whole)))
    least_s = time.monotonic() - began
    reference = masks(whole)
    num_kills = num_torn = 0
    for _ in ground.rounds(14):
        process = start(ground.segment(images, out))
        time.sleep(ground.rng.uniform(0, 0.8 * least_s))
        num_kills += process.poll() is None
        kill(process)
        num_torn += len(masks(out)) - num_equal(masks(out), reference)
    code = finish(start(ground.segment(images, out)))
    found = states(out)
    yield Loop(
        "killed",
        f"`trivox segment` of {NUM_STUDIES} studies and a damaged one was sent SIGKILL at random "
        "moments, and the same command given again; after the last kill it was left alone.",
        [
            Count("kills", None, num_kills),
            Count("masks that were not those of an undisturbed run after a kill", 0, num_torn),
            Count("exit code at the end (1: one was rejected)", 1, _number(code)),
            Count("studies in", None, NUM_STUDIES + 1),
            Count("done + corrected + rejected + failed", NUM_STUDIES + 1, sum(found.values())),
            Count("done", NUM_STUDIES, found["done"]),
            Count(
                "masks equal to an undisturbed run's", NUM_STUDIES, num_equal(masks(out), reference)
            ),
            Count("files left over", 0, leftovers(out)),
        ],
    )


def folder(ground: Ground) -> Iterator[Loop]:
    """Remove the output folder while a run goes on."""
    images = ground.images("in", 12)
    whole = ground.folder / "whole"
    finish(start(ground.segment(images, whole)))
    reference = masks(whole)
    num_rounds = num_zero = num_lies = num_late = num_mended = 0
    for number in ground.rounds(5):
        out = ground.folder / f"out{number}"
        process = start(ground.segment(images, out))
        wanted = ground.rng.randrange(1, 9)
        if not _wait_for(lambda out=out, wanted=wanted: len(masks(out)) >= wanted, process):
            finish(process)
            continue
        shutil.rmtree(out, ignore_errors=True)
        num_rounds += 1
        code = finish(process)
        num_late += code is None
        has_all = len(masks(out)) == 12
        num_zero += code == 0 and not has_all
        num_lies += max(0, states(out)["done"] - len(masks(out)))
        finish(start(ground.segment(images, out)))
        num_mended += num_equal(masks(out), reference) == 12
    yield Loop(
        "output folder removed",
        "The output folder of 12 studies was removed when a few masks were there.",
        [
            Count("removals", None, num_rounds),
            Count("runs that ended with exit code 0 without all masks", 0, num_zero),
            Count("studies that cohort.csv calls done without a mask", 0, num_lies),
            Count(f"runs that did not end within {END_S:.0f} s", 0, num_late),
            Count("complete and equal after the same command", num_rounds, num_mended),
        ],
    )


def replaced(ground: Ground) -> Iterator[Loop]:
    """Replace inputs by others, in one rename each, all the time that a run reads them."""
    versions = [ground.images(name, 12, seed) for name, seed in (("a", 0), ("b", 100))]
    hashes, known = {}, {}
    for folder in versions:
        out = ground.folder / f"{folder.name}_out"
        finish(start(ground.segment(folder, out)))
        for path in folder.iterdir():
            hashes[sha256_of(path)] = folder.name
        for name, digest in masks(out).items():
            known[name, folder.name] = digest
    num_swaps = num_mixed = num_done = num_told = num_silent = 0
    for number in ground.rounds(6):
        live, out = ground.folder / f"live{number}", ground.folder / f"live{number}_out"
        shutil.copytree(versions[0], live)
        process = start(ground.segment(live, out))
        while process.poll() is None:
            source = ground.rng.choice(sorted(ground.rng.choice(versions).iterdir()))
            shutil.copy(source, ground.folder / "next.nii.gz")
            os.replace(ground.folder / "next.nii.gz", live / source.name)  # noqa: PTH105
            num_swaps += 1
            time.sleep(0.005)
        found, rows = masks(out), states(out)
        num_done += len(found)
        num_told += rows["failed"] + rows["rejected"]
        num_silent += 12 - sum(rows.values())
        for name, digest in found.items():
            record = (out / name.replace(".nii.gz", ".json")).read_text(encoding="utf-8")
            said = {
                which for value, which in hashes.items() if value in json.dumps(json.loads(record))
            }
            of = {which for which in "ab" if known.get((name, which)) == digest}
            num_mixed += not (of and said == of)
    yield Loop(
        "input replaced while it is read",
        "Each of 12 studies was replaced by another scan of the same name, and back, every few "
        "milliseconds, as long as the run went on.",
        [
            Count("replacements", None, num_swaps),
            Count("masks", None, num_done),
            Count("studies that failed or were rejected with a reason", None, num_told),
            Count("studies without a row", 0, num_silent),
            Count("masks that are not of the scan whose hash is recorded", 0, num_mixed),
        ],
    )


def disk(ground: Ground) -> Iterator[Loop]:
    """Let the disk of the output folder, and that of temporary files, be full."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        yield Loop("disk full", "", skipped="only root can mount a small tmpfs")
        return
    try:
        with _tmpfs(ground.folder / "probe", "64k"):
            pass
    except subprocess.CalledProcessError:
        yield Loop("disk full", "", skipped="no tmpfs can be mounted here")
        return
    yield _full_out(ground)
    yield _full_tmpdir(ground)


def _full_out(ground: Ground) -> Loop:
    images = ground.images("in", 12)
    finish(start(ground.segment(images, ground.folder / "whole")))
    reference = masks(ground.folder / "whole")
    num_rounds = num_said = num_blamed = num_torn = num_mended = num_zero = 0
    for number in ground.rounds(5):
        size = ("48k", "160k", "256k", "320k", "384k")[number % 5]
        log = ground.folder / f"log{number}"
        with _tmpfs(ground.folder / f"disk{number}", size) as at:
            out = at / "out"
            code = finish(start(ground.segment(images, out), log=log))
            num_rounds += 1
            num_zero += code == 0
            num_said += _says(log, "full", "No space left", "no space is left")
            found = states(out)
            num_blamed += found["failed"] + found["rejected"]
            num_torn += len(masks(out)) - num_equal(masks(out), reference)
            subprocess.run(["mount", "-o", "remount,size=64m", at], check=True)
            code = finish(start(ground.segment(images, out)))
            num_mended += code == 0 and num_equal(masks(out), reference) == 12
    return Loop(
        "disk of the output folder full",
        "The output folder of 12 studies lay on a disk of 48 to 384 kB; then the disk grew.",
        [
            Count("runs", None, num_rounds),
            Count("ended with exit code 0", 0, num_zero),
            Count("said that a disk is full", num_rounds, num_said),
            Count("studies blamed", 0, num_blamed),
            Count("masks that are not those of an undisturbed run", 0, num_torn),
            Count("complete and equal after the same command", num_rounds, num_mended),
        ],
    )


def _full_tmpdir(ground: Ground) -> Loop:
    from pydicom import dcmread

    from tests.pacs.studies import make_study

    folder = ground.folder / "dicom"
    for _ in range(3):
        make_study(folder, num_slices=8)
    for path in folder.rglob("*.dcm"):
        dataset = dcmread(path)
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.save_as(path)
    finish(start(ground.segment(folder, ground.folder / "dicom_whole")))
    num_good = len(masks(ground.folder / "dicom_whole"))
    num_rounds = num_wrong = num_blamed = num_mended = 0
    for number in ground.rounds(3):
        out, log = ground.folder / f"dicom_out{number}", ground.folder / f"dicom_log{number}"
        with _tmpfs(ground.folder / f"tmp{number}", "4k") as at:
            (at / "filler").write_bytes(bytes(4096))
            code = finish(start(ground.segment(folder, out), {"TMPDIR": str(at)}, log))
            num_rounds += 1
            # Whatever needs no such file may be done: then all must be.
            num_wrong += not (_says(log, str(at), "TMPDIR") or len(masks(out)) == num_good)
            found = states(out)
            num_blamed += found["failed"] + found["rejected"]
        code = finish(start(ground.segment(folder, out)))
        num_mended += code == 0 and len(masks(out)) == num_good
    return Loop(
        "disk of temporary files full",
        "TMPDIR lay on a disk of 4 kB that was full; three series in JPEG 2000 were segmented.",
        [
            Count("runs", None, num_rounds),
            Count("neither done nor said that TMPDIR is full", 0, num_wrong),
            Count("studies blamed", 0, num_blamed),
            Count("complete after the same command with room", num_rounds, num_mended),
        ],
    )


@contextmanager
def _tmpfs(at: Path, size: str) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True, capture_output=True
    )
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def _says(log: Path, *texts: str) -> bool:
    said = log.read_text(encoding="utf-8", errors="replace")
    return any(text in said for text in texts)


def _wait_for(is_so: "object", process: "subprocess.Popen[bytes]") -> bool:
    while process.poll() is None:
        if is_so():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def _number(code: int | None) -> int:
    return -1 if code is None else code
