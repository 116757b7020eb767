"""Segment all studies of a data set; a broken one does not stop the others."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

logger = logging.getLogger(__name__)

Network = Callable[[torch.Tensor], torch.Tensor]
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def segment_all(
    dataset: Sequence[Mapping[str, Any]],
    network: Network,
    inferer: Callable[[torch.Tensor, Network], torch.Tensor],
    postprocessing: Callable[[dict[str, Any]], object],
    precision: str,
    device: torch.device,
) -> None:
    """Segment one study after the other; post-processing writes the masks.

    Args:
        dataset: Studies with an `image` on its working grid.
        network: On `device`.
        inferer: Lays windows over an image, runs the network, joins the logits.
        postprocessing: From logits, `pred`, to a mask in a file.
        precision: Of the network's arithmetic: fp32, bf16 or fp16.
        device: To compute on.

    Raises:
        ValueError: If the precision is unknown.
        SystemExit: At the end, if a study has no mask.
    """
    if precision not in AUTOCAST:
        raise ValueError(f"precision {precision!r} is none of {', '.join(AUTOCAST)}")
    dtype = AUTOCAST[precision]
    autocast = torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
    failed = []
    for index in range(len(dataset)):
        try:
            study = dict(dataset[index])
            image_BCIJK = study["image"].as_subclass(torch.Tensor)[None]
            with torch.inference_mode(), autocast:
                study["pred"] = inferer(image_BCIJK, network)[0]
            postprocessing(study)
        except (ValueError, RuntimeError, OSError) as error:
            failed.append(_reason(error))
            logger.error("study %d of %d: %s", index + 1, len(dataset), failed[-1])
    if failed:
        raise SystemExit(f"{len(failed)} of {len(dataset)} studies have no mask")


def _reason(error: BaseException) -> str:
    """Return the first cause: MONAI wraps it in errors, or puts it below a traceback as text."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
