"""Dice of whole validation volumes while training goes on."""

from collections.abc import Mapping, Sequence

import torch

from foveal.inference.errors import case_dice, mean_dice
from foveal.inference.predict import PatchFunction, stream_logits
from foveal.inference.restore import decided_classes
from foveal.inference.tiling import Tiles
from foveal.store.store import StoredCase


def validation_dice(
    network: PatchFunction,
    cases: Sequence[StoredCase],
    tiles: Tiles,
    num_classes: int,
    structures: Mapping[str, Sequence[int]],
) -> dict[str, float | None]:
    """Mean Dice per structure over cases, on their preprocessed grids.

    Args:
        network: See `stream_logits`.
        cases: Labelled.
        tiles: How the network wants volumes cut.
        num_classes: Including background.
        structures: Name to the inside classes whose union it is, in the plan's order.

    Returns:
        Structure to mean Dice; ``None`` where no case has the structure annotated and
        present in reference or prediction.
    """
    of_cases = []
    members = list(structures.values())
    for case in cases:
        whole = tuple(slice(0, length) for length in case.shape)
        image = torch.from_numpy(case.read_image(whole))
        rows = stream_logits(
            network,
            image,
            tiles,
            num_classes,
            missing_channels=case.missing_channels,
        )
        prediction = torch.cat(
            [decided_classes(block.softmax(dim=0), members) for block in rows]
        ).numpy()
        reference = case.read_label_map(whole)
        of_cases.append(case_dice(prediction, reference, case.annotated, structures))
    means = mean_dice(of_cases)
    return {name: means.get(name) for name in structures}
