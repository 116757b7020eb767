"""What tests of workers share, whether those are processes of this machine or of a cluster."""

import time

from pipeline.cohort import RemoteJob, Request, SegmentOptions
from pipeline.model import hash_model, read_description
from pipeline.output.places import make_output_folder


def make_remote(model_folder, out, device="cpu"):
    """Return a job for another process, into an output folder that is made."""
    make_output_folder(out)
    description, sha256 = read_description(model_folder), hash_model(model_folder)
    request = Request(description, sha256, out, SegmentOptions(), model_folder)
    return RemoteJob(request, device)


def gather(workers, until):
    """Collect events until the condition holds for them."""
    events = []
    deadline = time.monotonic() + 60
    while not until(events):
        assert time.monotonic() < deadline
        events += workers.wait()
    return events
