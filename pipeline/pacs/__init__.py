"""The round trip to a DICOM archive: pull studies by query, segment them, push DICOM SEG back.

Over DICOMweb or DIMSE; each series is journalled, so that a run that was killed continues where it
was when it is started again. Logs, errors and tables name studies by salted hashes.
"""

from pipeline.pacs.address import (
    Address,
    Credentials,
    check_ae_title,
    parse_address,
    read_credentials,
)
from pipeline.pacs.run import RoundTrip, Summary, connect, run_round_trip
from pipeline.pacs.segmenter import Result, SegmentFolder
from pipeline.pacs.transport import Patience, PatientArchive
from pipeline.pacs.work import Counts, Query, count_work, parse_query

__all__ = [
    "Address",
    "Counts",
    "Credentials",
    "Patience",
    "PatientArchive",
    "Query",
    "Result",
    "RoundTrip",
    "SegmentFolder",
    "Summary",
    "check_ae_title",
    "connect",
    "count_work",
    "parse_address",
    "parse_query",
    "read_credentials",
    "run_round_trip",
]
