import subprocess
import sys

import numpy as np
import pytest

from pipeline.output import write_picture
from pipeline.volume import Volume

pytestmark = pytest.mark.usefixtures("drawn_pictures")
NAMES = {"liver": 1, "lesion": 2}


def noise(shape, spacing_mm=(1.0, 1.0, 1.0), num_channels=1):
    data = np.random.default_rng(0).normal(100, 10, (num_channels, *shape)).astype(np.float32)
    return Volume(data, np.diag([*spacing_mm, 1.0]))


def box_mask(shape):
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(n // 4, n // 4 + max(1, n // 2)) for n in shape)] = 1
    return labels


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def saturation(path):
    image = pixels(path)
    return image.max(axis=-1) - image.min(axis=-1)


def draw(path, shape=(20, 24, 16), names=NAMES, **options):
    labels = options.pop("labels", box_mask(shape))
    write_picture(noise(shape), labels, names, path, **options)
    return path


def test_a_picture_is_a_png_and_nothing_else_is_left(tmp_path):
    draw(tmp_path / "below" / "a.png")
    assert (tmp_path / "below" / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["a.png"]


def test_the_same_mask_gives_the_same_picture(tmp_path):
    assert draw(tmp_path / "a.png").read_bytes() == draw(tmp_path / "b.png").read_bytes()


def test_labels_show_in_colour_and_an_empty_mask_does_not(tmp_path):
    shape = (20, 24, 16)
    coloured = saturation(draw(tmp_path / "a.png")) > 0.5
    empty = saturation(draw(tmp_path / "b.png", labels=np.zeros(shape, np.uint8))) > 0.5
    assert coloured.sum() > 20 * empty.sum()


def test_the_right_of_the_patient_is_on_the_left_of_the_picture(tmp_path):
    shape = (40, 40, 1)
    labels = np.zeros(shape, np.uint8)
    labels[30:38, 30:38] = 1
    image = pixels(draw(tmp_path / "a.png", shape=shape, labels=labels))
    # Red exceeds blue only where the first label is drawn; the letters' yellow stays at the edges.
    rows, columns = np.nonzero((image[..., 0] > 0.9) & (image[..., 1:].max(axis=-1) < 0.4))
    in_view = rows < image.shape[0] * 0.8
    assert in_view.any()
    assert columns[in_view].mean() < image.shape[1] / 2
    assert rows[in_view].mean() < image.shape[0] * 0.8 / 2


@pytest.mark.parametrize(
    "shape", [(16, 16, 1), (16, 1, 16), (1, 16, 16), (1, 1, 1), (1, 1, 9), (64, 64, 2), (2, 2, 2)]
)
def test_any_shape_has_a_picture(tmp_path, shape):
    assert pixels(draw(tmp_path / "a.png", shape=shape)).size


def test_the_aspect_follows_the_spacing(tmp_path):
    flat, tall = tmp_path / "flat.png", tmp_path / "tall.png"
    shape = (30, 30, 10)
    write_picture(noise(shape, (1, 1, 1)), box_mask(shape), NAMES, flat)
    write_picture(noise(shape, (1, 1, 9)), box_mask(shape), NAMES, tall)
    assert pixels(tall).shape[0] > pixels(flat).shape[0]


def test_a_reference_is_a_second_row(tmp_path):
    shape = (20, 24, 16)
    one = pixels(draw(tmp_path / "a.png", shape=shape)).shape[0]
    two = pixels(draw(tmp_path / "b.png", shape=shape, reference_IJK=box_mask(shape))).shape[0]
    assert 1.5 * one < two < 2 * one


def test_several_channels_show_the_first(tmp_path):
    shape = (8, 8, 8)
    write_picture(noise(shape, num_channels=2), box_mask(shape), NAMES, tmp_path / "a.png")
    write_picture(noise(shape, num_channels=1), box_mask(shape), NAMES, tmp_path / "b.png")
    assert pixels(tmp_path / "a.png").shape == pixels(tmp_path / "b.png").shape


@pytest.mark.parametrize("name", ["_hidden", "$x", "a_$b$_{", "100 % {name}"])
def test_any_label_name_can_stand_in_the_legend(tmp_path, name):
    draw(tmp_path / "a.png", names={name: 1})


def test_more_labels_than_the_legend_holds(tmp_path):
    labels = np.arange(20 * 20 * 2).reshape(20, 20, 2) % 118
    names = {f"organ {index}": index for index in range(1, 118)}
    volume = noise(labels.shape)
    write_picture(volume, labels.astype(np.uint8), names, tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape[0] < 1200


def test_drawing_leaves_no_figure_in_global_state(tmp_path):
    draw(tmp_path / "a.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_importing_the_stage_is_light():
    code = (
        "import sys, pipeline.output; "
        "print([m for m in ('torch', 'monai', 'matplotlib', 'SimpleITK') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
