"""Links that lead out are refused where that was asked for, whatever they lead to."""

from pipeline.inputs import DataRoot, find_studies
from tests.dicom_files import make_series, save_series, voxels

HEADER = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"


def refusals(inputs, **where):
    found = find_studies(inputs, num_channels=1, out=None, data=DataRoot(**where))
    return {study.case: study.refusal for study in found}


def test_links_are_followed_and_counted_in_one_line(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "x.nii").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii").symlink_to("../else/x.nii")
    (tmp_path / "in" / "folder").symlink_to("../else")
    assert refusals([tmp_path / "in"]) == {"a": None, "x": None}
    assert "2 links lead out of the input folder (1 of them to folders)" in caplog.text
    found = refusals([tmp_path / "in"], no_links=True)
    assert found.pop("a").startswith("a link leads out of the input folder. ")
    ((name, text),) = found.items()
    assert name.startswith("folder_")
    assert text.startswith("a folder is a link that leads out of the input folder. ")


def test_raw_voxels_behind_a_link_are_refused(tmp_path):
    (tmp_path / "else.raw").write_bytes(bytes(8))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.mhd").write_text(HEADER)
    (folder / "a.raw").symlink_to(tmp_path / "else.raw")
    assert refusals([folder]) == {"a": None}
    assert "leads out" in refusals([folder], no_links=True)["a"]
    assert "leads out" in refusals([folder / "a.mhd"], no_links=True)["a"]


def test_a_series_that_is_partly_links_is_refused_whole(tmp_path):
    slices = save_series(make_series(voxels()), tmp_path / "in")
    (tmp_path / "else").mkdir()
    moved = slices[-1].rename(tmp_path / "else" / "x")
    slices[-1].symlink_to(moved)
    ((_, plain),) = refusals([tmp_path / "in"]).items()
    assert plain is None
    found = refusals([tmp_path / "in"], no_links=True)
    assert len(found) == 2
    assert sorted(text.split(" lead")[0].split(" are ")[0] for text in found.values()) == [
        "1 file(s) of a folder",
        "links beside its files",
    ]


def test_links_within_the_folder_are_no_matter(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x.bin").write_bytes(b"x")
    (tmp_path / "a.nii").symlink_to("store/x.bin")
    assert refusals([tmp_path], no_links=True) == {"a": None}


def test_a_manifest_takes_no_voxels_from_outside_its_data(tmp_path):
    (tmp_path / "else.raw").write_bytes(bytes(8))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.mhd").write_text(HEADER)
    (folder / "a.raw").symlink_to(tmp_path / "else.raw")
    series = save_series(make_series(voxels()), folder / "series")
    series[0].rename(tmp_path / "slice")
    series[0].symlink_to(tmp_path / "slice")
    (folder / "cases.csv").write_text("case,image\na,a.mhd\nb,series\n")
    found = refusals([folder / "cases.csv"])
    assert all("lie out of the data folder, behind a link" in text for text in found.values())
    assert refusals([folder / "cases.csv"], allow_outside=True) == {"a": None, "b": None}


def test_a_manifest_may_use_a_store_of_its_own(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "voxels").write_bytes(bytes(8))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.mhd").write_text(HEADER)
    (tmp_path / "images" / "a.raw").symlink_to("../store/voxels")
    (tmp_path / "cases.csv").write_text("case,image\na,images/a.mhd\n")
    assert refusals([tmp_path / "cases.csv"]) == {"a": None}
