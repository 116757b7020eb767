import errno
import hashlib
import json
import os
import pickle
import time

import pytest
import safetensors.torch
import torch

from pipeline.errors import ModelError
from pipeline.model import (
    Model,
    copy_model,
    hash_model,
    load_model,
    save_model,
)
from pipeline.model.folder import METADATA, WEIGHTS
from pipeline.network import NetworkConfig, build_network
from tests.model.described import describe

CPU = torch.device("cpu")


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    description = describe(**changes)
    return Model(description, (build_network(description.network, 2, 3).eval(),))


@pytest.fixture
def folder(tmp_path):
    save_model(make_model(), tmp_path / "model")
    return tmp_path / "model"


def outputs(network):
    image = torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return network(image)


# --- There and back ---


def test_loaded_model_gives_identical_outputs(folder):
    saved, loaded = make_model(), load_model(folder, CPU)
    assert loaded.description == saved.description
    assert torch.equal(outputs(loaded.networks[0]), outputs(saved.networks[0]))
    assert not loaded.networks[0].training


def test_every_name_of_a_shared_tensor_is_restored(folder, monkeypatch):
    """Some networks reach a block by two ways, and so name its weights twice."""

    def build(*_):
        network = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 1), torch.nn.Identity())
        network[1].again = network[0]
        return network

    monkeypatch.setattr("pipeline.model.folder.build_network", build)
    saved = build()
    save_model(Model(describe(), (saved,)), folder)
    restored = load_model(folder, CPU).networks[0].state_dict()
    assert restored.keys() == saved.state_dict().keys() >= {"0.weight", "1.again.weight"}
    for name, tensor in saved.state_dict().items():
        assert torch.equal(restored[name], tensor)


def test_weights_in_another_memory_layout(tmp_path):
    model = make_model()
    expected = outputs(model.networks[0])
    model.networks[0].to(memory_format=torch.channels_last_3d)
    save_model(model, tmp_path)
    torch.testing.assert_close(outputs(load_model(tmp_path, CPU).networks[0]), expected)


def test_hash_is_that_of_both_files(folder, tmp_path):
    digest = hashlib.sha256((folder / METADATA).read_bytes() + (folder / WEIGHTS).read_bytes())
    first = load_model(folder, CPU).sha256
    assert first == digest.hexdigest()
    for number, other in enumerate((make_model(seed=1), make_model(name="other"))):
        save_model(other, tmp_path / str(number))
        assert load_model(tmp_path / str(number), CPU).sha256 != first
    save_model(make_model(), tmp_path / "same")
    assert load_model(tmp_path / "same", CPU).sha256 == first


NETWORKS = {
    "unet": {},
    "unet linear": {"name": "unet", "upsampling": "linear", "deep_supervision": True},
    "residual_unet": {},
    "attention_unet": {},
    "unet_plus_plus": {},
    "mednext": {},
    "light_unet": {},
    "fcn": {},
    "segnet": {},
    "unetr": {},
    "trans_unet": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_is_restored_without_drawing_random_numbers(tmp_path, name):
    network = NetworkConfig(**{"name": name, "features": (4, 4, 8)} | NETWORKS[name])
    description = describe(network=network, patch_size=(8, 8, 8))
    torch.manual_seed(1)
    built = build_network(network, 2, 3, (8, 8, 8)).eval()
    save_model(Model(description, (built,)), tmp_path)
    before = torch.get_rng_state()
    loaded = load_model(tmp_path, CPU).networks[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs(loaded), outputs(built))
    assert all(weight.requires_grad for weight in loaded.parameters())


# --- Metadata ---


def test_metadata_has_what_a_bundle_must_have(folder):
    """The mandatory keys of the MONAI Bundle Specification 1.6."""
    metadata = json.loads((folder / METADATA).read_text("utf-8"))
    assert metadata.keys() >= {
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    }
    formats = metadata["network_data_format"]
    for tensor in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        assert tensor.keys() >= {
            "type",
            "format",
            "num_channels",
            "spatial_shape",
            "dtype",
            "value_range",
            "is_patch_data",
            "channel_def",
        }
        assert tensor["spatial_shape"] == ["4*i", "4*j", "4*k"]


def test_metadata_names_the_channels_of_the_network(folder):
    formats = json.loads((folder / METADATA).read_text("utf-8"))["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert image["channel_def"] == {"0": "venous", "1": "T1"}
    assert (image["num_channels"], image["modality"]) == (2, "CT, MR")
    assert pred["channel_def"] == {"0": "background", "1": "liver", "2": "spleen"}
    assert pred["num_channels"] == 3


def test_metadata_says_what_each_network_was_trained_on(folder, ensemble):
    words = [
        json.loads((path / METADATA).read_text("utf-8"))["description"]
        for path in (folder, ensemble)
    ]
    assert words[0] == "unet, trained by Trivox on 2 cases"
    assert words[1] == "3 networks (unet), each trained by Trivox on a part of 2 cases"


def rewrite(path, content):
    """Change a file as a person does who means it."""
    path.write_text(json.dumps(content), encoding="utf-8")
    path.with_name("hashes.json").unlink()


def hashes(folder):
    tables = sorted(folder.rglob("hashes.json"))
    return [json.loads(path.read_text())["files"] for path in tables]


@pytest.mark.parametrize("part", [METADATA, WEIGHTS])
def test_a_bit_that_changed_is_noticed(folder, part):
    path = folder / part
    content = path.read_bytes()
    # Of a setting, of a weight: what is read is valid.
    place = content.index(b'"overlap": 0.5') + 13 if part == METADATA else len(content) - 1
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ModelError, match=rf"{part.name}: the file is damaged: its hash.*opy the"):
        load_model(folder, CPU)
    with pytest.raises(ModelError, match=rf"{part.name}: the file is damaged"):
        hash_model(folder)
    path.with_name("hashes.json").unlink()
    load_model(folder, CPU)


# --- Several members ---


@pytest.fixture
def ensemble(tmp_path):
    members = tuple(make_model(seed).networks[0] for seed in range(3))
    save_model(Model(describe(), members), tmp_path / "ensemble")
    return tmp_path / "ensemble"


def test_members_are_restored_in_their_order(ensemble):
    loaded = load_model(ensemble, CPU)
    assert loaded.description == describe(num_members=3)
    for seed, network in enumerate(loaded.networks):
        assert torch.equal(outputs(network), outputs(make_model(seed).networks[0]))
        assert not network.training
    assert {path.name for path in (ensemble / "models").iterdir()} == {
        "hashes.json", "member_0.safetensors", "member_1.safetensors", "member_2.safetensors",
    }  # fmt: skip


def test_hash_follows_every_member(ensemble):
    before = load_model(ensemble, CPU).sha256
    assert hash_model(ensemble) == before
    members = make_model(0).networks + make_model(1).networks + make_model(0).networks
    save_model(Model(describe(), members), ensemble)
    assert hash_model(ensemble) == load_model(ensemble, CPU).sha256 != before


def test_a_model_that_is_as_it_was_written_is_hashed_without_its_network(ensemble, monkeypatch):
    before = hash_model(ensemble)
    (ensemble / "models" / "hashes.json").rename(ensemble / "aside")
    assert hash_model(ensemble) == before
    monkeypatch.setattr("pipeline.model.folder.build_network", lambda *_: pytest.fail("built"))
    with pytest.raises(pytest.fail.Exception, match="built"):
        hash_model(ensemble)
    (ensemble / "aside").rename(ensemble / "models" / "hashes.json")
    assert hash_model(ensemble) == before


def test_a_missing_member_is_named(ensemble):
    (ensemble / "models/member_1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"member_1\.safetensors: the weights are missing"):
        load_model(ensemble, CPU)


@pytest.mark.parametrize(("first", "then"), [(1, 3), (3, 2), (2, 1)])
def test_replacing_a_model_leaves_no_members_of_the_old_one(tmp_path, first, then):
    for number in (first, then):
        save_model(Model(describe(), make_model().networks * number), tmp_path)
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == then
    assert len(load_model(tmp_path, CPU).networks) == then


def test_a_folder_from_before_there_were_members_loads(folder):
    metadata = json.loads((folder / METADATA).read_text("utf-8"))
    for key in ("num_members", "regions", "mirror_axes", "patch_size"):
        del metadata["trivox"][key]
    metadata["trivox"]["network"] = {"features": [2, 4, 4], "dropout": 0.0}
    del metadata["trivox"]["inference"]["mirror"]
    rewrite(folder / METADATA, metadata)
    loaded = load_model(folder, CPU)
    assert loaded.description == describe()
    assert torch.equal(outputs(loaded.networks[0]), outputs(make_model().networks[0]))


def test_a_copy_is_the_same_model_without_what_else_lies_there(ensemble, tmp_path):
    (ensemble / "models" / "other.safetensors").write_text("not part of it")
    (ensemble / "notes.txt").write_text("nor this")
    copy_model(ensemble, tmp_path / "copy")
    assert hash_model(tmp_path / "copy") == hash_model(ensemble)
    assert len([path for path in (tmp_path / "copy").rglob("*") if path.is_file()]) == 4 + 2
    assert hashes(tmp_path / "copy") == hashes(ensemble)
    with pytest.raises(ModelError, match="no model here"):
        copy_model(tmp_path / "nowhere", tmp_path / "copy")


# --- Folders that are no model ---


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("part", [WEIGHTS, METADATA])
def test_code_in_place_of_a_part_does_not_run(folder, tmp_path, part, protocol):
    marker = tmp_path / "ran"
    content = pickle.dumps(Payload(marker), protocol)
    (folder / part).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read.*\. (Copy|Use) "):
        load_model(folder, CPU)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists(), "the payload would have run"


def test_pickled_torch_weights_do_not_run(folder, tmp_path):
    marker = tmp_path / "ran"
    torch.save({"weight": Payload(marker)}, folder / WEIGHTS)
    with pytest.raises(ModelError, match="the weights cannot be read"):
        load_model(folder, CPU)
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_torn_weights_of_an_earlier_version_pass_for_no_other_model(folder, share):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(len(content) * share)])
    (folder / WEIGHTS).with_name("hashes.json").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: the weights cannot be read"):
        hash_model(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_torn_weights(folder, share):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        ModelError,
        match=r"model\.safetensors: the weights cannot be read: (the file|it) .*"
        r"\. Copy the whole model folder anew, or train again\.$",
    ):
        load_model(folder, CPU)


def test_missing_weights(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"weights are missing\. Copy the whole model folder"):
        load_model(folder, CPU)


NAMED = {
    "drop": r"\w+\.weight is missing",
    "add": "there is no other in it",
    "reshape": r"\w+\.weight has the shape \[3, 1\], not \[\d",
}


@pytest.mark.parametrize("change", NAMED)
def test_weights_of_another_network(folder, change):
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    if change == "drop":
        del tensors[name]
    elif change == "add":
        tensors["other"] = torch.ones(1)
    else:
        tensors[name] = torch.ones(3, 1)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    for look in (lambda: load_model(folder, CPU), lambda: hash_model(folder)):
        with pytest.raises(ModelError, match=rf"do not fit the network.*: .*{NAMED[change]}"):
            look()


def test_no_folder(tmp_path):
    with pytest.raises(
        ModelError,
        match=r"none: no model here \(configs/metadata\.json is missing\)\. Give the folder ",
    ):
        load_model(tmp_path / "none", CPU)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"null", b'{"trivox": 1}', b'{"trivox": {}}', b"\xff\xfe"]
)
def test_torn_description(folder, content):
    (folder / METADATA).write_bytes(content)
    with pytest.raises(
        ModelError,
        match=r"metadata\.json(:1)?: (the description |this is something else)",
    ):
        load_model(folder, CPU)


def test_a_bundle_of_another_maker_is_called_that(folder):
    (folder / METADATA).write_text('{"version": "0.1", "monai_version": "1.3.0"}', "utf-8")
    with pytest.raises(ModelError, match="MONAI bundle, not a model of Trivox; weights of others"):
        load_model(folder, CPU)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        (("num_members",), 10**12, "num_members: should be less"),
        (("labels",), {"liver": 10**12}, "liver: should be less"),
        (("labels",), {"liver": 10**400}, "a number has 401 digits"),
        (("labels",), {"liver\n\x00": 1}, "a text holds .* which no text has"),
        (("labels",), {"": 1}, "control characters"),
        (("name",), "a\x1b[2J", "control characters"),
        (("name",), "m\x9b31m\u202e", "control characters"),
        (("labels",), {"organ\u2028": 1}, "control characters"),
        (("labels",), {"o" * 300: 1}, "a name is empty, long or"),
        (("network", "features"), [10**9] * 3, "network.features.0: should be less"),
        (("network", "features"), [2000] * 3, r"model\.safetensors: .*input_block.*has the shape"),
        (("network", "features"), [2] * 5000, "features: should have at most 16"),
        (("network", "blocks"), [10**9] * 3, "blocks.0: should be less"),
        (("network", "expansion"), 10**9, "expansion: should be less"),
        (("patch_size",), [10**9] * 3, "patch_size.0: should be less"),
        (("network", "name"), "../../evil", "there is no network"),
        (("inference", "window"), [10**9] * 3, "does not hold: inference"),
        (("preprocessing", "spacing_mm"), [0, 1, 1], "spacing_mm.0: should be greater"),
        (("preprocessing", "spacing_mm"), [float("nan"), 1, 1], "spacing_mm.0: should be"),
        (("preprocessing", "crop_margin_mm"), float("inf"), "crop_margin_mm: should be"),
        (("preprocessing", "crop_margin_mm"), 1e300, "crop_margin_mm: should be less"),
        (("preprocessing", "spacing_mm"), [1, 1, 1e-9], "spacing_mm.2: should be greater"),
        (("preprocessing", "spacing_mm"), [1e300, 1, 1], "spacing_mm.0: should be less"),
        (("inference", "overlap"), 0.9999999, "overlap: should be less than or equal to 0.9"),
        (("inference", "batch_size"), 10**9, "batch_size: should be less"),
        (("postprocessing", "crf"), {"iterations": 10**9}, "iterations: should be less"),
        (("postprocessing", "crf"), {"theta_position_mm": 1e300}, "position_mm: should be less"),
        (("postprocessing", "rules"), [{"label": "liver", "close_mm": 1e6}], "close_mm: should be"),
        (("postprocessing", "rules"), [{"label": "liver", "smooth_mm": 1e6}], "smooth_mm: should"),
        (("fingerprint", "num_cases"), 10**400, "a number has 401 digits"),
        (("fingerprint", "num_cases"), 0, "num_cases: should be greater"),
        (("fingerprint", "shape"), [10**30, 1, 1], "shape.0: should be a smaller number"),
        (("admission", "slack"), 1e300, "slack: should be less"),
        (("channels",), [{"name": "T1", "modality": "MR"}] * 1000, "1000 channels"),
    ],
)
def test_an_absurd_description_is_refused_before_it_costs_anything(folder, key, value, found):
    content = json.loads((folder / METADATA).read_text("utf-8"))
    target = content["trivox"]
    for part in key[:-1]:
        target = target[part]
    target[key[-1]] = value
    rewrite(folder / METADATA, content)
    for look in (lambda: load_model(folder, CPU), lambda: hash_model(folder)):
        began = time.process_time()
        with pytest.raises(ModelError, match=found) as raised:
            look()
        assert time.process_time() - began < 2
        assert "\n" not in str(raised.value)


def test_a_description_that_may_not_be_read_says_so_once(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.system.text.open_ordinary", refuse)
    found = r"the description cannot be read \(Permission denied\)\. Mend its permissions"
    with pytest.raises(ModelError, match=found):
        load_model(folder, CPU)


def test_a_description_nested_without_end_is_refused(folder):
    (folder / METADATA).write_text('{"trivox": ' + "[" * 10**5 + "]" * 10**5 + "}")
    with pytest.raises(ModelError, match=r"cannot be read: lists and objects are nested"):
        load_model(folder, CPU)


def test_notes_on_training_that_are_nested_without_end_are_refused(folder):
    """Reading 900 levels works; writing them again, into provenance or an export, does not."""
    content = (folder / METADATA).read_text("utf-8")
    nested = f'"training": {{"x": {"[" * 900}{"]" * 900}, '
    (folder / METADATA).write_text(content.replace('"training": {', nested, 1))
    with pytest.raises(ModelError, match=r"nested more than 64 deep\. Copy the folder anew"):
        load_model(folder, CPU)


def test_other_files_in_a_model_folder_are_not_opened(folder, tmp_path):
    """A bundle keeps its weights as a pickle, and its scripts as code: neither is looked at."""
    marker = tmp_path / "ran"
    for name in ("models/model.pt", "models/model.ts", "model.pkl", "configs/inference.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("__init__.py", "scripts/__init__.py", "configs/inference.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    tagged = f"network: !!python/object/apply:pathlib.Path.touch [{marker}]\n"
    (folder / "configs" / "metadata.yaml").write_text(tagged)
    load_model(folder, CPU)
    copy_model(folder, tmp_path / "copy")
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
@pytest.mark.parametrize("part", [METADATA, WEIGHTS])
def test_what_is_no_ordinary_file_is_named_at_once(folder, tmp_path, part, kind):
    path = folder / part
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for look in (
        lambda: load_model(folder, CPU),
        lambda: hash_model(folder),
        lambda: copy_model(folder, tmp_path / "copy"),
    ):
        began = time.monotonic()
        with pytest.raises(ModelError, match=rf"{part.name}: .*{kind}, no ordinary file"):
            look()
        assert time.monotonic() - began < 10
    assert not (tmp_path / "copy").exists()


def test_a_pipe_beside_the_evidence_is_not_copied(folder, tmp_path):
    (folder / "postprocessing").mkdir()
    (folder / "postprocessing" / "picture.png").write_text("a picture")
    os.mkfifo(folder / "postprocessing" / "pipe.csv")
    copy_model(folder, tmp_path / "copy")
    copied = [path.name for path in (tmp_path / "copy" / "postprocessing").iterdir()]
    assert sorted(copied) == ["hashes.json", "picture.png"]


def test_unknown_setting_of_a_newer_version(folder):
    metadata = json.loads((folder / METADATA).read_text("utf-8"))
    metadata["trivox"]["preprocessing"]["new"] = 1
    (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(ModelError, match=r"new: no such key\. Use a model written by Trivox"):
        load_model(folder, CPU)


def test_killed_while_replacing_leaves_no_mixture(folder, monkeypatch):
    """Old description beside new weights would segment with the wrong settings."""

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.model.folder.write_noted", kill)
    with pytest.raises(KeyboardInterrupt):
        save_model(make_model(seed=1, name="other"), folder)
    with pytest.raises(ModelError, match="no model here"):
        load_model(folder, CPU)


def test_model_is_replaced(folder):
    save_model(make_model(seed=1, name="other"), folder)
    loaded = load_model(folder, CPU)
    assert loaded.description.name == "other"
    assert torch.equal(outputs(loaded.networks[0]), outputs(make_model(seed=1).networks[0]))
