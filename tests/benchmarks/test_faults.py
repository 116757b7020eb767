"""The page of `python -m benchmarks.faults`, from figures made by hand."""

from dataclasses import asdict

import pytest

from benchmarks import faults
from benchmarks.faults_ground import Count, Loop, masks, num_equal, states


def part(*loops, commit="abc1234"):
    return {"commit": commit, "machine": "a machine", "loops": [asdict(loop) for loop in loops]}


def killed(number):
    counts = [Count("kills", None, 12), Count("masks equal", 24, number)]
    return Loop("killed", "It was killed.", counts, seconds=71.2)


def test_what_differs_is_marked_and_the_exit_code_says_so():
    right, wrong = part(killed(24)), part(killed(23))
    assert faults.is_right(right)
    assert not faults.is_right(wrong)
    page = "\n".join(
        faults.page_of({"cohort": wrong, "disk": part(Loop("full", "", skipped="no root"))})
    )
    assert "Commit abc1234, a machine." in page
    assert "It was killed. 71 s." in page
    assert "| kills |  | 12 |  |" in page
    assert "| masks equal | 24 | 23 | **differs** |" in page
    assert "Skipped: no root." in page


def test_a_part_that_was_done_at_this_commit_is_not_done_again(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(faults, "PAGE", tmp_path / "faults.md")
    monkeypatch.setattr(faults, "FIGURES", tmp_path / "faults.json")
    monkeypatch.setattr(faults, "commit_now", lambda: "abc1234")
    asked = []

    def run_part(name, budget_s, model):
        asked.append((name, budget_s))
        yield killed(24)
        if name == "disk" and asked.count(("disk", 60.0)) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "run_part", run_part)
    monkeypatch.setattr("sys.argv", ["faults", "--part", "cohort", "disk", "--minutes", "1"])
    with pytest.raises(KeyboardInterrupt):
        faults.main()
    assert faults.read_figures(tmp_path / "faults.json")["disk"]["commit"] == "abc1234, in part"
    with pytest.raises(SystemExit) as ended:
        faults.main()
    assert ended.value.code == 0
    assert [name for name, _ in asked] == ["cohort", "disk", "disk"]
    assert "## disk" in capsys.readouterr().out


def test_what_is_counted_is_read_from_the_output_folder(tmp_path):
    assert states(tmp_path) == {}
    (tmp_path / "cohort.csv").write_text("case,status\na,done\nb,failed\nc,done\n")
    assert states(tmp_path) == {"done": 2, "failed": 1}
    (tmp_path / "a_seg.nii.gz").write_bytes(b"1")
    (tmp_path / "b_seg.nii.gz").write_bytes(b"2")
    found = masks(tmp_path)
    assert num_equal(found, {**found, "b_seg.nii.gz": "other"}) == 1
