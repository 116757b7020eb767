import logging
import warnings

from pydicom import Dataset

from pipeline.system.quiet import quiet_libraries


def test_libraries_say_nothing_and_others_do(caplog, recwarn):
    warnings.simplefilter("always")
    with quiet_libraries():
        # Each of these quotes what it was given.
        Dataset().StudyInstanceUID = "Doe^Jane"
        Dataset().PatientBirthDate = "born in 1956"
        for name in ("pydicom", "pynetdicom.association", "urllib3.connectionpool"):
            logging.getLogger(name).error("1.2.3.4")
        logging.getLogger("pipeline").error("ours")
    assert [record.message for record in caplog.records] == ["ours"]
    assert list(recwarn) == []


def test_afterwards_all_is_as_it_was(caplog):
    logging.getLogger("pydicom").setLevel(logging.INFO)
    filters = list(warnings.filters)
    with quiet_libraries():
        pass
    assert logging.getLogger("pydicom").level == logging.INFO
    assert warnings.filters == filters
    logging.getLogger("pydicom").setLevel(logging.NOTSET)


def test_it_lasts_until_the_last_who_asked_for_it_is_done(caplog):
    first, second = quiet_libraries(), quiet_libraries()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    logging.getLogger("pydicom").error("1.2.3.4")
    assert caplog.records == []
    second.__exit__(None, None, None)
    logging.getLogger("pydicom").error("nobody's")
    assert [record.message for record in caplog.records] == ["nobody's"]
