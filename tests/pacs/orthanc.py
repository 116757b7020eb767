"""A real archive for tests, on ports of its own, in a folder of its own."""

import json
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AE_TITLE, CALLING_AE = "ORTHANC", "TRIVOX"
USER, PASSWORD = "reader", "not-a-secret"
START_S = 30


def missing():
    """Say why it cannot run here; nothing if it can."""
    if shutil.which("Orthanc") is None:
        return "no archive to test against: Orthanc is not installed (Debian: orthanc)"
    if not PLUGIN.is_file():
        return "Orthanc has no DICOMweb plugin (Debian: orthanc-dicomweb)"
    return ""


@dataclass
class Orthanc:
    """Where it runs."""

    http_port: int
    dicom_port: int
    process: subprocess.Popen

    @property
    def web(self):
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    @property
    def dimse(self):
        return f"dicom://{AE_TITLE}@127.0.0.1:{self.dicom_port}"

    def get(self, path):
        return requests.get(
            f"http://127.0.0.1:{self.http_port}{path}", auth=(USER, PASSWORD), timeout=10
        )

    def post(self, path, **body):
        url = f"http://127.0.0.1:{self.http_port}{path}"
        answer = requests.post(url, auth=(USER, PASSWORD), timeout=30, **body)
        answer.raise_for_status()
        return answer

    def store(self, path):
        self.post("/instances", data=Path(path).read_bytes())

    def delete(self, kind, uid):
        """Delete what has this UID; `kind` is instances, series or studies."""
        (identifier,) = [found["ID"] for found in self.post("/tools/lookup", data=uid).json()]
        url = f"http://127.0.0.1:{self.http_port}/{kind}/{identifier}"
        requests.delete(url, auth=(USER, PASSWORD), timeout=10).raise_for_status()

    def segmentations(self, study_uid):
        """Return the SOP Instance UIDs of a study's segmentations."""
        query = {"StudyInstanceUID": study_uid, "Modality": "SEG"}
        body = {"Level": "Instance", "Query": query, "Expand": True}
        found = self.post("/tools/find", json=body).json()
        return [instance["MainDicomTags"]["SOPInstanceUID"] for instance in found]


def free_ports(number):
    """Return ports that nobody listens on; they are held until all are known."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def running(folder, **settings):
    """Run an archive that only this machine can reach, until the block ends."""
    http_port, dicom_port = free_ports(2)
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": AE_TITLE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        # It listens to all addresses whatever it is told, so it must know whom it talks to.
        "DicomCheckModalityHost": True,
        **dict.fromkeys(("DicomAlwaysAllowEcho", "DicomAlwaysAllowStore"), False),
        **dict.fromkeys(("DicomAlwaysAllowFind", "DicomAlwaysAllowGet"), False),
        "DicomModalities": {
            "trivox": {
                "AET": CALLING_AE,
                "Host": "127.0.0.1",
                "Port": 104,
                **dict.fromkeys(("AllowEcho", "AllowFind", "AllowGet", "AllowStore"), True),
            }
        },
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            ["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder
        )
    archive = Orthanc(http_port, dicom_port, process)
    try:
        _wait(archive, folder)
        yield archive
    finally:
        # Nobody needs what it would still write.
        process.kill()
        process.wait()


def _wait(archive, folder):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            if archive.get("/system").ok:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
        if archive.process.poll() is not None:
            break
    raise RuntimeError(f"Orthanc did not start: {(folder / 'log').read_text('utf-8')[-2000:]}")
