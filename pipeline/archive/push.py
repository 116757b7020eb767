"""Push what was made of a series, and believe it only when the archive shows it.

An archive may list what it took some time later. What was sent is noted, and asked for before it
would be sent again: it is not, for as long as the archive may still come to list it.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.archive.ledger import Ledger
from pipeline.archive.retry import PatientArchive
from pipeline.archive.transport import InstanceKey, TransferError
from pipeline.archive.whole import key_of, pixels_sha256, read_whole

LOST_S = 24 * 3600.0
"""What an archive took and has not listed after so long is taken for lost, and sent again."""


def push_products(products: Sequence[Path], archive: PatientArchive, ledger: Ledger) -> str:
    """Store DICOM files that are not in the archive yet, and ask whether they are then.

    Args:
        products: Each is asked for before, by the UID in it: an earlier run may have pushed it.
        archive: Where to.
        ledger: Knows what was sent.

    Returns:
        Why it is not sure yet that the archive has them all; empty if it shows them.

    Raises:
        TransferError: If a file is torn, or the archive refuses it, or has other pixels under its
            UID.
        ArchiveError: If the archive is gone.
    """
    unsure = ""
    for number, path in enumerate(products, start=1):
        what = f"product {number} of {len(products)}"
        unsure = _push_one(path, what, archive, ledger) or unsure
    return unsure


def _push_one(path: Path, what: str, archive: PatientArchive, ledger: Ledger) -> str:
    dataset = read_whole(path)
    if dataset is None:
        remedy = "Remove it and run the same command."
        raise TransferError(what, "the file is torn or no DICOM file", remedy)
    instance = key_of(dataset)
    if not archive.has(instance):
        if not _may_come(instance, archive, ledger):
            ledger.note_sent(instance.instance_uid, archive.name, is_accepted=False)
            archive.push(instance, path)
            ledger.note_sent(instance.instance_uid, archive.name, is_accepted=True)
        if not archive.has(instance):
            return f"{what} is not listed"
    try:
        stored = archive.stored_pixels(instance)
    except TransferError as error:
        return f"{what} is listed, but not to be had: {error.found}"
    if stored is not None and stored != pixels_sha256(dataset):
        remedy = "Look at it in the archive: it was changed, or is another one's."
        raise TransferError(what, "the archive has other pixels under its UID", remedy)
    return ""


def _may_come(instance: InstanceKey, archive: PatientArchive, ledger: Ledger) -> bool:
    """Say whether an instance was sent, and may still be listed without being sent again."""
    sent = ledger.sent(instance.instance_uid, archive.name)
    if sent is None:
        return False
    age_s = time.time() - sent.sent_at
    return 0 <= age_s < (LOST_S if sent.is_accepted else sum(archive.patience.waits_s))
