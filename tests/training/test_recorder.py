import csv

import matplotlib.image
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.training.recorder import EpochMetrics, Recorder, draw_curves, read_metrics


def row(epoch, loss=None, dice=None):
    return EpochMetrics(
        epoch=epoch,
        iteration=10 * epoch,
        elapsed_s=1.5 * epoch,
        learning_rate=0.01 / epoch,
        loss=1 / (epoch + 2) if loss is None else loss,
        wait_share=0.25,
        validation_dice=dice,
    )


def record(folder, rows, resume_at=0):
    recorder = Recorder(folder, resume_at)
    for each in rows:
        recorder.add(each)
    recorder.close()


def scalars(folder, name):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_metrics_are_a_table_that_reads_back_exactly(tmp_path):
    rows = [row(1, loss=1 / 3), row(2, dice=2 / 3)]
    record(tmp_path, rows)
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [
        "epoch", "iteration", "elapsed_s", "learning_rate", "loss", "wait_share",
        "validation_dice",
    ]  # fmt: skip
    assert [line["iteration"] for line in table] == ["10", "20"]
    assert [line["validation_dice"] for line in table] == ["", repr(2 / 3)]
    assert float(table[0]["loss"]) == 1 / 3
    assert read_metrics(tmp_path / "metrics.csv") == rows


def test_each_epoch_is_on_disk_at_once(tmp_path):
    recorder = Recorder(tmp_path, 0)
    recorder.add(row(1))
    assert read_metrics(tmp_path / "metrics.csv") == [row(1)]
    recorder.close()


def test_rows_beyond_the_point_of_resuming_are_dropped(tmp_path):
    record(tmp_path, [row(1), row(2), row(3)])
    record(tmp_path, [row(3, loss=9.0)], resume_at=25)
    assert read_metrics(tmp_path / "metrics.csv") == [row(1), row(2), row(3, loss=9.0)]


def test_tensorboard_shows_the_scalars_and_no_dropped_ones(tmp_path):
    record(tmp_path, [row(1), row(2, dice=0.5), row(3)])
    assert scalars(tmp_path, "loss") == [
        (10, pytest.approx(1 / 3)), (20, pytest.approx(1 / 4)), (30, pytest.approx(1 / 5)),
    ]  # fmt: skip
    assert scalars(tmp_path, "validation_dice") == [(20, pytest.approx(0.5))]
    assert scalars(tmp_path, "learning_rate")[0] == (10, pytest.approx(0.01))
    record(tmp_path, [row(3, loss=9.0)], resume_at=20)
    assert [step for step, _ in scalars(tmp_path, "loss")] == [10, 20, 30]
    assert scalars(tmp_path, "loss")[-1] == (30, 9.0)


@pytest.mark.parametrize("dice", [None, 0.5])
def test_curves_are_a_picture(drawn_pictures, tmp_path, dice):
    draw_curves([row(1), row(2, dice=dice), row(3, dice=dice)], tmp_path / "curves.png")
    picture = matplotlib.image.imread(tmp_path / "curves.png")[..., :3]
    assert picture.shape == (550, 880, 3)
    colours = np.unique((picture.reshape(-1, 3) * 255).astype(np.uint8), axis=0)
    for colour in [(31, 119, 180), (127, 127, 127), (255, 127, 14)]:  # loss, rate, Dice
        assert (colours == colour).all(axis=1).any(), colour


def test_a_recorder_of_another_rank_touches_nothing(tmp_path):
    recorder = Recorder(tmp_path, 0, enabled=False)
    recorder.add(row(1))
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_draws_the_curves_of_what_there_is(drawn_pictures, tmp_path):
    record(tmp_path / "empty", [])
    assert not (tmp_path / "empty" / "curves.png").exists()
    assert not (tmp_path / "empty" / "metrics.csv").exists()
    record(tmp_path / "run", [row(1)])
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000


def test_an_epoch_that_a_killed_run_wrote_already_is_written_once(tmp_path):
    record(tmp_path, [row(1), row(2)])
    record(tmp_path, [row(2, loss=9.0)], resume_at=20)
    assert read_metrics(tmp_path / "metrics.csv") == [row(1), row(2, loss=9.0)]
