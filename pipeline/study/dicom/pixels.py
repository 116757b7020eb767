"""The voxels of a DICOM volume: decoded, in physical units, on the grid of its headers.

The pixel data of compressed files are decoded by the GDCM in SimpleITK, without anything else of
the file; what the numbers mean (rescale of each slice, padding) is settled here, for files of one
frame and of many alike.

Axes: F = frames of a file; K, J, I = slices, rows and columns of the volume.

Source: DICOM PS3.3, C.7.6.3.1.1 and C.7.5.1.1.2 (padding), C.11.1.1.2 (rescale); PS3.5, section 8.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames

from pipeline.errors import StudyError, packages_needed
from pipeline.study.dicom.frames import NATIVE, Facts, check_frame
from pipeline.study.dicom.instance import DAMAGE, transfer_syntax
from pipeline.study.dicom.problems import count_frames
from pipeline.study.dicom.reading import read_bounded
from pipeline.study.dicom.series import DicomSeries
from pipeline.study.dicom.values import as_number
from pipeline.study.itk import damage_named
from pipeline.system.disk import errors_named, explain
from pipeline.system.quiet import quiet_libraries
from pipeline.system.text import open_ordinary

_PIXEL_MODULE = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_TAGS = (
    *_PIXEL_MODULE, "RescaleSlope", "RescaleIntercept", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
_BITS = ("BitsAllocated", "BitsStored", "HighBit")


@quiet_libraries()
def load_voxels(series: DicomSeries) -> npt.NDArray[np.float32]:
    """Read the voxels of a volume, a file at a time.

    Padding is no image. Where it would be brighter than the darkest voxel, it is set to that one.

    Returns:
        `(I, J, K, 1)`, I along the rows of pixels.

    Raises:
        StudyError: If a file is gone or damaged, or is not what its header was.
    """
    if series.grid is None:
        raise ValueError("a refused series has no voxels")
    columns, rows, count = series.grid.shape
    volume_KJI = np.empty((count, rows, columns), dtype=np.float32)
    paddings: set[float] = set()
    for index, path in enumerate(series.files):
        dataset, stored_FJI = _read_file(path, series.label)
        for k, (file, frame) in enumerate(series.frames):
            if file != index:
                continue
            if frame >= len(stored_FJI) or stored_FJI.shape[1:] != (rows, columns):
                raise _torn(series.label)
            facts = Facts(dataset, frame)
            slope, intercept = (
                as_number(facts.get(name)) for name in ("RescaleSlope", "RescaleIntercept")
            )
            volume_KJI[k] = stored_FJI[frame] * (slope or 1.0) + (intercept or 0.0)
            padded_JI = _padded(dataset, stored_FJI[frame])
            if padded_JI is not None:
                paddings.add(float(volume_KJI[k][padded_JI].min()))
                volume_KJI[k][padded_JI] = np.nan
    if paddings:
        _fill(volume_KJI, min(paddings))
    return volume_KJI.T[..., None]


def _fill(volume_KJI: npt.NDArray[np.float32], padding: float) -> None:
    image_KJI = np.isfinite(volume_KJI)
    darkest = float(volume_KJI.min(where=image_KJI, initial=np.inf))
    volume_KJI[~image_KJI] = min(padding, darkest)


def _padded(dataset: Dataset, stored_JI: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Tell which pixels are padding; None if there are none."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = [_as_stored(end, dataset) for end in (value, limit) if isinstance(end, int)]
    padded_JI = (stored_JI >= min(ends)) & (stored_JI <= max(ends))
    return padded_JI if padded_JI.any() else None


def _as_stored(value: int, dataset: Dataset) -> int:
    """Read a padding value as the pixels are: scanners write -2000 as 63536, too."""
    size = 1 << int(dataset.BitsAllocated)
    is_too_large = int(dataset.PixelRepresentation) == 1 and value >= size // 2
    return value - size if is_too_large else value


def _read_file(path: Path, label: str) -> tuple[Dataset, npt.NDArray[Any]]:
    """Return a file's attributes and its stored values, `(F, J, I)`."""
    try:
        dataset = _read_source(path, label)
        is_native = transfer_syntax(dataset) in NATIVE
        return dataset, _native(dataset) if is_native else _decoded(dataset, label)
    except OSError as error:
        if error.errno is None:
            raise _torn(label) from None
        # It is about the file that is written to be decoded.
        raise
    except DAMAGE:
        # Their texts can hold bytes of the header, and with them the patient's name.
        raise _torn(label) from None


def _read_source(path: Path, label: str) -> Dataset:
    try:
        with open_ordinary(path) as file:
            return read_bounded(file, _TAGS, with_pixels=True).dataset
    except FileNotFoundError as error:
        raise StudyError(label, "one of its files is gone", "Check the folder.") from error
    except OSError as error:
        if error.errno is None:
            raise
        found = f"one of its files cannot be read ({error.strerror})"
        raise StudyError(label, found, explain(error).remedy) from error


def _torn(label: str) -> StudyError:
    found = "the pixels of an image file are damaged or end early"
    return StudyError(label, found, "Copy or export the series again.")


def _native(dataset: Dataset) -> npt.NDArray[Any]:
    """Return the stored values of plain pixel data; bits outside of the stored ones are cleared."""
    bits, stored, high = (int(dataset[name].value) for name in _BITS)
    # As pydicom read it: files without meta information do not name their syntax.
    _, is_little = dataset.original_encoding
    order = "<" if is_little else ">"
    kind = "i" if int(dataset.PixelRepresentation) == 1 else "u"
    shape_FJI = (count_frames(dataset), int(dataset.Rows), int(dataset.Columns))
    data = dataset.PixelData
    if dataset["PixelData"].is_undefined_length:
        raise ValueError("the pixels are compressed, whatever the transfer syntax says")
    if not is_little and bits == 8 and dataset["PixelData"].VR == "OW":
        # Words of two pixels, the first of which is the low byte (PS3.5, section 8.1.1).
        data = np.frombuffer(data, dtype="<u2").byteswap().tobytes()
    pixels = np.frombuffer(data, dtype=f"{order}{kind}{bits // 8}", count=int(np.prod(shape_FJI)))
    if not stored <= high + 1 <= bits:
        raise ValueError("the stored bits do not fit")
    if stored < bits:
        # Old scanners keep drawings in the bits above; a shift to the top and back drops them. Of
        # padding that needs these bits it would make an intensity.
        cleared = (pixels << (bits - 1 - high)) >> (bits - stored)
        padding = dataset.get("PixelPaddingValue")
        is_padding = pixels == _as_stored(padding, dataset) if isinstance(padding, int) else False
        pixels = np.where(is_padding, pixels, cleared)
    return pixels.reshape(shape_FJI)


def _frames_of(dataset: Dataset, num_frames: int) -> list[bytes]:
    """Return compressed frames, each in one piece, that are what the header says."""
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frames = list(
        generate_frames(dataset.PixelData, number_of_frames=num_frames, extended_offsets=offsets)
    )
    if len(frames) != num_frames:
        raise ValueError("frames are missing, or there are too many")
    for frame in frames:
        size = int(dataset.Rows), int(dataset.Columns)
        check_frame(frame, transfer_syntax(dataset), size)
    return frames


def _decoded(dataset: Dataset, label: str) -> npt.NDArray[Any]:
    """Let GDCM decode a copy of the pixel data, which names nobody."""
    with packages_needed(label):
        import SimpleITK

    bare = Dataset()
    for name in _PIXEL_MODULE:
        if name in dataset:
            bare[name] = dataset[name]
    num_frames = count_frames(dataset)
    bare["PixelData"] = dataset["PixelData"]
    frames = _frames_of(dataset, num_frames)
    if num_frames > 1:
        # GDCM reads no frames in several pieces where there are several.
        bare.PixelData = encapsulate(frames)
    bare.SOPClassUID = (
        uid.SecondaryCaptureImageStorage
        if num_frames == 1
        else uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    )
    bare.SOPInstanceUID = uid.generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = transfer_syntax(dataset)
    with tempfile.TemporaryDirectory() as folder, damage_named(Path(label)):
        path = Path(folder) / "pixels.dcm"
        with errors_named(path, Path(folder)):
            bare.save_as(path, enforce_file_format=True)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        pixels: npt.NDArray[Any] = SimpleITK.GetArrayFromImage(reader.Execute())
    return pixels.reshape(num_frames, *pixels.shape[-2:])
