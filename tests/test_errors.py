import pickle
import sys

import pytest

from pipeline import errors
from pipeline.errors import (
    ConfigError,
    ManifestError,
    ModelError,
    PipelineError,
    StudyError,
    TrainingError,
    packages_needed,
)

KINDS = [ConfigError, ManifestError, ModelError, StudyError, TrainingError]


def test_text_is_where_found_remedy(tmp_path):
    error = StudyError(tmp_path / "a.nii", "file is empty", "Copy the file again.")
    assert str(error) == f"{tmp_path}/a.nii: file is empty. Copy the file again."
    assert (error.where, error.found) == (str(tmp_path / "a.nii"), "file is empty")
    assert error.remedy == "Copy the file again."


def test_a_full_stop_is_not_doubled():
    assert str(PipelineError("key", "wrong.", "Mend it.")) == "key: wrong. Mend it."


def test_a_list_that_is_cut_ends_as_such():
    error = PipelineError("key", "values: 1, 2, ...", "Name them.")
    assert str(error) == "key: values: 1, 2, ... Name them."


@pytest.mark.parametrize("kind", KINDS)
def test_one_tree(kind):
    with pytest.raises(PipelineError, match=r"^where: found\. Remedy\.$"):
        raise kind("where", "found", "Remedy.")
    assert kind.__mro__[1] is PipelineError


def test_the_drawing_shows_every_kind():
    for kind in KINDS:
        assert f"      {kind.__name__} " in errors.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_errors_pass_between_processes(kind, tmp_path):
    error = kind(tmp_path, "found.", "Remedy.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    remedy = r"^here: the package highdicom is missing\. Install it: pip install highdicom\.$"
    with pytest.raises(StudyError, match=remedy), packages_needed("here"):
        import highdicom.seg  # noqa: F401
