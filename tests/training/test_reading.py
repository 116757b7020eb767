import pytest

from pipeline.errors import ManifestError
from pipeline.training.data import adopt_reading, open_manifest


def test_what_the_run_sets_goes_before_the_manifest(make_config, tmp_path):
    config = make_config(
        tmp_path, "study.non_finite=repair", "preprocessing.normalisation.T1=percentile"
    )
    manifest = open_manifest(config)
    assert manifest.study.non_finite == "repair"
    assert [channel.scheme for channel in manifest.channels] == ["percentile", "zscore_robust"]


def test_a_run_keeps_how_its_data_was_read(make_config, tmp_path):
    config = adopt_reading(make_config(tmp_path, "preprocessing.normalisation.T1=none"))
    schemes = {"T1": "none", "T2": "zscore_robust"}
    assert config.preprocessing.normalisation == schemes
    assert adopt_reading(config) == config


def test_files_elsewhere_need_the_permission(make_config, tmp_path):
    table = tmp_path / "set" / "cases.csv"
    table.parent.mkdir()
    table.write_text("image\n../a.nii\n")
    words = (f"data.manifest={table}", "data.phantom=", "data.root=")
    with pytest.raises(ManifestError, match="--allow-outside"):
        open_manifest(make_config(tmp_path, *words))
    assert open_manifest(make_config(tmp_path, *words, "data.allow_outside=true"))


def test_a_run_of_an_earlier_version_keeps_its_normalisation(make_config, tmp_path):
    config = make_config(tmp_path, "preprocessing.normalisation.T1=none")
    config.folder.mkdir(parents=True)
    recorded = config.folder / "config.yaml"
    recorded.write_text("preprocessing: {spacing_mm: null}\n")
    assert adopt_reading(config).preprocessing.normalisation == {
        "T1": "none",
        "T2": "zscore_nonzero",
    }
    for text in ("preprocessing: {normalisation: {}}\n", "", "preprocessing: [", "preprocessing:"):
        recorded.write_text(text)
        assert adopt_reading(config).preprocessing.normalisation["T2"] == "zscore_robust"
