"""Images in a BIDS data set that are not where, or not what, BIDS says: each a refused study.

Names that BIDS does not know may name patients; such a study is called by a hash.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.cohort.bids import named_places
from pipeline.cohort.bids_name import BidsName
from pipeline.cohort.naming import hashed_name
from pipeline.cohort.search import is_volume
from pipeline.cohort.sorting import refuse_folders, sort_files
from pipeline.cohort.study_input import StudyInput

_ODD = (
    "it is not named or placed as BIDS says (sub-LABEL/[ses-LABEL/]DATATYPE/sub-LABEL_..._SUFFIX"
    ".nii.gz). Name or convert it so, or segment it by itself."
)
_DICOM = "{} DICOM file(s) of a folder lie in a BIDS data set. Segment that folder by itself."


def odd_images(folder: Path, files: Iterable[Path], salt: bytes) -> list[StudyInput]:
    """Return the images of a data set's subjects that `find_bids_studies` does not look at.

    Args:
        folder: The data set.
        files: What lies below its subjects.
        salt: Of the names of refused studies.
    """
    known = {path for path in named_places(folder) if BidsName.parse(path) is not None}
    kinds = sort_files([path for path in files if path not in known], (), salt)
    odd = [StudyInput(path.name, (path,), _ODD) for path in kinds.volumes if is_volume(path)]
    hashed = [
        replace(one, case=hashed_name(salt, str(one.first_file.absolute()), kind="image"))
        for one in (*odd, *kinds.refused)
    ]
    return [*hashed, *refuse_folders(kinds.dicom, _DICOM, salt)]
