"""Round trips to archives that misbehave, and a round trip that is killed."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults_child import FIRST_WAIT_S, MAX_WAIT_S, TRIES
from benchmarks.faults_ground import (
    Count,
    Ground,
    Loop,
    finish,
    kill,
    leftovers,
    masks,
    start,
    states,
)
from pipeline.pacs.ledger import Ledger
from tests.pacs import bent_dimse
from tests.pacs.bent import IN_JSON, STRANGE, Reply, bent_archive
from tests.pacs.bent_dimse import bent_peer
from tests.pacs.studies import make_study

NUM_HEALTHY = 3
_WAITS = f"{TRIES} tries, waits of {FIRST_WAIT_S} to {MAX_WAIT_S:.0f} s"


def archive(ground: Ground) -> Iterator[Loop]:
    """Bend every answer of an archive, for good and for once, then kill the run."""
    for question in ("series", "instances", "pull series"):
        kinds = {**STRANGE, **(IN_JSON if question != "pull series" else {})}
        yield _for_good(ground, question, kinds)
    yield _for_once(ground)
    yield _over_dimse(ground)
    yield _lists_later(ground)
    yield _killed(ground)


def _for_good(ground: Ground, question: str, kinds: Mapping[str, tuple[Reply, str]]) -> Loop:
    folder = ground.folder / question.replace(" ", "_")
    studies = _studies(folder / "sent", len(kinds) + NUM_HEALTHY)
    bad = dict(zip(studies, kinds, strict=False))
    asked = (question, "pull instance") if question == "pull series" else (question,)

    def bend(what: str, path: str) -> "Reply | None":
        uid = path.partition("/studies/")[2].partition("/")[0]
        return kinds[bad[uid]][0] if what in asked and uid in bad else None

    with bent_archive(sorted((folder / "sent").rglob("*.dcm"))) as bent:
        bent.bend = bend
        first = _run(ground, bent.url, folder / "out")
        bent.bend = lambda *of: None
        tells = {uid: kinds[kind][1] for uid, kind in bad.items()}
        counts = _judge(folder / "out", tells, first)
        again = _run(ground, bent.url, folder / "out") if question == "series" else None
        posts = max(bent.posted.values(), default=0)
    healed = (
        []
        if again is None
        else [
            Count("exit code when the archive is well again", 0, again.code),
            Count("pushed then", len(studies), again.states["pushed"]),
        ]
    )
    return Loop(
        f"DICOMweb, {question}: strange answers that stay",
        f"{len(kinds)} studies each with another answer to one question, whenever it is asked, and "
        f"{NUM_HEALTHY} healthy ones ({_WAITS}); then the archive is well.",
        [
            *counts,
            *healed,
            Count("most POSTs of one instance", 1, posts),
        ],
    )


def _for_once(ground: Ground) -> Loop:
    folder = ground.folder / "once"
    kinds = [
        kind for kind, (_, tells) in STRANGE.items() if "HTTP 4" not in tells and kind != "501"
    ]
    studies = _studies(folder / "sent", len(kinds) + NUM_HEALTHY)
    bad, asked = dict(zip(studies, kinds, strict=False)), Counter[tuple[str, str]]()

    def bend(what: str, path: str) -> "Reply | None":
        uid = path.partition("/studies/")[2].partition("/")[0]
        asked[what, uid] += 1
        is_first = asked[what, uid] == 1 and uid in bad and what != "push"
        return STRANGE[bad[uid]][0] if is_first else None

    with bent_archive(sorted((folder / "sent").rglob("*.dcm"))) as bent:
        bent.bend = bend
        run = _run(ground, bent.url, folder / "out")
        posts = max(bent.posted.values(), default=0)
    return Loop(
        "DICOMweb: strange answers that pass",
        f"{len(kinds)} studies: the first answer to each question of each is strange.",
        [
            Count("exit code", 0, run.code),
            Count("seconds", None, run.seconds),
            Count("pushed", len(studies), run.states["pushed"]),
            Count("most POSTs of one instance", 1, posts),
        ],
    )


def _over_dimse(ground: Ground) -> Loop:
    folder = ground.folder / "dimse"
    kinds = bent_dimse.STRANGE
    studies = _studies(folder / "sent", len(kinds) + NUM_HEALTHY)
    bad = dict(zip(studies, kinds, strict=False))

    def bend(what: str, uid: str) -> object:
        asked, answer, _ = kinds.get(bad.get(uid, ""), ("", None, ""))
        return answer if asked and what.startswith(asked) else None

    with bent_peer(sorted((folder / "sent").rglob("*.dcm"))) as bent:
        bent.bend = bend
        first = _run(ground, bent.url, folder / "out")
        bent.bend = lambda *of: None
        tells = {uid: kinds[kind][2] for uid, kind in bad.items()}
        counts = _judge(folder / "out", tells, first)
        again = _run(ground, bent.url, folder / "out")
        pushes = max(bent.pushed.values(), default=0)
    return Loop(
        "DIMSE: failures, aborts and wrong objects that stay",
        f"{len(kinds)} studies each with another fault, and {NUM_HEALTHY} healthy ones ({_WAITS}).",
        [
            *counts,
            Count("exit code when the archive is well again", 0, again.code),
            Count("pushed then", len(studies), again.states["pushed"]),
            Count("most C-STOREs of one instance", 1, pushes),
        ],
    )


def _lists_later(ground: Ground) -> Loop:
    folder = ground.folder / "later"
    studies = _studies(folder / "sent", 4)
    first: dict[str, float] = {}
    with bent_archive(sorted((folder / "sent").rglob("*.dcm"))) as bent:

        def is_listed(uid: str) -> bool:
            if bent.instances[uid][2] == "CT":
                return True
            after = float("inf") if bent.instances[uid][0] == studies[0] else 4.0
            return time.monotonic() - first.setdefault(uid, time.monotonic()) > after

        bent.is_listed = is_listed
        runs = [_run(ground, bent.url, folder / "out") for _ in range(2)]
        bent.is_listed = lambda uid: True
        runs.append(_run(ground, bent.url, folder / "out"))
        posts = max(bent.posted.values(), default=0)
    return Loop(
        "DICOMweb: listed later",
        "What is pushed of three studies is listed 4 s later, of one not before the third run.",
        [
            *(
                Count(f"{state}, run {number}", expected, run.states[state])
                for number, run in enumerate(runs, start=1)
                for state, expected in (
                    ("pushed", 4 if number == 3 else 3),
                    ("unconfirmed", 0 if number == 3 else 1),
                )
            ),
            Count("most POSTs of one instance", 1, posts),
        ],
    )


def _killed(ground: Ground) -> Loop:
    folder = ground.folder / "killed"
    studies = _studies(folder / "sent", 8)
    paths = sorted((folder / "sent").rglob("*.dcm"))
    with bent_archive(paths) as bent:
        whole = _run(ground, bent.url, folder / "whole")
    num_kills = 0
    with bent_archive(paths) as bent:
        for _ in ground.rounds(14):
            process = start(_words(ground, bent.url, folder / "out"))
            time.sleep(ground.rng.uniform(0, 0.9 * whole.seconds))
            num_kills += process.poll() is None
            kill(process)
        last = _run(ground, bent.url, folder / "out")
        posts = max(bent.posted.values(), default=0)
        products = Counter(bent.products())
    left = list((folder / "out" / ".trivox" / "incoming").iterdir())
    found = Counter(masks(folder / "out").values())
    return Loop(
        "DICOMweb: round trip killed",
        f"`trivox pacs` of {len(studies)} studies was sent SIGKILL at random moments.",
        [
            Count("kills", None, num_kills),
            Count("exit code at the end", 0, last.code),
            Count("pushed", len(studies), last.states["pushed"]),
            Count(
                "studies with one segmentation in the archive",
                len(studies),
                sum(number == 1 for number in products.values()),
            ),
            Count("most POSTs of one instance", 1, posts),
            Count(
                "masks equal to an undisturbed run's",
                len(studies),
                sum((found & Counter(masks(folder / "whole").values())).values()),
            ),
            Count("files left over", 0, leftovers(folder / "out") + len(left)),
        ],
    )


@dataclass(frozen=True)
class _Run:
    """What came of one command."""

    code: int
    seconds: int
    states: Counter[str]


def _words(ground: Ground, url: str, out: Path) -> list[str]:
    words = ["benchmarks.faults_child", "pacs", "--archive", url, "--query", "Modality=CT"]
    model = ["--model", str(ground.model), "--out", str(out), "--device", "cpu"]
    return [*words, *model, "admission.mode=warn"]


def _run(ground: Ground, url: str, out: Path) -> _Run:
    began = time.monotonic()
    code = finish(start(_words(ground, url, out)))
    seconds = round(time.monotonic() - began)
    return _Run(-1 if code is None else code, seconds, states(out, "archive.csv", "state"))


def _judge(out: Path, tells: Mapping[str, str], run: _Run) -> list[Count]:
    """Return whether each study in trouble ended in a row that says why, and the others well.

    Args:
        out: Output folder.
        tells: By UID of each study in trouble, the pattern of its reason.
        run: The first one.
    """
    with Ledger(out / ".trivox" / "journal.sqlite", is_reader=True) as ledger:
        entries = {uid: ledger.entries(uid) for uid in tells}
    failed = {uid for uid, found in entries.items() if any(one.state == "failed" for one in found)}
    named = {
        uid for uid in failed if any(re.search(tells[uid], one.reason) for one in entries[uid])
    }
    return [
        Count("exit code", 1, run.code),
        Count("seconds", None, run.seconds),
        Count("studies in trouble that are entered as failed", len(tells), len(failed)),
        Count("of them with a reason that names what came", len(tells), len(named)),
        Count("healthy studies pushed", NUM_HEALTHY, run.states["pushed"]),
    ]


def _studies(folder: Path, number: int) -> list[str]:
    """Make studies of a few slices; return their UIDs."""
    return sorted(make_study(folder, num_slices=4)[0] for _ in range(number))
