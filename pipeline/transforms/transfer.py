"""Between main memory and a GPU without making the host wait: pinned memory, and events.

What is little goes in the current stream, in the order in which it is asked for: labels and working
volume of 512 x 512 x 800 voxels take about 20 ms at 25 GB/s, where the windows take some seconds.
Logits of 118 classes that are added up in main memory take as long as the windows do, so they go
beside them, in a stream of their own. (Reckoned; nothing was measured on a GPU.)
"""

import time
from collections.abc import Callable

import torch


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; a GPU takes it when its turn comes.

    From memory that the system cannot move (pinned); from other memory the host would wait for all
    that the GPU still has to do.
    """
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy in main memory of a tensor on a GPU, which is good once the GPU got there."""
    # In the same memory order, so that it is one copy.
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


class Landing:
    """A tensor on its way from a GPU to main memory, beside what the GPU computes next.

    Args:
        tensor: What the current stream computes.
        beside: The stream to copy in.
    """

    def __init__(self, tensor: torch.Tensor, beside: torch.cuda.Stream) -> None:
        beside.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(beside):
            self._host = download(tensor)
        # Its memory is not to be used again before it was copied.
        tensor.record_stream(beside)
        self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._event.record(beside)

    def get(self) -> torch.Tensor:
        """Return it, waiting for the copy."""
        self._event.synchronize()
        return self._host


class Later:
    """Work of the host with values that a GPU has yet to compute, put off until they are there.

        host = download(tensor)
        later.add(lambda: use(host))
        later.mark(device)
        ...                           # the GPU is given more to do
        later.turn()                  # waits only for what was asked for before the mark

    Attributes:
        waited_s: Time that the host waited for the GPU.
    """

    def __init__(self) -> None:
        self.waited_s = 0.0
        self._actions: list[Callable[[], None]] = []
        self._event: torch.cuda.Event | None = None
        self._device = torch.device("cpu")

    def add(self, action: Callable[[], None]) -> None:
        """Put something off until the next turn."""
        self._actions.append(action)

    def mark(self, device: torch.device) -> None:
        """Let the next turn wait for all that a GPU was asked for until now."""
        self._device = device
        self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(device))

    def turn(self) -> None:
        """Wait until the GPU is at the last mark, and do what was put off; it may put off more."""
        actions, self._actions = self._actions, []
        if self._event is not None:
            began = time.perf_counter()
            self._event.synchronize()
            self.waited_s += time.perf_counter() - began
        for action in actions:
            action()

    def finish(self) -> None:
        """Do all that was put off."""
        while self._actions:
            self.mark(self._device)
            self.turn()
