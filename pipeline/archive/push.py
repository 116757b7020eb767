"""Push what was made of a series, and believe it only when the archive shows it."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.archive.retry import PatientArchive
from pipeline.archive.transport import TransferError
from pipeline.archive.whole import key_of, pixels_sha256, read_whole


def push_products(products: Sequence[Path], archive: PatientArchive) -> None:
    """Store DICOM files that are not in the archive yet, and make sure that they are then.

    Args:
        products: Each is asked for before, by the UID in it: an earlier run may have pushed it.
        archive: Where to.

    Raises:
        TransferError: If a file is torn, or the archive refuses it, or then does not list it, or
            has other pixels under its UID.
        ArchiveError: If the archive is gone.
    """
    for number, path in enumerate(products, start=1):
        what = f"product {number} of {len(products)}"
        dataset = read_whole(path)
        if dataset is None:
            remedy = "Remove it and run the same command."
            raise TransferError(what, "the file is torn or no DICOM file", remedy)
        instance = key_of(dataset)
        archive.push(instance, path)
        if not archive.has(instance):
            found = "the archive took it but does not list it"
            raise TransferError(what, found, "Look into the archive's log; it may come later.")
        stored = archive.stored_pixels(instance)
        if stored is not None and stored != pixels_sha256(dataset):
            remedy = "Look at it in the archive: it was changed, or is another one's."
            raise TransferError(what, "the archive has other pixels under its UID", remedy)
