import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import check, main
from pipeline.errors import ConfigError, StudyError


@pytest.fixture
def run_with(monkeypatch):
    """Run `trivox check x` with a verb that does something else."""

    def run(verb, *words):
        monkeypatch.setattr(check, "check", verb)
        return main.main(["check", "x", *words])

    return run


def test_a_setting_may_be_longer_than_the_name_of_a_file(run_with):
    word = f"postprocessing.rules=[{', '.join(['{label: liver}'] * 30)}]"
    assert run_with(lambda options: options.overrides != [word], word) == 0


def test_errors_are_one_line_without_traceback(run_with, capsys):
    def refuse(options):
        raise StudyError("a.nii", "empty file", "Copy it again.")

    assert run_with(refuse) == 1
    assert capsys.readouterr().err == "trivox: a.nii: empty file. Copy it again.\n"


def test_a_configuration_error_ends_with_2(run_with):
    def refuse(options):
        raise ConfigError("x.yaml", "no such file", "Name one.")

    assert run_with(refuse) == 2


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(run_with, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    assert run_with(interrupt) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_settings_may_stand_anywhere_whatever_lies_on_the_disk(run_with, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").touch()
    seen = []
    words = ("x.y=1", "./a=b", "--verbose", "a=b")
    assert run_with(lambda options: seen.append(options) or 0, *words) == 0
    assert seen[0].overrides == ["x.y=1", "a=b"]
    assert seen[0].inputs == [Path("x"), tmp_path / "a=b"]


def test_a_setting_that_is_none_may_be_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub=1.nii").touch()
    assert main.main(["check", "sub=1.nii", "x"]) == 2
    assert "A file of this name is ./sub=1.nii." in capsys.readouterr().err


def test_libraries_are_quiet_and_ours_is_heard(caplog):
    main.set_up_logging(verbose=False)
    for name in ("ignite.engine", "matplotlib.font_manager"):
        assert not logging.getLogger(name).isEnabledFor(logging.ERROR)
    assert logging.getLogger("pipeline.cohort").isEnabledFor(logging.INFO)
    assert not logging.getLogger("pipeline.cohort").isEnabledFor(logging.DEBUG)
    main.set_up_logging(verbose=True)
    assert logging.getLogger("pipeline.cohort").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_batch_systems_and_terminals_send_ends_like_ctrl_c(run_with, number):
    def terminate(options):
        signal.raise_signal(number)

    assert run_with(terminate) == 130
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_command_that_is_to_outlive_its_terminal_does(run_with):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_with(lambda options: signal.raise_signal(signal.SIGHUP) or 0) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_again_while_it_ends_a_command_has_the_same_code(number):
    command = (
        "import signal, pipeline.cli.main as cli, pipeline.system.surroundings as s;"
        f"s.prepare = lambda _: signal.raise_signal({int(number)});"
        f"code = cli.main(); signal.raise_signal({int(number)})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 130
    assert ended.stderr == "trivox: stopped; run the same command again to go on\n"


def test_a_signal_before_the_words_are_read_is_one_line_too(monkeypatch, capsys):
    def read_slowly():
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("pipeline.cli.parser.build_parser", read_slowly)
    assert main.main(["check", "x"]) == 130
    assert capsys.readouterr().err == "trivox: stopped; run the same command again to go on\n"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENAMETOOLONG, ["/a/b: ", "shorter name"]),
        (errno.EACCES, ["/a/b: ", "permissions"]),
        (errno.EROFS, ["/a/b: ", "can be written to"]),
        (errno.EMFILE, ["/a/b: ", "ulimit -n"]),
        (errno.EIO, ["/a/b: ", "may be failing"]),
        (errno.ESTALE, ["/a/b: ", "Mount its share"]),
        (errno.EDQUOT, ["/a/b: ", "Free space there, and run the same command again."]),
    ],
)
def test_each_refusal_of_the_system_has_its_remedy(run_with, capsys, number, expected):
    def fail(options):
        raise OSError(number, os.strerror(number), "/a/b")

    assert run_with(fail) in (1, 2)
    text = capsys.readouterr().err
    assert all(part in text for part in [os.strerror(number), *expected])


def test_a_time_out_is_no_trouble_with_a_file(run_with, capsys):
    def wait(options):
        raise TimeoutError

    assert run_with(wait) == 1
    text = capsys.readouterr().err
    assert "did not answer in time" in text
    assert "permissions" not in text


def test_trouble_with_files_is_one_line(run_with, tmp_path, capsys):
    def read(options):
        return (tmp_path / "none").read_text()

    assert run_with(read) == 2
    assert f"trivox: {tmp_path / 'none'}: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(), ["trivox check: "]),
        (OSError("5 requested and 2 written"), ["trivox check: ", "5 requested"]),
        (OSError(errno.ENOSPC, "the disk is full", "/out"), ["/out: the disk is full", "Free"]),
        (BlockingIOError(errno.EAGAIN, "try again"), ["trivox check: ", "try again"]),
    ],
)
def test_trouble_of_the_system_names_a_place_and_no_type(run_with, capsys, error, expected):
    def fail(options):
        raise error

    assert run_with(fail) == 1
    text = capsys.readouterr().err
    assert all(part in text for part in expected)
    assert "Error" not in text
    assert "a file:" not in text
