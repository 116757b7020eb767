"""On a CPU; what is done with a GPU is tested in `tests/pretended/test_inference.py`."""

import torch

from pipeline.transforms.transfer import Later, upload

CPU = torch.device("cpu")


def test_what_is_there_already_is_not_copied():
    tensor = torch.zeros(3)
    assert upload(tensor, CPU) is tensor


def test_what_is_put_off_is_done_in_order_at_the_next_turn():
    later, done = Later(), []
    later.add(lambda: done.append("a"))
    later.add(lambda: (done.append("b"), later.add(lambda: done.append("c"))))
    assert done == []
    later.turn()
    assert done == ["a", "b"]
    later.turn()
    assert done == ["a", "b", "c"]
    later.turn()
    assert done == ["a", "b", "c"]
    assert later.waited_s == 0
