import pytest

from pipeline.manifest.sides import mirrored_sides, sides_named


@pytest.mark.parametrize(
    ("name", "axis", "words"),
    [
        ("kidney_left", "R", ("left",)),
        ("hippocampus_l", "R", ("l",)),
        ("LungR", "R", ("r",)),
        ("left1", "R", ("left",)),
        ("L1", "R", ()),
        ("liver", "R", ()),
        ("anterior", "A", ("anterior",)),
        ("upper lobe", "S", ("upper",)),
    ],
)
def test_words_of_sides(name, axis, words):
    assert sides_named(name, axis) == words


def test_mirrored_sides_come_with_the_setting_that_keeps_the_other_axes():
    (text,) = mirrored_sides(["kidney_r", "kidney_l", "liver"], ["R", "A"])
    assert "'kidney_r' (r), 'kidney_l' (l)" in text
    assert text.endswith("augmentation.flip_axes=[A]")
    assert list(mirrored_sides(["kidney_l", "kidney_r"], ["A", "S"])) == []
    assert list(mirrored_sides(["liver"], ["R", "A", "S"])) == []
