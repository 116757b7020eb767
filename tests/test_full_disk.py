"""`trivox segment` onto a disk that is really full: what stops it, and how it goes on.

The disk is a small one in memory, which a process may mount for itself where the system lets users
have namespaces of their own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.journal import Journal
from pipeline.model import save_model
from pipeline.output import read_provenance
from tests.tiny import tiny_model

REPOSITORY = Path(__file__).parent.parent
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]
DISK_BYTES, ROOMS_KB = 2**20, (60, 180, 300)
"""Too little for the journal; for the masks of some studies; for those of some more."""

NUM_STUDIES = 12


def can_mount():
    if shutil.which("unshare") is None:
        return False
    words = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="nothing can be mounted here")
def test_a_full_disk_blames_no_study_and_with_space_the_same_command_ends_whole(tmp_path):
    prepare(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size={DISK_BYTES} tmpfs '{disk}' && "
        f"exec '{sys.executable}' -m tests.test_full_disk '{tmp_path}'"
    )
    words = [*OWN_MOUNTS, "sh", "-c", script]
    finished = subprocess.run(
        words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr


def prepare(folder):
    """Write a model and studies."""
    save_model(tiny_model(), folder / "model")
    (folder / "in").mkdir()
    for number in range(NUM_STUDIES):
        voxels = np.random.default_rng(number).normal(100, 20, (24, 24, 24)).astype(np.float32)
        path = folder / "in" / f"s{number}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def fill(disk, room_kb):
    """Leave so much space on the disk."""
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize - 1024 * room_kb))


def states(out):
    journal = Journal(out, is_reader=True)
    found = [entry.state for entry in journal.entries()] if journal.last_run() else []
    journal.close()
    return found


def check_whole(out):
    """Make sure that masks are what their provenance says, and that nothing else is there."""
    finished = sorted(out.glob("*_seg.json"))
    for path in finished:
        for record in read_provenance(path).outputs.values():
            assert type(record).of(out / record.name) == record
    assert not list(out.rglob(".writing-*"))
    return len(finished)


def segment_onto(disk, folder):
    """Fill the disk, segment, make room, segment again; return how many were done on the way."""
    out, nums_done = disk / "out", []
    words = ["segment", str(folder / "in"), "--model", str(folder / "model"), "--out", str(out)]
    words += ["--device", "cpu", "--probabilities"]
    for room_kb in ROOMS_KB:
        shutil.rmtree(out, ignore_errors=True)
        fill(disk, room_kb)
        assert main(words) != 0
        found = states(out)
        assert "failed" not in found, "no study is to blame"
        assert "rejected" not in found
        nums_done.append(found.count("done"))
        (disk / "ballast").unlink()
        assert main(words) == 0
        assert states(out) == ["done"] * NUM_STUDIES
        assert check_whole(out) == NUM_STUDIES
    return nums_done


if __name__ == "__main__":
    nums_done = segment_onto(Path(sys.argv[1]) / "disk", Path(sys.argv[1]))
    assert any(0 < number < NUM_STUDIES for number in nums_done), nums_done
