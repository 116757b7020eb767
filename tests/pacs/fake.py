"""An archive in memory that does as it is told, also wrong."""

import io
from collections import Counter

from pydicom import dcmread

from pipeline.errors import ArchiveError
from pipeline.pacs.instance import key_of, pixels_sha256
from pipeline.pacs.transport import HiccupError, TransferError


class FakeArchive:
    """Speaks as `pipeline.pacs.transport.Archive` says.

    `trouble` maps the name of a call to a list of errors, raised one after the other before it
    answers; `None` stands for no error.
    """

    name = "http://fake/dicom-web"

    def __init__(self, paths=()):
        self.stored = {}
        self.pushes = []
        self.calls = Counter()
        self.trouble = {}
        self.cut = set()
        self.lost_in_series = set()
        self.lost = set()
        self.num_listed = None
        self.other_pixels = False
        # True, or how often what is there is not listed.
        self.unlisted = 0
        for path in paths:
            self._store(path.read_bytes())

    def _store(self, content):
        dataset = dcmread(io.BytesIO(content))
        self.stored[key_of(dataset)] = (content, dataset)

    def _meet(self, call):
        self.calls[call] += 1
        pending = self.trouble.get(call, [])
        error = pending.pop(0) if pending else None
        if error is not None:
            raise error

    def check(self):
        self._meet("check")

    def find_studies(self, filters):
        self._meet("find_studies")
        found = {}
        for key, (_, dataset) in self.stored.items():
            found[key.study_uid] = {
                "StudyInstanceUID": key.study_uid,
                **{word: str(dataset.get(word, "")) for word in filters},
            }
        found = {uid: answer | {"ModalitiesInStudy": "CT"} for uid, answer in found.items()}
        return list(found.values())

    def find_series(self, study_uid, filters):
        self._meet("find_series")
        number = Counter(key.series_uid for key in self.stored if key.study_uid == study_uid)
        found = {}
        for key, (_, dataset) in self.stored.items():
            if key.study_uid == study_uid:
                listed = self.num_listed or number[key.series_uid]
                found[key.series_uid] = {
                    "SeriesInstanceUID": key.series_uid,
                    "Modality": dataset.Modality,
                    "NumberOfSeriesRelatedInstances": str(listed),
                    **{word: str(dataset.get(word, "")) for word in filters},
                }
        return list(found.values())

    def find_instances(self, series):
        self._meet("find_instances")
        return [k.instance_uid for k in self.stored if k.series_uid == series.series_uid]

    def has(self, instance):
        self._meet("has")
        if self.unlisted is not True:
            self.unlisted = max(0, self.unlisted - (instance in self.stored))
        return instance in self.stored and not self.unlisted

    def pull_series(self, series, landing):
        self._meet("pull_series")
        for key in list(self.stored):
            if key.series_uid == series.series_uid:
                if key.instance_uid in self.lost_in_series:
                    continue
                self._send(key, landing)

    def pull_instance(self, instance, landing):
        self._meet("pull_instance")
        if instance.instance_uid in self.lost:
            raise TransferError(self.name, "it refuses the request (HTTP 404)", "Ask.")
        self._send(instance, landing)

    def _send(self, key, landing):
        content = self.stored[key][0]
        if key.instance_uid in self.cut:
            self.cut.discard(key.instance_uid)
            content = content[: len(content) // 2]
        with landing.file() as file:
            file.write(content)

    def push(self, instance, path):
        self._meet("push")
        self.pushes.append(instance)
        self._store(path.read_bytes())
        self._meet("pushed")

    def stored_pixels(self, instance):
        self._meet("stored_pixels")
        return "0" * 64 if self.other_pixels else pixels_sha256(self.stored[instance][1])

    def close(self):
        pass


def hiccup():
    return HiccupError("http://fake/dicom-web", "no connection, or a broken one", "Try again.")


def gone():
    return ArchiveError("http://fake/dicom-web", "it refuses the credentials (HTTP 401)", "Ask.")
