"""The round trip to a DICOM archive: pull studies by query, segment them, push DICOM SEG back.

Over DICOMweb or DIMSE; each series is journalled, so that a run that was killed continues where it
was when it is started again. Logs, errors and tables name studies by salted hashes.
"""

from pipeline.archive.address import Address, check_ae_title, parse_address
from pipeline.archive.connect import connect
from pipeline.archive.credentials import Credentials, read_credentials
from pipeline.archive.query import Query, parse_query
from pipeline.archive.retry import Patience, PatientArchive
from pipeline.archive.run import RoundTrip, Summary, run_round_trip
from pipeline.archive.segmenter import Result, SegmentFolder
from pipeline.archive.work import Counts, count_work

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
