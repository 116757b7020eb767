"""The whole way of a study to its mask, top to bottom.

The command line, the cohort runner and the validation during training all take this path.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from pipeline.errors import StudyError
from pipeline.inference import (
    MemoryBudget,
    NotEnoughMemory,
    Predictor,
    Stream,
    is_out_of_memory,
)
from pipeline.model import Model
from pipeline.postprocessing import Cleaned, Evidence, num_slots, postprocess
from pipeline.segmentation.refusals import ran_out, too_large, window_too_large
from pipeline.segmentation.study import (
    BYTES_PER_GB,
    Prediction,
    PreparedStudy,
    Segmentation,
)
from pipeline.study import Study
from pipeline.system.memory import PeakMeter, resident_bytes
from pipeline.system.progress import timed
from pipeline.transforms import (
    MAX_WORKING_VOXELS,
    ProbabilitySink,
    Restorer,
    Working,
    preprocess,
)
from pipeline.volume import Volume, smallest_label_type

logger = logging.getLogger(__name__)

NOTHING_FOUND = "no voxel was labelled; check modality, spacing and field of view of the study"

UNCERTAIN_BYTES = 5
"""That a voxel takes on average to remember which voxels are uncertain: about a tenth of them."""

MAX_WINDOWS = 2**18
"""Of one study: eight times what 1024^3 voxels take with windows of 64^3 that overlap by half."""

Advance = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


class Segmenter:
    """A model ready to segment studies, one after the other.

    Args:
        model: Its networks are copied.
        device: To compute on.
        max_bytes: Of main memory that this process may take; None: all that is free.

    Raises:
        ModelError: If this machine has not the memory for a single window.
    """

    def __init__(self, model: Model, device: torch.device, max_bytes: int | None = None) -> None:
        self.description = description = model.description
        self.device = device
        try:
            self.predictor = Predictor(
                model.networks,
                description.inference_on(device),
                device,
                description.num_outputs,
                description.mirror_axes,
                description.activation,
            )
            self._budget = MemoryBudget(self.predictor, len(description.channels), max_bytes)
        except NotEnoughMemory as error:
            raise window_too_large(description, device, error) from error
        except RuntimeError as error:
            if not is_out_of_memory(error) or device.type == "cpu":
                raise
            # More than there was, how much is not known.
            room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
            lack = NotEnoughMemory(room + 1, room)
            raise window_too_large(description, device, lack) from error
        if device.type == "cuda":
            # One for all studies: torch keeps what is freed for the stream that it was made in.
            self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._has_field = description.postprocessing.crf is not None
        self._num_slots = num_slots(description.num_outputs) if self._has_field else 0

    def loading_bytes(self, num_voxels: int, volume_mm3: float) -> int:
        """Return about what a study takes while it is read and brought to the network's grid."""
        num_working = volume_mm3 / math.prod(self.description.preprocessing.spacing_mm)
        return self._budget.loading_bytes(round(max(num_voxels, num_working)))

    def check_readable(self, case: str, num_voxels: int) -> None:
        """Raise a `StudyError` if reading a study would take more memory than was allowed."""
        try:
            self._budget.check_loading(num_voxels)
        except NotEnoughMemory as error:
            what = f"reading {num_voxels} voxels"
            raise too_large(case, what, error, "Raise --max-memory, or free memory.") from error

    def prepare(self, study: Study, *, keep_volume: bool = False) -> PreparedStudy:
        """Bring a study to the network's grid and scale.

        Args:
            study: From `read_study`.
            keep_volume: Whether its own voxels will still be needed after it is segmented.

        Raises:
            StudyError: If it would not fit in memory on the network's grid.
        """
        seconds: dict[str, float] = {}
        room = self._budget.max_working_voxels(len(self.description.channels))
        most = min(MAX_WORKING_VOXELS, room)
        with timed(seconds, "preprocess"):
            try:
                working = self._preprocess(study.volume, most)
            except StudyError as error:
                raise StudyError(study.case, error.found, error.remedy) from error
        return PreparedStudy(
            case=study.case,
            grid=study.volume.grid,
            header=study.header,
            working=working,
            warnings=study.warnings,
            volume=study.volume if keep_volume or self._has_field else None,
            seconds=seconds,
        )

    def _preprocess(self, volume: Volume, max_voxels: int) -> Working:
        """Bring a volume to the network's grid, on the networks' GPU if it has room for that too.

        It takes one core of a CPU 3 s for 512 x 512 x 400 voxels, measured, beside reading the next
        study; a GPU may have predicted this one by then. In a stream of its own: in that of the
        networks it would wait for each batch of another study.
        """
        settings, grid = self.description.preprocessing, volume.grid
        num_working = grid.num_voxels * grid.voxel_volume_mm3 / math.prod(settings.spacing_mm)
        sizes = len(settings.channels), grid.num_voxels, round(num_working)
        if self.device.type == "cpu" or not self._budget.has_room_to_prepare(*sizes):
            return preprocess(volume, settings, max_voxels=max_voxels)
        try:
            with torch.cuda.stream(self._beside):
                working = preprocess(volume, settings, max_voxels=max_voxels, device=self.device)
            self._beside.synchronize()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.debug("no room on %s to prepare a study", self.device)
            return preprocess(volume, settings, max_voxels=max_voxels)
        return working

    def segment(
        self,
        study: PreparedStudy,
        sink: ProbabilitySink | None = None,
        *,
        top_k: int = 0,
        elsewhere_bytes: int = 0,
        advance: Advance = lambda _what, _done, _total: None,
    ) -> Segmentation:
        """Segment a study.

        Args:
            study: From `prepare`.
            sink: Takes the probabilities of each class or region on the study's grid, if given.
            top_k: Keep that many probabilities of each voxel whose label is uncertain.
            elsewhere_bytes: Memory that other studies take meanwhile.
            advance: Called with `windows` or `refining`, the number of steps done, and of all.

        Raises:
            StudyError: If it does not fit in memory.
        """
        prediction = self.predict(
            study, sink, top_k=top_k, elsewhere_bytes=elsewhere_bytes, advance=advance
        )
        found = self.clean(study, prediction, elsewhere_bytes=elsewhere_bytes, advance=advance)
        return replace(found, uncertain=prediction.uncertain) if top_k else found

    @property
    def cleans_aside(self) -> bool:
        """Whether a study is cleaned while the next one is predicted.

        On a CPU both would share its cores. A field on a GPU would share that, and its memory.
        """
        return self.device.type != "cpu" and not self._has_field

    def predict(
        self,
        study: PreparedStudy,
        sink: ProbabilitySink | None = None,
        *,
        top_k: int = 0,
        elsewhere_bytes: int = 0,
        advance: Advance = lambda _what, _done, _total: None,
    ) -> Prediction:
        """Do the first part of `segment`: what needs the networks."""
        seconds = dict(study.seconds)
        spares_gpu = False
        with PeakMeter() as meter:
            while True:
                stream, predicted_bytes = self._plan(study, elsewhere_bytes, spares_gpu=spares_gpu)
                stream.seconds, stream.advance = seconds, partial(advance, "windows")
                level = logging.INFO if predicted_bytes > BYTES_PER_GB else logging.DEBUG
                predicted_gb = predicted_bytes / BYTES_PER_GB
                expected = f"about {predicted_gb:.2f} GB of memory expected"
                logger.log(level, "%s: %s", study.case, expected)
                restorer = self._restore(study, stream, sink, max(top_k, self._num_slots))
                if restorer is not None:
                    break
                spares_gpu = self._made_room(study, spares_gpu=spares_gpu)
        measured_gb = meter.peak_bytes / BYTES_PER_GB
        arithmetic = f"{self.predictor.dtype or torch.float32}, sums in {stream.storage.dtype}"
        uncertain = restorer.uncertain()
        labels_IJK = restorer.labels()
        return Prediction(labels_IJK, uncertain, seconds, predicted_gb, measured_gb, arithmetic)

    def _restore(
        self, study: PreparedStudy, stream: Stream, sink: ProbabilitySink | None, top_k: int
    ) -> Restorer | None:
        """Predict a study and bring it to its own grid; None if memory ran out on the way."""
        seconds = stream.seconds
        restorer = self._restorer(study, sink, top_k)
        try:
            for block in self.predictor.predict(study.working.data_CIJK, stream):
                with timed(seconds, "resample"):
                    restorer.add(block)
            with timed(seconds, "resample"):
                restorer.labels()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        # What the host waits for is the networks, mostly.
        waited_s = restorer.later.waited_s
        seconds["network"] = seconds.get("network", 0.0) + waited_s
        seconds["resample"] -= waited_s
        return restorer

    def _made_room(self, study: PreparedStudy, *, spares_gpu: bool) -> bool:
        """Say how a study is begun anew that memory ran out for; return whether it spares the GPU.

        Raises:
            StudyError: If nothing is left to try.
        """
        if self.predictor.batch_size > 1:
            self.predictor.batch_size //= 2
            again = f"with batches of {self.predictor.batch_size} windows"
        elif self.device.type != "cpu" and not spares_gpu:
            spares_gpu, again = True, "with sums of logits in main memory"
        else:
            lack = self._budget.shortage(4 * self._padded_voxels(study))
            raise ran_out(study.case, self.device, lack)
        logger.warning("%s: memory ran out; beginning again %s", study.case, again)
        return spares_gpu

    def clean(
        self,
        study: PreparedStudy,
        prediction: Prediction,
        *,
        elsewhere_bytes: int = 0,
        advance: Advance = lambda _what, _done, _total: None,
    ) -> Segmentation:
        """Do the second part of `segment`: post-processing; the working volume is not needed."""
        seconds = dict(prediction.seconds)
        with PeakMeter() as meter, timed(seconds, "postprocess"):
            refining = partial(advance, "refining")
            cleaned = self._clean(study, prediction, elsewhere_bytes, refining)
        measured_gb = max(prediction.measured_gb, meter.peak_bytes / BYTES_PER_GB)
        level = logging.INFO if prediction.predicted_gb > 1 else logging.DEBUG
        logger.log(level, "%s: %.2f GB of memory taken", study.case, measured_gb)
        warnings = study.warnings + cleaned.warnings
        if measured_gb > (self._budget.max_bytes or math.inf) / BYTES_PER_GB:
            warnings += (f"took {measured_gb:.2f} GB of memory, more than was allowed",)
        if not cleaned.labels_IJK.any():
            warnings += (NOTHING_FOUND,)
        return Segmentation(
            labels_IJK=cleaned.labels_IJK,
            seconds=seconds,
            warnings=warnings,
            memory_gb={"predicted": prediction.predicted_gb, "measured": measured_gb},
            arithmetic=prediction.arithmetic,
        )

    def _clean(
        self,
        study: PreparedStudy,
        prediction: Prediction,
        elsewhere_bytes: int,
        advance: Callable[[int, int], None],
    ) -> Cleaned:
        """Post-process the labels, by the image too if the model says so."""
        description, evidence = self.description, None
        if self._has_field:
            assert study.volume is not None, "`prepare` keeps it for the field"
            assert prediction.uncertain is not None, "the field asks for them"
            max_bytes = self._budget.max_bytes
            if max_bytes is not None and self.device.type == "cpu":
                max_bytes = max(0, max_bytes - resident_bytes() - elsewhere_bytes)
            evidence = Evidence(
                study.volume,
                prediction.uncertain,
                description.label_values,
                self.device,
                max_bytes,
                advance,
            )
        return postprocess(
            prediction.labels_IJK,
            study.grid,
            description.labels,
            description.postprocessing,
            evidence,
        )

    def _restorer(self, study: PreparedStudy, sink: ProbabilitySink | None, top_k: int) -> Restorer:
        description, placement = self.description, study.working.placement
        if description.regions:
            values = [description.labels[region.writes] for region in description.regions]
            return Restorer(placement, values, "regions", sink, top_k)
        return Restorer(placement, description.label_values, "labels", sink, top_k)

    def fits(self, study: PreparedStudy, elsewhere_bytes: int) -> bool:
        """Tell whether a study can be segmented while others take memory elsewhere."""
        try:
            return bool(self._plan(study, elsewhere_bytes))
        except StudyError:
            return False

    def _check_windows(self, case: str, size: tuple[int, int, int], num_windows: int) -> None:
        if num_windows <= MAX_WINDOWS:
            return
        hours = num_windows * self._budget.window_s / 3600
        found = f"a prediction of {size} voxels takes {num_windows} windows, about {hours:.3g} "
        found += f"hours; at most {MAX_WINDOWS} are computed"
        remedy = "Set a larger inference.window or a smaller inference.overlap; check the spacing."
        raise StudyError(case, found, remedy)

    def _padded_voxels(self, study: PreparedStudy) -> int:
        size = study.working.placement.working.shape
        return len(self.description.channels) * math.prod(self.predictor.lay(size).grid.size)

    def _plan(
        self, study: PreparedStudy, elsewhere_bytes: int, *, spares_gpu: bool = False
    ) -> tuple[Stream, int]:
        """Return how to keep sums of logits, and the peak of main memory to expect."""
        label_type = smallest_label_type(max(self.description.labels.values()))
        held_bytes = elsewhere_bytes + label_type.itemsize * study.grid.num_voxels
        data_CIJK = study.working.data_CIJK
        held_bytes += 0 if data_CIJK.is_cuda else data_CIJK.nbytes
        held_bytes += UNCERTAIN_BYTES * study.grid.num_voxels * self._has_field
        held_bytes += 0 if study.volume is None else study.volume.data_CIJK.nbytes
        size = study.working.placement.working.shape
        grid = self.predictor.lay(size).grid
        self._check_windows(study.case, size, grid.num_windows)
        padded_bytes = 4 * self._padded_voxels(study)
        held_bytes += padded_bytes * (grid.size != size)
        try:
            storage, peak = self._budget.plan(size, held_bytes, padded_bytes, spares_gpu=spares_gpu)
        except NotEnoughMemory as error:
            what = f"a prediction of {size} voxels"
            remedy = "Raise --max-memory, free memory, or set a smaller inference.window or "
            remedy += "inference.overlap."
            raise too_large(study.case, what, error, remedy) from error
        return Stream(storage, study.working.shadows), peak


def segment_study(
    study: Study, segmenter: Segmenter, sink: ProbabilitySink | None = None
) -> Segmentation:
    """Segment one study.

    Args:
        study: From `read_study`.
        segmenter: Of the model.
        sink: Takes the probabilities of each class or region on the study's own grid, if given.

    Raises:
        StudyError: If the study does not fit in memory.
    """
    return segmenter.segment(segmenter.prepare(study), sink)
