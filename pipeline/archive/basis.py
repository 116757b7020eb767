"""What a series consisted of when something was decided on it: its UID alone does not say."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Basis:
    """The instances that a decision was made on.

    Attributes:
        num_instances: Their number.
        uids_sha256: Hash of their SOP Instance UIDs, whatever their order.
    """

    num_instances: int
    uids_sha256: str


def basis_of(uids: Iterable[str]) -> Basis:
    """Return what a list of SOP Instance UIDs says a series consists of; one may be there twice.

    >>> basis_of(["1.2", "1.3"]) == basis_of(["1.3", "1.2", "1.3"])
    True
    """
    different = sorted(set(uids))
    return Basis(len(different), hashlib.sha256("\n".join(different).encode()).hexdigest())
