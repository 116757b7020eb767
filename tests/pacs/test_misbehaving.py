"""Archives that misbehave: each study ends in a row, the healthy ones are done, the run ends."""

import csv
import io
import logging
import re
import time
from collections import Counter

import pytest
from pydicom import dcmread, dcmwrite

from pipeline.errors import ArchiveError
from pipeline.pacs import (
    Credentials,
    Patience,
    Query,
    RoundTrip,
    connect,
    parse_address,
    web_session,
)
from pipeline.pacs.ledger import Ledger
from pipeline.pacs.run import run_round_trip
from tests.pacs import bent_dimse as dimse
from tests.pacs.bent import (
    IN_JSON,
    MULTIPART,
    STRANGE,
    bent_archive,
    changed,
    cut,
    drip,
    html,
    in_json,
    multipart,
    reply,
    ui,
)
from tests.pacs.bent_dimse import bent_peer
from tests.pacs.studies import IDENTIFIERS, ThresholdSegmenter, make_study

NUM_SLICES = 2


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Studies of one series each: UIDs of the studies, and files."""
    folder = tmp_path_factory.mktemp("many")
    uids = sorted(make_study(folder, num_slices=NUM_SLICES)[0] for _ in range(20))
    return uids, sorted(folder.rglob("*.dcm"))


@pytest.fixture(scope="module")
def sent(many):
    """Two of them; the second one is in trouble, in what follows."""
    uids = many[0][:2]
    return uids, [path for path in many[1] if path.parent.name in uids]


@pytest.fixture
def bent(sent):
    with bent_archive(sent[1]) as archive:
        yield archive


@pytest.fixture
def go(tmp_path):
    """Return what runs a round trip, and gives state and reason of each study by its UID."""

    def run(bent, patience=None):
        patience = patience or Patience(3, 0.002)
        source, target = (
            connect(parse_address(bent.url, "--archive"), patience=patience) for _ in "ab"
        )
        out = tmp_path / "out"
        trip = RoundTrip(source, target, Query(), None, out, "recipe")
        run_round_trip(trip, ThresholdSegmenter(out))
        with (out / "archive.csv").open(encoding="utf-8") as file:
            rows = {row["study"]: (row["state"], row["reason"]) for row in csv.DictReader(file)}
        with Ledger(out / ".trivox" / "journal.sqlite", is_reader=True) as ledger:
            return {uid: rows[ledger.name_of(uid)] for uid in asked_of(bent)}

    def asked_of(bent):
        kept = bent.instances.values()
        return {str(one[0] if isinstance(one, tuple) else one.StudyInstanceUID) for one in kept}

    return run


def states_of(found):
    return sorted(state for state, _ in found.values())


def assert_in_trouble(found, uid, pattern):
    """All are pushed but one, whose reason says why."""
    assert {of for of, (state, _) in found.items() if state != "pushed"} == {uid}
    state, reason = found[uid]
    assert state == "failed"
    assert re.search(pattern, reason), reason


def always(question, study, answer):
    return lambda asked, path: answer if asked == question and study in path else None


def once(question, study, answer):
    left = [answer]
    return lambda asked, path: left.pop() if left and asked == question and study in path else None


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("pipeline.pacs.transport.MAX_WAIT_S", 0.05)


QUESTIONS = ("series", "instances", "pull series")


def dealt(many, kinds):
    """Return what is wrong with each of many studies; the last ones are healthy."""
    return dict(zip(many[0], kinds, strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_stays_strange_is_that_study_s(many, go, question, caplog):
    """R02: every question of one study, every strange answer, a study each."""
    kinds = dealt(many, STRANGE)
    strange = (question, "pull instance") if question == "pull series" else (question,)

    def bend(asked, path):
        uid = path.partition("/studies/")[2].partition("/")[0]
        return STRANGE[kinds[uid]][0] if asked in strange and uid in kinds else None

    began = time.monotonic()
    with bent_archive(many[1]) as bent, caplog.at_level(logging.DEBUG):
        bent.bend = bend
        found = go(bent)
        assert len(bent.products()) == len(many[0]) - len(kinds) > 1
        for uid, kind in kinds.items():
            assert found[uid][0] == "failed", kind
            assert re.search(STRANGE[kind][1], found[uid][1]), (kind, found[uid])
        assert states_of(found).count("failed") == len(kinds)
        said = caplog.text + str(list(found.values()))
        assert [text for text in (*IDENTIFIERS, *many[0]) if text in said] == []
        assert time.monotonic() - began < 60


@pytest.mark.slow
def test_what_is_strange_once_is_asked_for_again(many, go):
    """R05: each question of each study has one strange answer, of all studies and pushes too."""
    kinds = dealt(many, [kind for kind, (_, pattern) in STRANGE.items() if "HTTP 4" not in pattern])
    asked_before = Counter()

    def bend(asked, path):
        uid = path.partition("/studies/")[2].partition("/")[0]
        asked_before[asked, uid] += 1
        if asked == "studies":
            # The first look at the archive must be answered well, once by each side.
            return html if asked_before[asked, uid] == 3 else None
        is_first = asked_before[asked, uid] == 1 and asked != "push"
        is_first = is_first and kinds.get(uid) != "501"
        return STRANGE[kinds[uid]][0] if is_first and uid in kinds else None

    with bent_archive(many[1]) as bent:
        bent.bend = bend
        assert set(states_of(go(bent))) == {"pushed"}
        assert set(bent.posted.values()) == {1}


@pytest.mark.parametrize("question", ["series", "instances"])
def test_lists_that_make_no_sense_are_that_study_s(many, go, question, monkeypatch):
    monkeypatch.setattr(web_session, "MAX_LIST_BYTES", 1 << 20)
    kinds = dealt(many, IN_JSON)
    uids = {*kinds, many[0][-1]}
    with bent_archive(path for path in many[1] if path.parent.name in uids) as bent:
        bent.bend = lambda asked, path: next(
            (IN_JSON[kinds[uid]][0] for uid in kinds if asked == question and uid in path), None
        )
        found = go(bent)
        for uid, kind in kinds.items():
            assert found[uid][0] == "failed", kind
            assert re.search(IN_JSON[kind][1], found[uid][1]), (kind, found[uid])
        assert found[many[0][-1]][0] == "pushed"


@pytest.mark.parametrize("kind", ["HTML", "cut", "reset", "500", "503 for ever", "redirect"])
@pytest.mark.parametrize("is_stored", [True, False])
def test_an_answer_to_a_push_that_makes_no_sense_is_asked_for_before_it_is_sent_again(
    bent, go, kind, is_stored
):
    def answer(handler):
        if is_stored:
            handler.well()
        STRANGE[kind][0](handler)

    if kind == "cut":
        answer = cut(0.5) if is_stored else reply(200, b'{"00')
    if is_stored and kind == "503 for ever":
        pytest.skip("who says that it is busy has not stored it")
    bent.bend = once("push", "", answer)
    assert set(states_of(go(bent))) == {"pushed"}
    assert set(bent.posted.values()) == {1}


def test_what_is_refused_is_that_study_s(bent, go, sent):
    refused = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0122]}}]}}
    for answer in (reply(409), in_json(refused), reply(413)):
        bent.bend = always("push", sent[0][1], answer)
        assert_in_trouble(go(bent), sent[0][1], "does not store|HTTP 413")
    bent.bend = lambda *of: None
    assert set(states_of(go(bent))) == {"pushed"}
    assert set(bent.posted.values()) == {1}


def test_redirects_are_not_followed_and_nobody_else_gets_the_credentials(bent):
    with bent_archive() as other:
        for status in (301, 302, 303, 307, 308):
            bent.bend = always("studies", "", reply(status, Location=f"{other.url}/studies"))
            archive = connect(
                parse_address(bent.url, "--archive"), credentials=Credentials("me", "you")
            )
            with pytest.raises(ArchiveError, match="points elsewhere"):
                archive.check()
        assert other.asked == []


def test_an_archive_that_lists_later_gets_it_once(bent, go):
    """R06: three looks later, within the run's wait."""
    first = {}

    def is_listed(uid):
        if bent.instances[uid][2] == "CT":
            return True
        return time.monotonic() - first.setdefault(uid, time.monotonic()) > 0.3

    bent.is_listed = is_listed
    assert set(states_of(go(bent, Patience(3, 0.02)))) == {"pushed"}
    assert set(bent.posted.values()) == {1}


def test_what_is_never_listed_is_pushed_not_confirmed_and_not_pushed_again(bent, go):
    bent.is_listed = lambda uid: bent.instances[uid][2] == "CT"
    for _ in range(2):
        for state, reason in go(bent, Patience(2, 0.0005)).values():
            assert state == "unconfirmed"
            assert reason.startswith("pushed, not confirmed: product 1 of 1 is not listed. Run")
    bent.is_listed = lambda uid: True
    assert set(states_of(go(bent))) == {"pushed"}
    assert set(bent.posted.values()) == {1}


def test_a_series_that_grew_is_done_again(bent, go, sent, tmp_path):
    """R01: pushed with one slice fewer; the mask then has all slices."""
    late = dcmread(sent[1][0])
    uid = str(late.SOPInstanceUID)
    bent.is_listed = lambda found: found != uid
    assert set(states_of(go(bent))) == {"pushed"}
    for product in (tmp_path / "out").glob("*_seg.dcm"):
        if dcmread(product).StudyInstanceUID == late.StudyInstanceUID:
            product.unlink()
    bent.is_listed = lambda found: True
    assert set(states_of(go(bent))) == {"pushed"}
    number = Counter(bent.products())
    assert (number[late.StudyInstanceUID], sum(number.values())) == (2, 3)
    bent.asked.clear()
    assert set(states_of(go(bent))) == {"pushed"}
    assert {question for question, _ in bent.asked} == {"studies", "series", "instances"}


def test_a_series_that_grows_while_it_is_pulled_is_waited_for(bent, go, sent):
    late, looks = str(dcmread(sent[1][0]).SOPInstanceUID), []

    def is_listed(uid):
        looks.append(uid == late)
        return uid != late or sum(looks) > 6

    bent.is_listed = is_listed
    assert set(states_of(go(bent, Patience(6, 0.01)))) == {"pushed"}
    assert len(bent.products()) == 2


def test_a_series_that_grows_while_it_is_segmented_is_told(bent, go, sent, tmp_path, monkeypatch):
    late = dcmread(sent[1][0])
    hidden = {str(late.SOPInstanceUID)}
    bent.is_listed = lambda uid: uid not in hidden
    real = ThresholdSegmenter.__call__

    def slowly(self, folder):
        results = real(self, folder)
        hidden.clear()
        return results

    monkeypatch.setattr(ThresholdSegmenter, "__call__", slowly)
    pattern = "had 1 instances and has 2 meanwhile"
    assert_in_trouble(go(bent), str(late.StudyInstanceUID), pattern)
    assert late.StudyInstanceUID not in bent.products()


def test_instances_that_are_listed_or_come_twice_are_one(bent, go, sent):
    uids = [str(dcmread(path).SOPInstanceUID) for path in sent[1]]
    bent.listed_twice = set(uids[:2])
    twice = changed(lambda body: body.replace(b"--mark--", b"") + body)
    bent.bend = always("pull series", sent[0][1], twice)
    assert set(states_of(go(bent))) == {"pushed"}


def test_different_instances_under_one_uid_are_refused(bent, go, sent):
    other = dcmread(sent[1][0])
    other.PixelData = bytes(len(other.PixelData))
    content = io.BytesIO()
    dcmwrite(content, other, enforce_file_format=True)
    both = changed(lambda body: multipart([content.getvalue()])[: -len(b"--mark--\r\n")] + body)
    bent.bend = always("pull series", other.StudyInstanceUID, both)
    assert_in_trouble(
        go(bent), str(other.StudyInstanceUID), "two instances that differ have the same UID"
    )


def test_instances_of_another_study_are_not_taken(bent, go, sent):
    alien = always("pull series", sent[0][1], reply(200, multipart([b"x" * 9, b""]), MULTIPART))
    bent.bend = lambda *of: alien(*of) or always("pull instance", sent[0][1], reply(404))(*of)
    assert_in_trouble(go(bent), sent[0][1], "2 of 2 instances did not arrive whole .*HTTP 404")


def test_a_series_that_is_listed_in_two_studies_is_told(bent, go, sent):
    uid = next(kept[1] for kept in bent.instances.values() if kept[0] == sent[0][0])
    twice = in_json([ui("0020000E", uid) | ui("00080060", "CT", "CS")])
    bent.bend = always("series", sent[0][1], twice)
    assert_in_trouble(go(bent), sent[0][1], "a series of another study")


def test_answers_that_drip_are_given_up(bent, go, sent, monkeypatch):
    monkeypatch.setattr(web_session, "SLOW_S", 0.1)
    bent.bend = lambda *of: (
        always("pull series", sent[0][1], drip(0.01))(*of)
        or always("pull instance", sent[0][1], drip(0.01))(*of)
    )
    assert_in_trouble(go(bent, Patience(1, 0.01)), sent[0][1], "drop by drop")


def test_more_instances_than_there_can_be_are_not_taken(bent, go, sent):
    def endless(handler):
        _, body, kind = handler.well()
        part = body[: -len(b"--mark--\r\n")]
        handler.begin(200, kind, {"Connection": "close"})
        handler.close_connection = True
        while True:
            handler.wfile.write(part)

    bent.bend = always("pull series", sent[0][1], endless)
    assert set(states_of(go(bent))) == {"pushed"}


@pytest.mark.slow
def test_application_entities_that_misbehave(many, go, caplog):
    """R02 over DIMSE: a study each; three are healthy, and one of them is sent twice."""
    kinds = dealt(many, dimse.STRANGE)

    def bend(question, uid):
        if uid == many[0][-1] and question.startswith("pull"):
            return dimse.twice
        asked, answer, _ = dimse.STRANGE.get(kinds.get(uid), ("", None, ""))
        return answer if asked and question.startswith(asked) else None

    with bent_peer(many[1]) as bent, caplog.at_level(logging.DEBUG, "pipeline"):
        bent.bend = bend
        found = go(bent, Patience(2, 0.002))
        for uid, kind in kinds.items():
            assert found[uid][0] == "failed", kind
            assert re.search(dimse.STRANGE[kind][2], found[uid][1]), (kind, found[uid])
        assert states_of(found).count("pushed") == len(many[0]) - len(kinds) == 3
        said = caplog.text + str(list(found.values()))
        assert [text for text in (*IDENTIFIERS, *many[0]) if text in said] == []


def test_application_entities_that_misbehave_once(many, go):
    """R05: each question has one aborted answer; a push whose answer is lost is not repeated."""
    uids, asked = many[0][:2], set()

    def bend(question, uid):
        is_first = (question, uid) not in asked
        asked.add((question, uid))
        if not is_first:
            return None
        return "lost" if question == "push" else dimse.abort

    with bent_peer(path for path in many[1] if path.parent.name in uids) as bent:
        bent.bend = bend
        assert set(states_of(go(bent))) == {"pushed"}
        assert set(bent.pushed.values()) == {1}


def test_series_that_grew_and_different_instances_under_one_uid_over_dimse(many, go, tmp_path):
    uids = many[0][:2]
    with bent_peer(path for path in many[1] if path.parent.name in uids) as bent:
        late = next(uid for uid, d in bent.instances.items() if d.StudyInstanceUID == uids[0])
        kept = bent.instances.pop(late)
        go(bent)
        (tmp_path / "out" / ".trivox").rename(tmp_path / "journal")
        for product in (tmp_path / "out").glob("*_seg.dcm"):
            product.unlink()
        (tmp_path / "journal").rename(tmp_path / "out" / ".trivox")
        bent.instances[late] = kept
        other = dimse.changed(PixelData=bytes(2048))
        bent.bend = lambda question, uid: (
            (lambda event, well: [*well, *other(event, well[:1])])
            if (question, uid) == ("pull series", uids[0])
            else None
        )
        pattern = "two instances that differ have the same UID"
        assert_in_trouble(go(bent), uids[0], pattern)
        bent.bend = lambda question, uid: None
        assert set(states_of(go(bent))) == {"pushed"}
        assert len(bent.pushed) == 3
