"""The scheduler of a cluster as a run sees it: who works there, what to ask them, what they say."""

import queue
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from distributed import Future

from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.connect import bounded, connect, kill_worker
from pipeline.cluster.worker import release
from pipeline.errors import PipelineError

ANSWER_S = 120.0
"""That a scheduler may take to say which workers it has, before it counts as gone."""

DROP_S = 10.0
"""That it may take to part with a worker, or to tell all that the run has ended."""

WAIT_S = 1.0
"""That `messages` waits for the first one."""

Message: TypeAlias = dict[str, Any] | tuple[str, Future]
"""What a worker reports, or the answer to a question with the name it was asked under."""


class Scheduler:
    """A connection to the scheduler of a cluster, which may have been started for it.

    Attributes:
        run: A name of this connection alone; workers report under it.
        witness: A file named after it in the folder that all share.

    Args:
        config: Which cluster.
        private: A folder that all workers see and only this user may read.

    Raises:
        PipelineError: If there is no such cluster.
    """

    def __init__(self, config: ClusterConfig, private: Path) -> None:
        self.run = f"trivox-{uuid.uuid4().hex}"
        self.witness = private / self.run
        self._num_asked = 0
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with ExitStack() as stack:
            self.witness.touch(mode=0o600)
            stack.callback(self.witness.unlink, missing_ok=True)
            self._client = stack.enter_context(connect(config, private))
            self._client.subscribe_topic(self.run, lambda event: self._inbox.put(event[1]))
            self._exit = stack.pop_all()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what goes wrong in a block because the scheduler is gone into an error saying so.

        Raises:
            PipelineError: If it is gone.
        """
        remedy = "Start it again and run the same command: it goes on from here."
        gone = PipelineError("the Dask scheduler", "it is gone", remedy)
        if self._client.status != "running":
            # What is asked for now would wait in vain.
            raise gone
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) or self._client.status != "running":
                raise gone from error
            raise
        if self._client.status != "running":
            raise gone

    def workers(self) -> Collection[str]:
        """Return the addresses of all workers that are there now."""
        ask = self._client.scheduler.ncores
        found: dict[str, int] = self._client.sync(ask, callback_timeout=ANSWER_S)
        return found.keys()

    def drop(self, worker: str) -> None:
        """Part with a worker that does not answer; where it was started here, end it."""
        kill_worker(self._client.cluster, worker)

        def part() -> None:
            ask = self._client.scheduler.unregister
            self._client.sync(ask, address=worker, stimulus_id=self.run, callback_timeout=DROP_S)

        bounded(part, DROP_S)

    def ask(
        self, worker: str, name: str, function: Callable[..., object], *rest: object, **more: object
    ) -> Future:
        """Have a function called at one worker and no other; `messages` will have the answer.

        Args:
            worker: Its address.
            name: For the answer; the scheduler, whose state others may see, does not learn it.
            function: To call.
            rest: Its arguments.
            more: Its arguments by name.
        """
        self._num_asked += 1
        key = f"{self.run}-{self._num_asked}"
        future = self._client.submit(function, *rest, workers=[worker], key=key, pure=False, **more)
        future.add_done_callback(lambda done: self._inbox.put((name, done)))
        return future

    def ask_again(self, name: str, future: Future) -> None:
        """Take an answer back that could not be had yet."""
        self._inbox.put((name, future))

    def messages(self) -> Iterator[Message]:
        """Yield what came; wait a little if nothing did."""
        with suppress(queue.Empty):
            yield self._inbox.get(timeout=WAIT_S)
            # No more than there were, since some are put back.
            for _ in range(self._inbox.qsize()):
                yield self._inbox.get_nowait()

    def close(self) -> None:
        """Let the workers forget the model, and end what was started."""
        try:
            if self._client.status == "running":
                bounded(self._release, DROP_S)
        finally:
            self._exit.close()

    def _release(self) -> None:
        self._client.run(release, self.run, on_error="ignore")
