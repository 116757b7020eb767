import os
import pickle
from pathlib import Path

import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.losses import LossConfig, build_loss
from pipeline.patches import Batch
from pipeline.postprocessing.crf import CrfConfig
from pipeline.postprocessing.crf.layer import CrfLayer
from pipeline.training import TrainingConfig
from pipeline.training.distributed import Ranks
from pipeline.training.step import build_state, build_trainer

CPU = torch.device("cpu")


def make_state(num_features=2, seed=0, **changes):
    torch.manual_seed(seed)
    network = torch.nn.Conv3d(1, num_features, 3, padding=1)
    settings = config(**changes)
    crf = None if settings.crf is None else CrfLayer(settings.crf, num_features, (1.0, 1.0, 1.0))
    return build_state(network, settings, CPU, seed=0, crf=crf)


def config(**changes):
    return TrainingConfig(max_iterations=10, **({"precision": "fp32"} | changes))


def tensors_of(tree):
    """Flatten nested dictionaries and lists to what can be compared."""
    if isinstance(tree, dict):
        return {
            f"{key}.{name}": value
            for key, part in tree.items()
            for name, value in tensors_of(part).items()
        }
    return {"": tree.tolist() if isinstance(tree, torch.Tensor) else tree}


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "sgd"}, {"ema_decay": 0.0}, {"crf": CrfConfig(weight_appearance=0)}],
)
def test_everything_comes_back_exactly(tmp_path, changes):
    state = make_state(**changes)
    image, label = torch.randn(1, 1, 4, 4, 4), torch.randint(0, 2, (1, 4, 4, 4))
    batch = Batch(image, label, torch.ones(1, 1, dtype=torch.bool))
    loss = build_loss(LossConfig(), 2)
    build_trainer(state, config(**changes), Ranks(CPU), loss).run([batch] * 3)
    state.iteration, state.elapsed_s, state.epoch_losses = 3, 1.25, [0.1, 1 / 3]
    state.save(tmp_path / "deep" / "last.pt")

    other = make_state(seed=1, **changes)
    other.load(tmp_path / "deep" / "last.pt")
    assert (other.iteration, other.elapsed_s, other.epoch_losses) == (3, 1.25, [0.1, 1 / 3])
    for part in ("network", "averaged", "optimizer", "scaler", "crf"):
        before, after = getattr(state, part), getattr(other, part)
        if before is None:
            assert after is None
        else:
            assert tensors_of(before.state_dict()) == tensors_of(after.state_dict())


def test_a_failed_save_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    make_state().save(path)
    before = path.read_bytes()

    def tear(content, target):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", tear)
    with pytest.raises(OSError, match="disk full"):
        make_state().save(path)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"last.pt", "hashes.json"}


def torn(path):
    make_state().save(path)
    path.write_bytes(path.read_bytes()[:500])


def of_another_network(path):
    make_state(num_features=3).save(path)


def without_a_key(path):
    make_state().save(path)
    content = torch.load(path, weights_only=True)
    del content["epoch_losses"]
    torch.save(content, path)


@pytest.mark.parametrize("spoil", [torn, of_another_network, without_a_key])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, spoil):
    path = tmp_path / "last.pt"
    spoil(path)
    with pytest.raises(TrainingError, match=r"last\.pt: the checkpoint .*name=\.\.\."):
        make_state().load(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "last.pt"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(TrainingError, match="cannot be resumed from"):
        make_state().load(path)
    torch.save(Payload(), path)
    with pytest.raises(TrainingError, match="cannot be resumed from"):
        make_state().load(path)
    assert not (tmp_path / "executed").exists()


def test_a_run_may_move_between_devices_with_and_without_float16(tmp_path):
    path = tmp_path / "last.pt"
    for before, after in (("fp32", "fp16"), ("fp16", "fp32")):
        make_state(precision=before).save(path)
        make_state(precision=after).load(path)


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 0.7, 1])
def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_offered(tmp_path, place):
    path = tmp_path / "last.pt"
    for iteration in (1, 2, 3):
        state = make_state(seed=iteration)
        state.iteration = iteration
        state.save(path)
    flip_a_bit(path, place)
    offer = r"last\.pt: the checkpoint is damaged: its hash.* remove last\.pt .* previous\.pt\."
    with pytest.raises(TrainingError, match=offer):
        make_state().load(path)
    before = make_state()
    before.load(path.with_name("previous.pt"))
    assert before.iteration == 2
    flip_a_bit(path.with_name("previous.pt"), place)
    with pytest.raises(TrainingError, match=r"last\.pt: the checkpoint is damaged.*name=\.\.\."):
        make_state().load(path)
    with pytest.raises(TrainingError, match=r"previous\.pt: the checkpoint is damaged"):
        make_state().load(path.with_name("previous.pt"))


def test_a_checkpoint_that_was_damaged_since_takes_no_good_ones_place(tmp_path):
    path = tmp_path / "last.pt"
    for iteration in (1, 2):
        state = make_state()
        state.iteration = iteration
        state.save(path)
    flip_a_bit(path, 0.5)
    state.save(path)
    for name, iteration in (("last.pt", 2), ("previous.pt", 1)):
        found = make_state()
        found.load(path.with_name(name))
        assert found.iteration == iteration


def test_a_checkpoint_of_an_earlier_version_has_no_hash_and_is_read(tmp_path):
    path = tmp_path / "last.pt"
    make_state().save(path)
    path.with_name("hashes.json").unlink()
    make_state().load(path)
    path.write_bytes(path.read_bytes()[: -(10**3)])
    with pytest.raises(TrainingError, match=r"last\.pt: the checkpoint cannot be resumed from"):
        make_state().load(path)


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "last.pt")
    with pytest.raises(TrainingError, match=r"last\.pt: the checkpoint cannot be resumed from"):
        make_state().load(tmp_path / "last.pt")
