"""Where the voxels of a file lie, and how those of another come to lie on them.

Tools store the same voxels along other axes and in other directions, and round positions. Files are
brought together here by putting axes in order and reversing them, never by interpolation.
"""

from dataclasses import dataclass

from pipeline.errors import StudyError
from pipeline.volume import GRID_ROUNDING_MM, GRID_TOLERANCE_VOXELS, Alignment, Grid, LabelMap

ORIENTATION_UNKNOWN = "orientation unknown, left and right cannot be told apart"

SHARE_GRID = "Resample one onto the grid of the other, or give files on one grid."


@dataclass(frozen=True)
class Place:
    """Where the voxels of a file lie.

    Attributes:
        name: Of the file, for messages.
        grid: Its grid.
        warnings: What was odd about its header.
    """

    name: str
    grid: Grid
    warnings: tuple[str, ...] = ()

    def align(self, onto: "Place") -> tuple[Alignment, tuple[str, ...]]:
        """Return how this file's voxels are put in another's order, and what is odd about that.

        Raises:
            StudyError: If the voxels are not the same points; or if they are only in another order,
                and one of the files does not say which way it is oriented.
        """
        name, grid = onto.name, onto.grid
        alignment = self.grid.aligned_to(grid)
        if alignment is None:
            found = f"grid {self.grid.shape} differs from {grid.shape} of {name}"
            raise StudyError(self.name, found, SHARE_GRID)
        distance = f"up to {alignment.distance_mm:.3g} mm ({alignment.distance_voxels:.2g} voxels)"
        if not alignment.is_same:
            found = (
                f"voxels lie {distance} away from those of {name}, "
                f"more than {GRID_TOLERANCE_VOXELS:g} voxels"
            )
            raise StudyError(self.name, found, SHARE_GRID)
        if not alignment.is_as_stored:
            for file in (self, onto):
                if any(ORIENTATION_UNKNOWN in text for text in file.warnings):
                    found = (
                        f"voxels would lie on those of {onto.name} in another order, but the "
                        f"orientation of {file.name} is unknown"
                    )
                    raise StudyError(self.name, found, "Give that file's header an orientation.")
        if alignment.distance_mm <= GRID_ROUNDING_MM:
            return alignment, ()
        return alignment, (f"voxels lie {distance} away from those of {name}; taken for the same",)


def place_labels(label_map: LabelMap, name: str, onto: Place) -> LabelMap:
    """Return labels in the voxel order and on the grid of another file, without interpolation.

    Args:
        label_map: As it was read.
        name: Of its file.
        onto: Where it is to lie.

    Returns:
        The labels; `warnings` says what is odd beside what is odd about the other file, too.

    Raises:
        StudyError: If they do not lie on the voxels of the other file.
    """
    alignment, found = Place(name, label_map.grid, label_map.warnings).align(onto)
    labels_IJK = label_map.labels_IJK
    if not alignment.is_as_stored:
        # Not left as a view: some libraries refuse steps backwards.
        labels_IJK = alignment.view(labels_IJK).copy(order="K")
    own = [text for text in label_map.warnings if text not in onto.warnings]
    return LabelMap(labels_IJK, onto.grid.affine, (*own, *found))
