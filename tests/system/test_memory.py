import subprocess
import sys
import types

import pytest

from pipeline.errors import ConfigError
from pipeline.system.memory import available_bytes, parse_memory, total_bytes

GB = 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of 64 GB, of which 50 are free."""
    memory = types.SimpleNamespace(total=64 * GB, available=50 * GB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)


@pytest.fixture
def make_root(tmp_path):
    """A root folder with files such as `sys/fs/cgroup/memory.max`."""

    def make(groups, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def group_v2(limit, use=0, cache=0):
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{use}\n",
        "memory.stat": f"anon 5\ninactive_file {cache}\nactive_file {cache}\n",
    }


def test_a_container_of_version_2(make_root):
    root = make_root("0::/\n", group_v2(8 * GB, 6 * GB, cache=GB))
    assert total_bytes(root) == 8 * GB
    # The two GB of cached files give way.
    assert available_bytes(root) == 4 * GB


def test_a_job_is_bound_by_the_groups_around_it_too(make_root):
    files = {
        **group_v2("max", 60 * GB),
        **{f"slurm/{name}": text for name, text in group_v2(16 * GB, 15 * GB).items()},
        **{f"slurm/step/{name}": text for name, text in group_v2(20 * GB, GB).items()},
    }
    root = make_root("0::/slurm/step\n", files)
    assert (total_bytes(root), available_bytes(root)) == (16 * GB, GB)


def test_a_container_of_version_1_whose_own_path_is_not_to_be_seen(make_root):
    files = {
        "memory/memory.limit_in_bytes": f"{4 * GB}\n",
        "memory/memory.usage_in_bytes": f"{3 * GB}\n",
        "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB}\n",
    }
    root = make_root("5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/\n", files)
    assert (total_bytes(root), available_bytes(root)) == (4 * GB, 2 * GB)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_no_limit_leaves_the_machines(make_root, limit):
    root = make_root("0::/\n", group_v2(limit, 10 * GB))
    assert (total_bytes(root), available_bytes(root)) == (64 * GB, 50 * GB)


def test_without_control_groups(tmp_path):
    assert (total_bytes(tmp_path), available_bytes(tmp_path)) == (64 * GB, 50 * GB)


def test_a_group_that_is_full_leaves_nothing(make_root):
    assert available_bytes(make_root("0::/\n", group_v2(GB, 2 * GB))) == 0


PAGES_OF_TENSORS = """
import resource, sys, torch
import {module}

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(64, 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{before}
found = [pages() for _ in range(6)]
print(found[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
@pytest.mark.parametrize(
    ("before", "is_reused"),
    [
        ("", False),
        ("pipeline.system.memory.reuse_freed()", True),
        ("with pipeline.training.arithmetic.torch_settings(deterministic=False): pass", True),
    ],
)
def test_tensors_use_the_pages_that_others_left(before, is_reused):
    """Five tensors of 64 MiB have 81,920 pages of 4 KiB, or 160 where those are huge."""
    module = "pipeline.training.arithmetic" if "training" in before else "pipeline.system.memory"
    code = PAGES_OF_TENSORS.format(module=module, before=before)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (int(run.stdout) < 50) == is_reused


KEPT_AND_GIVEN_BACK = """
import psutil, torch
from pipeline.system.memory import give_back_freed, reuse_freed

reuse_freed()
tensors = [torch.zeros(64, 2**20, dtype=torch.uint8) for _ in range(5)]
full = psutil.Process().memory_info().rss
del tensors
kept = psutil.Process().memory_info().rss
give_back_freed()
print(full - kept, full - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_what_is_kept_can_be_given_back():
    """Five tensors of 64 MiB: 336 MB."""
    command = [sys.executable, "-c", KEPT_AND_GIVEN_BACK]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    at_once, in_the_end = map(int, run.stdout.split())
    assert at_once < 100e6
    assert in_the_end > 300e6


@pytest.mark.parametrize(
    ("text", "gb"),
    [("8GB", 8), ("8", 8), ("512MB", 0.512), ("1.5 g", 1.5), ("2GiB", 2.147483648), ("1TB", 1000)],
)
def test_amounts_of_memory(text, gb):
    assert parse_memory(text) == pytest.approx(gb)


@pytest.mark.parametrize("text", ["", "much", "8 apples", "0GB", "-1GB"])
def test_what_is_no_amount_names_the_remedy(text):
    with pytest.raises(ConfigError, match=r"is no amount of memory\. Write it as 8GB"):
        parse_memory(text)
