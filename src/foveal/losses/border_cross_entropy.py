"""Cross entropy that counts the gaps between neighbouring objects more.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, equation 2: a background
voxel weighs `1 + factor * exp(-(d1 + d2)^2 / (2 sigma^2))`, where `d1` and `d2` are its
distances to the nearest and to the second nearest object. It differs: the weight that
balances classes is 1, voxels of objects get no more than that, and an object farther
than four sigma is no neighbour (its share is below `0.0004 * factor`).

An object is a connected part of a structure, neighbours sharing a face, as far as it
lies in the patch. A structure that is part of another, like a lesion of its organ, has
no objects of its own.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.cross_entropy import voxel_cross_entropy

REACH_IN_SIGMAS = 4


def border_cross_entropy(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
    *,
    factor: float,
    sigma_voxels: float,
) -> Float[Tensor, ""]:
    """Mean over the voxels of weight times negative log-probability, see the module.

    Args:
        logits: Class 0 is background.
        label_map: Inside classes; 255 is ignored.
        annotated: See `merge_unannotated`; without annotation, a structure's objects
            are unknown and do not count.
        structures: See `merge_unannotated`.
        factor: Largest weight that a gap adds; 0 makes this plain cross entropy.
        sigma_voxels: Gaps wider than a few of these count little.

    Returns:
        Not negative; 0 if every voxel is ignored.
    """
    surprise = voxel_cross_entropy(logits, label_map, annotated, structures)
    gaps = torch.stack(
        [
            torch.from_numpy(
                gap_closeness(
                    labels.cpu().numpy(),
                    without_parts(structures[is_known]).cpu().numpy(),
                    sigma_voxels,
                )
            )
            for labels, is_known in zip(label_map, annotated, strict=True)
        ]
    ).to(logits.device)
    known = (label_map != IGNORED).sum().clamp(min=1)
    return ((1 + factor * gaps) * surprise).sum() / known


def gap_closeness(
    label_map: UInt8[np.ndarray, "*space"],
    structures: Bool[np.ndarray, "structure class"],
    sigma_voxels: float,
) -> Float32[np.ndarray, "*space"]:
    """How narrow the gap between two objects is that a voxel lies in.

    Args:
        label_map: Of one patch; inside classes, 255 is ignored.
        structures: Whose connected parts are objects.
        sigma_voxels: Of the Gaussian.

    Returns:
        `exp(-(d1 + d2)^2 / (2 sigma^2))` in [0, 1) for background; 0 in objects, in
        ignored voxels and where there are no two objects near.
    """
    nearest = np.full(label_map.shape, np.inf, np.float32)
    second = nearest.copy()
    margin = math.ceil(REACH_IN_SIGMAS * sigma_voxels)
    for classes in structures:
        numbered, _ = ndimage.label(_is_member(classes)[label_map])
        for number, box in enumerate(ndimage.find_objects(numbered), start=1):
            near = tuple(
                slice(max(0, side.start - margin), side.stop + margin) for side in box
            )
            distance = ndimage.distance_transform_edt(numbered[near] != number)
            farther = np.maximum(nearest[near], distance)
            np.minimum(second[near], farther, out=second[near])
            np.minimum(nearest[near], distance, out=nearest[near])
    closeness = np.exp(-((nearest + second) ** 2) / (2 * sigma_voxels**2))
    return np.where(label_map == 0, closeness, np.float32(0))


def _is_member(classes: Bool[np.ndarray, " class"]) -> Bool[np.ndarray, " 256"]:
    """For every value of a label map, whether it is one of the classes."""
    table = np.zeros(256, bool)
    table[: len(classes)] = classes
    return table


def without_parts(
    structures: Bool[Tensor, "structure class"],
) -> Bool[Tensor, "whole class"]:
    """Those structures that are part of no other; of equal ones, the first."""
    is_inside = (structures[:, None] <= structures[None]).all(dim=2)
    is_equal = is_inside & is_inside.T
    is_part = (is_inside & ~is_equal) | is_equal.tril(-1)
    return structures[~is_part.any(dim=1)]
