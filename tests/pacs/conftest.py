import pytest
from pynetdicom import AE

from pipeline.pacs import Credentials, Patience, connect, parse_address
from pipeline.pacs.address import DimseAddress
from pipeline.pacs.dimse import DimseArchive
from tests.pacs import orthanc as orthanc_module
from tests.pacs.studies import make_study


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory):
    """A real archive, empty at first; tests look for the UIDs of what they put there."""
    why = orthanc_module.missing()
    if why:
        pytest.skip(why)
    with orthanc_module.running(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


@pytest.fixture(scope="session")
def credentials():
    return Credentials(orthanc_module.USER, orthanc_module.PASSWORD)


@pytest.fixture(params=["web", "dimse"])
def address(request, orthanc):
    """The archive's address, over each transport."""
    return parse_address(getattr(orthanc, request.param), "--archive")


@pytest.fixture
def connection(address, credentials):
    """Return what opens the archive."""
    return opener(address, credentials)


@pytest.fixture
def web(orthanc, credentials):
    """Return what opens the archive over DICOMweb."""
    return opener(parse_address(orthanc.web, "--archive"), credentials)


def opener(address, credentials):
    is_web = not str(address).startswith("dicom:")

    def open_archive():
        return connect(
            address, credentials=credentials if is_web else None, patience=Patience(2, 0.01)
        )

    return open_archive


@pytest.fixture
def stored_study(orthanc, tmp_path):
    """Return what makes a study and stores it: its UID, those of its series."""

    def store(**how):
        study_uid, series_uids = make_study(tmp_path / "sent", **how)
        for path in sorted((tmp_path / "sent" / study_uid).iterdir()):
            orthanc.store(path)
        return study_uid, series_uids

    return store


@pytest.fixture
def peer():
    """Return what starts an application entity that offers what it is told."""
    servers = []

    def start(contexts, handlers=(), **settings):
        entity = AE(ae_title="PEER")
        for name, value in settings.items():
            setattr(entity, name, value)
        for context in contexts:
            entity.add_supported_context(context, scu_role=True, scp_role=True)
        (port,) = orthanc_module.free_ports(1)
        servers.append(
            entity.start_server(("127.0.0.1", port), block=False, evt_handlers=list(handlers))
        )
        return DimseArchive(DimseAddress("PEER", "127.0.0.1", port), orthanc_module.CALLING_AE)

    yield start
    for server in servers:
        server.shutdown()
