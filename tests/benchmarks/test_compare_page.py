"""The table and the pictures of `make compare`, from results made by hand."""

import math

import numpy as np
import pytest

from benchmarks.compare_curves import draw_curves
from benchmarks.compare_page import Section, page
from benchmarks.compare_result import MARKER, Point, Result, read_result
from benchmarks.training_page import Figures, loss_section
from pipeline.network import OPTIONS

pytestmark = pytest.mark.usefixtures("drawn_pictures")


def result_of(network, dice, num_points=60):
    curve = tuple(
        Point(
            minutes=3 * (n + 1) / num_points,
            loss=0.1 + 2 * math.exp(-n / 12),
            dice=dice * (1 - math.exp(-n / 8)) if n % 8 == 7 else None,
        )
        for n in range(num_points)
    )
    return Result(
        network=network,
        parameters=1_401_187,
        gflops=9.61,
        iterations=600,
        step_s=0.2345,
        memory_gb=None,
        study_s=0.0517,
        dice=(dice, dice - 0.01, dice + 0.01),
        hd95_mm=math.nan,
        nsd=0.75,
        num_cases=12,
        curve=curve,
    )


def page_of(tmp_path, sections):
    path = tmp_path / "architectures.md"
    return page(sections, path, minutes=3, num_validations=8, num_studies=12)


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_network_has_a_row_finished_failed_or_not_run(tmp_path):
    section = Section(
        "phantom", "Phantom", "make compare", ["unet", "segnet", "fcn"],
        {"unet": result_of("unet", 0.9)}, {"segnet": "out of | memory"},
    )  # fmt: skip
    text = page_of(tmp_path, [section])
    rows = rows_of(text.replace("\\|", "/"))
    assert rows["unet"] == [
        "1.40", "9.6", "600", "0.234", "too few steps", "0.052", "0.900 [0.890, 0.910]", "nan",
        "0.750",
    ]  # fmt: skip
    assert rows["segnet"][0] == "failed: out of / memory"
    assert rows["fcn"][0] == "not run yet"
    assert len({len(row) for row in rows.values()}) == 1
    assert "(architectures_phantom.png)" in text


def test_a_data_set_that_is_not_given_has_a_note_instead_of_a_table(tmp_path):
    text = page_of(tmp_path, [Section("h", "H", "make compare", ["unet"], note="Give DATA.")])
    assert "Give DATA." in text
    assert rows_of(text) == {}


def test_results_survive_the_disk(tmp_path):
    result = result_of("unet", 0.9)
    assert read_result(tmp_path) is None
    (tmp_path / MARKER).write_text(result.model_dump_json())
    found = read_result(tmp_path)
    assert math.isnan(found.hd95_mm)
    assert found.model_copy(update={"hd95_mm": 0.0}) == result.model_copy(update={"hd95_mm": 0.0})


def test_curves_of_all_networks_fit_one_picture(tmp_path):
    results = {
        name: result_of(name, dice)
        for name, dice in zip(OPTIONS, np.linspace(0.95, 0.5, len(OPTIONS)), strict=True)
    }
    draw_curves(results, list(OPTIONS), "Phantom", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_iteration_and_wait_share_by_hand():
    figures = Figures(waits=[0.1, 0.0, 0.2], steps=[0.3, 0.3, 0.1])
    assert figures.iteration_s == pytest.approx(0.3)
    assert figures.wait_share == pytest.approx(0.3)


def test_losses_that_differ_too_much_are_said_to():
    lines = loss_section({"plain, fp32": 1.0, "ours": 0.985, "other": 1.03}, 15, 5)
    assert any("| ours | 0.9850 | -1.50 % | yes |" in line for line in lines)
    assert any("| other | 1.0300 | +3.00 % | **no** |" in line for line in lines)
