"""The way back: probabilities on the working grid to labels on the study's own grid, as they come.

The network's side hands over one block of finished probabilities after the other. Each is cut into
tiles that fit a processor's cache; in each tile only those outputs are interpolated that can matter
there, compared with the best so far, and forgotten. So no array of classes times voxels exists at
native resolution, and what a tile of one organ costs does not depend on how many others there are.

On a GPU the host must know the largest probabilities of a tile for that. It asks once a block, for
all its tiles, and reads the answer when the next block comes, so that the GPU has the next batch of
windows to work on meanwhile. To interpolate all outputs everywhere without asking would be simpler:
118 classes at 512 x 512 x 800 voxels are 25 G values or 100 GB, each written once and read three
times, beside the matrices' 3.5 TFLOP: about half a second on a card of 2 TB/s, and 40,000 more
calls, where the windows take some seconds. Of 20 classes in a tile it takes a sixth. (Reckoned;
nothing was measured on a GPU.)

Axes: C = classes or regions, I, J, K = voxel axes in RAS order, N = outputs that matter in a tile.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.transforms.interpolation import interpolate
from pipeline.transforms.orientation import native_part, ras_view
from pipeline.transforms.placement import Placement
from pipeline.transforms.tiles import ProbabilityBlock, ProbabilitySink, Tile, Tiling
from pipeline.transforms.transfer import Later, download, upload
from pipeline.transforms.uncertainty import LEAST, Uncertain, UncertainVoxels
from pipeline.volume import PROBABILITY_STEPS, smallest_label_type

REGION_THRESHOLD = 0.5
"""Probability above which a voxel belongs to a region."""

CHUNK = 8
"""Outputs that are interpolated at once."""

CAUTION = 0.99
"""Probabilities stored in half precision sum to one only up to 1/1000."""

NOT_FINITE = "the network gave values that are no numbers; try inference.precision=fp32"

Kind = Literal["labels", "regions"]


class Restorer:
    """Turns blocks of probabilities into labels on the study's own grid.

    Args:
        placement: Of the study, from `preprocess`.
        values: Label value of each class, background 0 first; or that each region writes where its
            probability is above `REGION_THRESHOLD`, later regions over earlier ones.
        kind: What the outputs are. Probabilities of `labels` sum to one in each voxel; the most
            probable wins; between equal ones, the nearest working voxel decides.
        sink: Takes the probabilities, if given.
        top_k: Keep that many probabilities of each voxel whose label is uncertain.

    Attributes:
        later: What is still to be done with blocks on a GPU.
    """

    def __init__(
        self,
        placement: Placement,
        values: Sequence[int],
        kind: Kind = "labels",
        sink: ProbabilitySink | None = None,
        top_k: int = 0,
    ) -> None:
        self._placement = placement
        self._kind = kind
        self._sink = sink
        self.later = Later()
        self._uncertain = UncertainVoxels(placement.native, top_k, self.later) if top_k else None
        # Index 0 is background: the first class, or no region.
        table = values if kind == "labels" else [0, *values]
        label_type = smallest_label_type(max(values))
        self._table: npt.NDArray[np.unsignedinteger] = np.asarray(table, dtype=label_type)
        self._labels_IJK = np.zeros_like(self._table, shape=placement.native.shape)
        self._ras_IJK = ras_view(self._labels_IJK, placement.native.affine)
        self._tiling = Tiling(placement)
        if sink is not None and kind == "labels":
            _put_outside(sink, placement)

    def add(self, block: ProbabilityBlock) -> None:
        """Take the next block. Blocks come in any order; together they cover the working grid.

        A block on a GPU is only looked at, and finished when those after it come; so its values
        must stay as they are.

        Raises:
            FloatingPointError: If a probability is NaN or infinite, in this block or, on a GPU, in
                one before it.
        """
        values = block.values_CIJK
        tiles = self._tiling.tiles(block)
        if not values.is_cuda:
            for tile in tiles:
                part_CIJK = values[:, *tile.working]
                self._decide(part_CIJK, part_CIJK.amax(dim=(1, 2, 3)).float(), tile)
            return
        self.later.turn()
        parts = [(values[:, *tile.working], tile) for tile in tiles]
        if parts:
            most = [part_CIJK.amax(dim=(1, 2, 3)).float() for part_CIJK, _ in parts]
            most_TC = download(torch.stack(most))
            self.later.add(lambda: self._decide_all(parts, most_TC))
        self.later.mark(values.device)

    def labels(self) -> npt.NDArray[np.unsignedinteger]:
        """Return the labels in the study's own voxel order; background where no block was."""
        self.later.finish()
        return self._labels_IJK

    def uncertain(self) -> Uncertain | None:
        """Return the uncertain voxels of all blocks so far, if `top_k` asked for them."""
        self.later.finish()
        return None if self._uncertain is None else self._uncertain.collected()

    def _decide_all(
        self, parts: Sequence[tuple[torch.Tensor, Tile]], most_TC: torch.Tensor
    ) -> None:
        for (part_CIJK, tile), most_C in zip(parts, most_TC, strict=True):
            self._decide(part_CIJK, most_C, tile)

    def _decide(self, part_CIJK: torch.Tensor, most_C: torch.Tensor, tile: Tile) -> None:
        """Label a tile, given the largest probability of each output in it."""
        if not most_C.isfinite().all():
            raise FloatingPointError(NOT_FINITE)
        kept = self._that_matter(most_C)
        if self._sink is not None and self._kind == "labels" and 0 not in kept:
            self._put(0, tile, 0)
        if not kept:
            return
        if len(kept) == 1 and self._kind == "labels" and not self._wants_all:
            self._ras_IJK[tile.native] = self._table[kept[0]]
            return
        winner_IJK = self._winners(part_CIJK, kept, tile)
        if not winner_IJK.is_cuda:
            self._ras_IJK[tile.native] = self._table[winner_IJK.numpy()]
            return
        # Torch knows few unsigned types; what the bits stand for is all the same to it.
        bits = torch.from_numpy(self._table.view(f"i{self._table.itemsize}"))
        found = download(upload(bits, winner_IJK.device)[winner_IJK.int()])
        self.later.add(lambda: self._write(tile, found))

    def _write(self, tile: Tile, bits_IJK: torch.Tensor) -> None:
        self._ras_IJK[tile.native] = bits_IJK.numpy().view(self._table.dtype)

    def _winners(self, part_CIJK: torch.Tensor, kept: list[int], tile: Tile) -> torch.Tensor:
        """Return the winning indices of a tile, among the outputs that matter there."""
        size = [along.stop - along.start for along in tile.native]
        winner_IJK = torch.zeros(size, dtype=torch.int16, device=part_CIJK.device)
        best_IJK = torch.full_like(winner_IJK, -1, dtype=torch.float32)
        last_IJK = winner_IJK.clone()
        shares = []
        for first in range(0, len(kept), CHUNK):
            chunk = kept[first : first + CHUNK]
            values_NIJK = _select(part_CIJK, chunk).float()
            share_NIJK = interpolate(values_NIJK, tile.matrices, self._tiling.order)
            for index, share_IJK in zip(chunk, share_NIJK, strict=True):
                self._compare(index, share_IJK, (winner_IJK, last_IJK), best_IJK)
                if self._sink is not None:
                    self._hand_on(index, tile, share_IJK)
            shares += [share_NIJK] * (self._uncertain is not None)
        # Asking a GPU would wait for it.
        if winner_IJK.is_cuda or not torch.equal(winner_IJK, last_IJK):
            nearest_IJK = self._nearest(part_CIJK, tile.matrices)
            # As with labels on the way in, none may gain from ties on the whole.
            is_last = (nearest_IJK == last_IJK) & (winner_IJK != last_IJK)
            winner_IJK = torch.where(is_last, last_IJK, winner_IJK)
        if self._uncertain is not None:
            start = [along.start for along in tile.native]
            self._uncertain.add(torch.cat(shares), kept, start, self._kind)
        return winner_IJK

    def _compare(
        self,
        index: int,
        share_IJK: torch.Tensor,
        winners: tuple[torch.Tensor, torch.Tensor],
        best_IJK: torch.Tensor,
    ) -> None:
        """Let one more output win: of `winners`, the first and the last among equals."""
        first_IJK, last_IJK = winners
        if self._kind == "regions":
            first_IJK.masked_fill_(share_IJK > REGION_THRESHOLD, index + 1)
            last_IJK.masked_fill_(share_IJK >= REGION_THRESHOLD, index + 1)
        else:
            first_IJK.masked_fill_(share_IJK > best_IJK, index)
            last_IJK.masked_fill_(share_IJK >= best_IJK, index)
            torch.maximum(best_IJK, share_IJK, out=best_IJK)

    def _nearest(
        self, part_CIJK: torch.Tensor, matrices: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """Return what the nearest working voxel of each native one is; half-way, the later one."""
        if self._kind == "labels":
            index_IJK = part_CIJK.argmax(dim=0)
        else:
            is_in_CIJK = part_CIJK > REGION_THRESHOLD
            number = torch.arange(1, len(part_CIJK) + 1, device=part_CIJK.device)
            index_IJK = (is_in_CIJK * number[:, None, None, None]).amax(dim=0)
        for axis, matrix in enumerate(matrices):
            if matrix is not None:
                latest = matrix.shape[1] - 1 - matrix.flip(1).argmax(dim=1)
                index_IJK = index_IJK.index_select(axis, latest)
        return index_IJK

    def _that_matter(self, most_C: torch.Tensor) -> list[int]:
        """Return the outputs that can decide a voxel of a tile, in their order.

        Interpolated probabilities are means of those around them: none exceeds the largest in the
        tile, and those of labels still sum to one. So of k labels kept, one has at least a k-th of
        what the others leave; a label that stays below that everywhere wins nowhere.

        Args:
            most_C: Largest probability of each output in the tile.
        """
        if self._kind == "regions":
            matters = most_C > REGION_THRESHOLD
        else:
            sorted_C, order = most_C.sort(descending=True, stable=True)
            left_C = sorted_C.flip(0).cumsum(0).flip(0)  # of this label and those after it
            number_C = torch.arange(1, len(most_C))
            is_enough = sorted_C[1:] < CAUTION * (1 - left_C[1:]) / number_C
            number = int(is_enough.int().argmax()) + 1 if is_enough.any() else len(most_C)
            matters = torch.zeros(len(most_C), dtype=torch.bool)
            matters[order[:number]] = True
        if self._sink is not None:
            matters |= most_C * PROBABILITY_STEPS >= 0.5
        if self._uncertain is not None:
            matters |= most_C >= LEAST
        return [int(index) for index in matters.nonzero()]

    @property
    def _wants_all(self) -> bool:
        """Whether outputs that win nowhere are wanted too, unless they are next to 0."""
        return self._sink is not None or self._uncertain is not None

    def _hand_on(self, index: int, tile: Tile, share_IJK: torch.Tensor) -> None:
        """Hand an output's probabilities to the sink."""
        steps_IJK = share_IJK.clamp(0, 1).mul(PROBABILITY_STEPS).round().byte()
        if not steps_IJK.is_cuda:
            self._put(index, tile, steps_IJK.numpy())
            return
        host_IJK = download(steps_IJK)
        self.later.add(lambda: self._put(index, tile, host_IJK.numpy()))

    def _put(self, index: int, tile: Tile, steps: npt.NDArray[np.uint8] | int) -> None:
        """Hand a tile to the sink, in the file's voxel order."""
        assert self._sink is not None
        box = tile.native
        size = [along.stop - along.start for along in box]
        whole = np.broadcast_to(np.asarray(steps, np.uint8), size)
        part, native_box = native_part(whole, box, self._placement.native)
        self._sink.put(index, native_box, steps if isinstance(steps, int) else part)


def _select(part_CIJK: torch.Tensor, outputs: list[int]) -> torch.Tensor:
    """Return some outputs; a GPU would wait for a list of indices."""
    if part_CIJK.is_cuda:
        return torch.stack([part_CIJK[index] for index in outputs])
    return part_CIJK[outputs]


def _put_outside(sink: ProbabilitySink, placement: Placement) -> None:
    """Background is certain outside the crop; inside, each tile will say."""
    i, j, k = (slice(0, size) for size in placement.native.shape)
    sink.put(0, (i, j, k), PROBABILITY_STEPS)
