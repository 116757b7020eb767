"""Write the volumes of a segmentation's labels as a DICOM Structured Report.

A Comprehensive SR of template TID 1500 with one measurement group (TID 1411) for each label: its
volume, and references to its segment and to the series that was segmented. It is written as
complete, preliminary and unverified: no person has looked at it, or said so.

Source: DICOM PS3.16 TID 1500, TID 1411, TID 300, CID 100, CID 244, CID 7021; PS3.3 A.35.3
(Comprehensive SR).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PublicCode

from pipeline.errors import PipelineError
from pipeline.manifest import Code, SegmentCode
from pipeline.output.dicom.algorithm import (
    PRIVATE_SCHEME,
    PRODUCT,
    Algorithm,
    DicomOutputConfig,
    concept,
    derived_uid,
    long_string,
)
from pipeline.output.dicom.identity import put_identity
from pipeline.output.dicom.read_back import check_report, named_segments, unlike
from pipeline.output.dicom.segmentation import equipment
from pipeline.output.dicom.source import SourceSeries, read_source
from pipeline.system.files import atomic_path
from pipeline.system.quiet import quiet_libraries

if TYPE_CHECKING:
    from highdicom.sr import (
        ComprehensiveSR,
        FindingSite,
        MeasurementReport,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

_VOLUME_DIGITS = 6
"""Decimals of a volume in ml: far below a voxel, and within the 16 characters that DICOM has."""

_MILLILITRE = Code(value="ml", scheme="UCUM", meaning="ml")
_LATERALITIES = ("7771000", "24028007", "51440002", "66459002")
"""Left, right, both and one of two, in SNOMED CT (CID 244)."""


_YES = Code(value="373066001", scheme="SCT", meaning="Yes")
_OUTSIDE = Code(
    value="beyond_volume",
    scheme=PRIVATE_SCHEME,
    meaning="Extends beyond the imaged volume",
)


@dataclass(frozen=True)
class Measured:
    """What a report says of labels.

    Attributes:
        volumes_ml: Volume of every label, in ml.
        incomplete: Labels that touch an end of the volume, so that it is of a part of them.
    """

    volumes_ml: Mapping[str, float]
    incomplete: Collection[str] = ()


@quiet_libraries()
def write_report(
    measured: Measured,
    source_files: Sequence[Path],
    segmentation: Path,
    algorithm: Algorithm,
    path: Path,
    config: DicomOutputConfig,
) -> None:
    """Write volumes as a DICOM Structured Report; it appears only when it was read back unchanged.

    Args:
        measured: What to write.
        source_files: The files of the series that was segmented, in any order.
        segmentation: The DICOM Segmentation that `write_segmentation` made of it.
        algorithm: What made the labels, and what it calls them.
        path: The file to write.
        config: How to write it.

    Raises:
        StudyError: If the source is no series that an output can refer to.
        PipelineError: If the segmentation is of another series or has other labels, or the report
            does not hold, read back, what was to be written.
        ValueError: If the volumes are not those of the algorithm's labels.
    """
    volumes_ml = measured.volumes_ml
    if set(volumes_ml) != set(algorithm.labels):
        raise ValueError("volumes must be given for the algorithm's labels, and for no others")
    rounded_ml = {name: round(volumes_ml[name], _VOLUME_DIGITS) for name in algorithm.labels}
    source = read_source(source_files)
    reference = _read_reference(segmentation, source, algorithm)
    with atomic_path(path) as temporary:
        rounded = Measured(rounded_ml, measured.incomplete)
        report = _build(rounded, source, reference, algorithm, config)
        report.save_as(temporary, enforce_file_format=True)
        numbers = algorithm.segment_numbers
        expected = {
            numbers[name]: (volume_ml, name in measured.incomplete)
            for name, volume_ml in rounded_ml.items()
        }
        check_report(temporary, expected, str(reference.SOPInstanceUID), path.name)


def _read_reference(path: Path, source: SourceSeries, algorithm: Algorithm) -> Dataset:
    """Return the header of a segmentation after making sure that it is of this series."""
    tags = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
    segmentation = dcmread(
        path,
        stop_before_pixels=True,
        specific_tags=[*tags, "ReferencedSeriesSequence", "SegmentSequence"],
    )
    series = [str(item.SeriesInstanceUID) for item in segmentation.ReferencedSeriesSequence]
    if series != [source.uid]:
        remedy = "Write the segmentation of this series first."
        raise PipelineError(path.name, "the segmentation is of another series", remedy)
    if named_segments(segmentation) != algorithm.segment_labels:
        raise unlike(path.name, "its segments are not the labels")
    return segmentation


def _build(
    measured: Measured,
    source: SourceSeries,
    reference: Dataset,
    algorithm: Algorithm,
    config: DicomOutputConfig,
) -> "ComprehensiveSR":
    from highdicom.sr import ComprehensiveSR

    marks = [repr(sorted(measured.incomplete))] if measured.incomplete else []
    seed = (str(reference.SOPInstanceUID), repr(sorted(measured.volumes_ml.items())), *marks)
    report = ComprehensiveSR(
        # The first one lends its (empty) identity.
        evidence=[*source.headers, reference],
        content=_content(measured, source, reference, algorithm),
        series_instance_uid=derived_uid("report series", *seed),
        series_number=config.series_number + 1,
        sop_instance_uid=derived_uid("report", *seed),
        instance_number=1,
        is_complete=True,
        series_description=algorithm.title("volumes"),
        **equipment(algorithm),
    )
    put_identity(source.identity, report)
    return report


def _content(
    measured: Measured,
    source: SourceSeries,
    reference: Dataset,
    algorithm: Algorithm,
) -> "MeasurementReport":
    from highdicom import sr

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", algorithm.sha256, algorithm.version),
        name=long_string(f"{PRODUCT} {algorithm.name}"),
        manufacturer_name=PRODUCT,
    )
    context = sr.ObserverContext(codes.DCM.Device, device)
    groups = [
        _group(measured, label, source, reference, algorithm) for label in algorithm.segment_numbers
    ]
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=context),
        procedure_reported=_procedure(source),
        imaging_measurements=groups,
    )


def _group(
    measured: Measured, label: str, source: SourceSeries, reference: Dataset, algorithm: Algorithm
) -> "VolumetricROIMeasurementsAndQualitativeEvaluations":
    from highdicom import sr

    code = algorithm.code_of(label)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=algorithm.tracking_uid(label, source.uid),
            identifier=algorithm.tracking_id(label),
        ),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=reference.SOPClassUID,
            sop_instance_uid=reference.SOPInstanceUID,
            segment_number=algorithm.segment_numbers[label],
            source_series=sr.SourceSeriesForSegmentation(source.uid),
        ),
        finding_category=concept(code.category),
        finding_type=concept(code.type),
        algorithm_id=sr.AlgorithmIdentification(
            name=long_string(f"{PRODUCT} {algorithm.name}"),
            version=algorithm.version,
            parameters=[f"model_sha256={algorithm.sha256}"],
        ),
        finding_sites=_sites(code),
        measurements=[
            sr.Measurement(codes.SCT.Volume, measured.volumes_ml[label], concept(_MILLILITRE))
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(concept(_OUTSIDE), concept(_YES))]
        if label in measured.incomplete
        else None,
    )


def _sites(code: SegmentCode) -> "list[FindingSite] | None":
    """Return where a finding lies: its region, or itself where only its side is known."""
    from highdicom.sr import FindingSite

    site, modifier = (
        (code.region, code.region_modifier) if code.region else (code.type, code.type_modifier)
    )
    if code.region is None and modifier is None:
        return None
    key = "topographical_modifier"
    if modifier and modifier.scheme == "SCT" and modifier.value in _LATERALITIES:
        key = "laterality"
    return [FindingSite(concept(site), **({key: concept(modifier)} if modifier else {}))]


def _procedure(source: SourceSeries) -> PublicCode:
    of_modality: dict[str, PublicCode] = {
        "CT": codes.cid100.CTUnspecifiedBodyRegion,
        "MR": codes.cid100.MRIUnspecifiedBodyRegion,
        "PT": codes.cid100.PETUnspecifiedBodyRegion,
    }
    other: PublicCode = codes.cid100.ImagingProcedure
    return of_modality.get(source.headers[0].Modality, other)
