import pytest

from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest import (
    Channel,
    ChannelSchemes,
    Manifest,
    load_manifest,
    study_settings,
    with_settings,
)
from pipeline.study import StudyConfig

NOTHING = ChannelSchemes()
YAML = """name: t
channels: [{name: T1, modality: MR}, {name: ROI, modality: other, normalisation: none}]
labels: {a: 1}
study: {non_finite: repair}
cases: cases.csv
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "cases.csv").write_text("image:T1,image:ROI\na.nii,b.nii\n")
    path = tmp_path / "manifest.yaml"
    path.write_text(YAML)
    return path


def test_the_manifest_says_how_it_is_read(path):
    manifest = load_manifest(path)
    assert manifest.study == StudyConfig(non_finite="repair")
    assert [channel.scheme for channel in manifest.channels] == ["zscore_robust", "none"]


def test_what_is_set_goes_before_the_manifest_and_that_before_defaults(path):
    manifest = load_manifest(path)
    assert with_settings(manifest, StudyConfig(), NOTHING) == manifest
    study = StudyConfig(allow_label_maps=True)
    schemes = ChannelSchemes(normalisation={"ROI": "zscore"})
    changed = with_settings(manifest, study, schemes)
    assert changed.study == StudyConfig(non_finite="repair", allow_label_maps=True)
    assert [channel.scheme for channel in changed.channels] == ["zscore_robust", "zscore"]
    assert with_settings(manifest, StudyConfig(non_finite="refuse"), NOTHING).study == StudyConfig()


def test_a_manifest_without_settings_can_be_given_some(tmp_path):
    manifest = Manifest(tmp_path, "t", "", "", "", (Channel("x", "CT"),), {}, ())
    assert manifest.study == StudyConfig()
    schemes = ChannelSchemes(normalisation={"x": "percentile"})
    assert with_settings(manifest, StudyConfig(), schemes).channels[0].scheme == "percentile"


def test_an_unknown_channel_is_told_with_the_nearest(path):
    schemes = ChannelSchemes(normalisation={"ROl": "none"})
    with pytest.raises(ConfigError, match=r"normalisation\.ROl: .*Use one of: ROI, T1"):
        with_settings(load_manifest(path), StudyConfig(), schemes)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("non_finite: repair", "non_finit: repair", "Did you mean 'non_finite'"),
        ("normalisation: none", "normalisation: nothing", "channels.1.normalisation"),
    ],
)
def test_a_mistyped_setting_is_an_error(path, old, new, expected):
    path.write_text(YAML.replace(old, new))
    with pytest.raises(ManifestError, match=expected):
        load_manifest(path)


def test_several_manifests_must_agree(path, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(YAML.replace("non_finite: repair", "max_voxels: 9"))
    inputs = [path, tmp_path, tmp_path / "cases.csv", tmp_path / "none.yaml", other]
    assert study_settings(inputs) == {"non_finite": "repair", "max_voxels": 9}
    other.write_text(YAML.replace("repair", "refuse"))
    with pytest.raises(ConfigError, match=r"study\.non_finite is refuse, but repair in another"):
        study_settings(inputs)
