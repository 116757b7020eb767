from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from pipeline.config import build_config, load_config, override_settings
from pipeline.errors import ConfigError
from pipeline.training import RunConfig

CONFIGS = Path(__file__).parent.parent / "configs"
TEXT = """
name: small
data:
  manifest: data.yaml
training:
  max_minutes: 15
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def path(write):
    return write(TEXT)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_of_the_repository_loads(path):
    config = load_config(RunConfig, path)
    assert config.name == path.stem


def test_a_file_is_read_and_words_override_it(path):
    words = ["training.max_minutes=0.5", "training.patch_size=[32, 64, 32]", "data.root=here"]
    words += ["network.features=[8, 16, 32]", "device=cpu", "augmentation.flip_axes=[R]"]
    config = load_config(RunConfig, path, words)
    assert config.name == "small"
    assert config.training.max_minutes == 0.5
    assert config.training.patch_size == (32, 64, 32)
    assert config.data.root == Path("here")
    assert config.network.features == (8, 16, 32)
    assert config.device == "cpu"
    assert config.augmentation.flip_axes == ("R",)


def test_the_last_of_two_words_holds(path):
    config = load_config(RunConfig, path, ["seed=1", "seed=2"])
    assert config.seed == 2


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_numbers_may_be_written_as_usual(path, text):
    assert (
        load_config(RunConfig, path, [f"training.learning_rate={text}"]).training.learning_rate
        == 0.001
    )


def test_a_word_without_value_unsets(path):
    words = ["training.max_minutes=", "training.max_epochs=3"]
    training = load_config(RunConfig, path, words).training
    assert (training.max_minutes, training.max_epochs) == (None, 3)


def test_a_word_may_replace_a_source_of_data(path):
    words = ["data.manifest=", "data.root=here", "data.phantom.kind=mr"]
    config = load_config(RunConfig, path, words)
    assert config.data.phantom is not None
    assert config.data.phantom.kind == "mr"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sed=1", r"run\.yaml: sed: no such key\. Did you mean seed\? Valid: name, output, seed"),
        (
            "training.max_minuts=1",
            r"training\.max_minuts: no such key\. Did you mean max_minutes\?",
        ),
        (
            "data.phantom.num_trian=1",
            r"data\.phantom\.num_trian: no such key\. Did you mean num_train\? Valid: kind",
        ),
        ("zzz=1", r"zzz: no such key\. Valid: name"),
        (
            "postprocessing.rules=[{label: organ, keep_largst: 1}]",
            r"rules\.0\.keep_largst: no such key\. Did you mean keep_largest\?",
        ),
        ("training.batch_size=two", r"training\.batch_size: .*whole number.*\(found 'two'\)"),
        (
            "training.batch_size=0",
            r"training\.batch_size: .*greater than or equal to 1 \(found 0\)",
        ),
        ("training.optimizer=adam", r"training\.optimizer: .*'adamw' or 'sgd' \(found 'adam'\)"),
        ("training.patch_size=[64, 64]", r"training\.patch_size: .*more values"),
        ("training.patch_size=[60, 64, 64]", r"patch_size=\[60, 64, 64\] must be multiples of 8"),
        ("training.max_minutes=", r"training: set a budget: max_minutes, max_iterations or"),
        ("data.manifest=", r"data: set either data\.manifest or data\.phantom"),
        ("data.phantom.kind=ct", r"data: set either data\.manifest or data\.phantom"),
        ("data.fold=9", r"data: data\.fold=9, but folds are numbered 0\.\.4"),
        ("name=", r"name: .*text \(found nothing\)"),
        ("name=a/b", r"name: .*match pattern.*\(found 'a/b'\)"),
        ("training=5", r"training: .*\(found 5\)"),
        ("name.first=x", r"name\.first=x: name has no settings below it\. Give the key"),
        ("training.max_minutes.x=1", r"max_minutes has no settings below it"),
        (
            "training.patch_size=[1",
            r"training\.patch_size=\[1: not YAML: did not find expected .* Quote it\.",
        ),
    ],
)
def test_what_is_wrong_with_a_setting_is_one_readable_line(path, word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(RunConfig, path, [word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ndata: {manifest: m}\n", r"run\.yaml: training is missing\. Set training in"),
        ("{}", r"run\.yaml: name is missing\. Set name in the file or as name="),
        (
            "# nothing\n",
            r"run\.yaml: holds nothing, not keys and values\. Write it as those in configs/",
        ),
        ("name: a\nname: b\n", r"run\.yaml:2: key 'name' appears twice\. Keep one"),
        ("name: a\n  data: [b\n", r"run\.yaml:2: not YAML: .*\. Correct the line"),
        ("name: 'a\n", r"run\.yaml:\d: not YAML"),
        ("- a\n- b\n", r"run\.yaml: holds a list, not keys and values"),
        ("just words", r"holds text, not keys and values"),
        ("name: a\ntraning: {max_epochs: 1}\n", r"traning: no such key\. Did you mean training\?"),
        (TEXT + "1: a\n", r"run\.yaml: 1: .*text for its keys"),
        (
            "name: !!python/object:os.system x\n",
            r"run\.yaml:1: not YAML: could not determine",
        ),
        ("name: \x07\n", r"run\.yaml: not YAML: "),
    ],
)
def test_what_is_wrong_with_a_file_is_one_readable_line(write, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(RunConfig, write(text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_names_those_that_are(path, write, tmp_path):
    write(TEXT, "other.yaml")
    with pytest.raises(
        ConfigError, match=r"rnu\.yaml: no such file\. Con.*other\.yaml, .*run\.yaml"
    ):
        load_config(RunConfig, tmp_path / "rnu.yaml")
    with pytest.raises(ConfigError, match=r"no such file\. Configurations in that folder: none"):
        load_config(RunConfig, tmp_path / "nowhere" / "run.yaml")


def test_a_folder_or_binary_file_is_no_configuration(tmp_path):
    (tmp_path / "image.nii.gz").write_bytes(bytes(range(128, 256)))
    for path in (tmp_path, tmp_path / "image.nii.gz"):
        with pytest.raises(ConfigError, match=r"cannot be read \(a folder|is not UTF-8 text"):
            load_config(RunConfig, path)


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    limit: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    study: Inner = Inner()
    network: Inner = Inner()


def test_settings_are_overridden_where_that_is_allowed():
    settings = Outer(network=Inner(limit=3.0))
    changed = override_settings(settings, ["study.limit=2"], ["study"])
    assert changed == Outer(study=Inner(limit=2.0), network=Inner(limit=3.0))
    assert settings.study.limit == 1.0
    assert override_settings(settings, [], ["study"]) == settings


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "network.limit=2",
            r"network\.limit=2: this setting cannot be changed here\. Those of study",
        ),
        ("study.limits=2", r"settings: study\.limits: no such key\. Did you mean limit\?"),
        ("study.limit=much", r"settings: study\.limit: .*a number.*\(found 'much'\)"),
    ],
)
def test_other_settings_are_not_overridden(word, message):
    with pytest.raises(ConfigError, match=message):
        override_settings(Outer(), [word], ["study", "inference"])


def test_a_tree_without_file_names_its_place():
    with pytest.raises(ConfigError, match=r"trivox evaluate: limit: .*a number"):
        build_config(Inner, {}, ["limit=x"], where="trivox evaluate")
