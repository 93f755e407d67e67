"""A second view of patches that are in memory: other geometry, other intensities.

What is said of the first view can be carried to the voxels of the second, so that the
two can be compared. Nothing is read from the volume: where the second view reaches
beyond the first, the image repeats the values at the border, and nothing is compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import (
    PatchTransform,
    SpatialAugmentation,
    linear_values,
    renamed_channels,
)

SLACK_VOXELS = 1e-3
"""A place that lies no farther outside is on the border, but for rounding."""


@dataclass(frozen=True, eq=False)
class PatchMap:
    """Where the voxels of a patch's second view lie in the first."""

    places: Float32[Tensor, "3 i j k"]
    """In voxels of the first view; may be beyond it."""

    is_between_voxels: bool
    """Whether values must be interpolated there."""

    new_classes: tuple[int, ...] | None
    """Inside class that each inside class becomes; ``None``: all stay."""

    def values_at(
        self,
        values: Float32[Tensor, "channel _ _ _"],
        places: Float32[Tensor, "3 i j k"],
    ) -> Float32[Tensor, "channel i j k"]:
        """Values at places of this map, counted in voxels of ``values``.

        Beyond these, the values at their border.
        """
        inner = clipped(places, values.shape[1:])
        if self.is_between_voxels:
            return linear_values(values, inner)
        return voxel_values(values, inner)


@dataclass(frozen=True, eq=False)
class SecondViews:
    """The patches of a batch, seen otherwise."""

    image: Float32[Tensor, "patch channel i j k"]

    maps: tuple[PatchMap, ...]
    """One per patch."""


def second_views(
    image: Float32[Tensor, "patch channel i j k"],
    spatial: SpatialAugmentation,
    intensity: IntensityAugmentation,
    spacing_mm: Sequence[float],
    generator: torch.Generator,
) -> SecondViews:
    """See every patch of a batch otherwise.

    Args:
        image: Patches, augmented already or not; the result has their memory layout.
        spatial: Changes of geometry, drawn for each patch.
        intensity: Changes of intensities, made after those of geometry.
        spacing_mm: Voxel edge lengths of the patches, in axis order.
        generator: The only source of randomness, on the CPU.
    """
    size = image.shape[2:]
    maps = tuple(
        patch_map(spatial.draw(size, generator, spacing_mm), image.device)
        for _ in image
    )
    moved = torch.empty_like(image)
    for patch, (values, moves) in enumerate(zip(image, maps, strict=True)):
        moved[patch] = moves.values_at(values, moves.places)
    return SecondViews(intensity.apply(moved, generator), maps)


def patch_map(transform: PatchTransform, device: torch.device) -> PatchMap:
    """The map of a transform that is applied to the patch alone, not to its volume."""
    size = transform.patch_size
    deformation = transform.deformation
    if deformation is None:
        along = [torch.arange(length, device=device).float() for length in size]
        places = torch.stack(torch.meshgrid(*along, indexing="ij"))
    else:
        first = [axis.start for axis in deformation.box(size)]
        corner = torch.tensor(first, device=device)[:, None, None, None]
        places = deformation.places(size, device) + corner
    return PatchMap(
        places=places.flip([1 + axis for axis in transform.mirrored_axes]),
        is_between_voxels=deformation is not None,
        new_classes=transform.new_classes,
    )


def carried(
    probabilities: Float[Tensor, "patch class _ _ _"],
    maps: Sequence[PatchMap],
    window: tuple[slice, slice, slice],
) -> tuple[Float32[Tensor, "patch class _ _ _"], Bool[Tensor, "patch _ _ _"]]:
    """What was said of the first views, on the voxels of the second ones.

    Args:
        probabilities: Of the voxels of the window in the first views.
        maps: From the second views to the first.
        window: Voxels of a patch that the network predicts, in either view.

    Returns:
        Probabilities for the voxels of the window in the second views, interpolated
        linearly, classes renamed where left and right change places; and whether these
        voxels lie in the window of the first views. Elsewhere the values are those at
        its border.
    """
    corner = torch.tensor([axis.start for axis in window], device=probabilities.device)
    moved, inside = [], []
    for values, moves in zip(probabilities.float(), maps, strict=True):
        places = moves.places[:, *window] - corner[:, None, None, None]
        there = moves.values_at(values, places)
        if moves.new_classes is not None:
            there = renamed_channels(there, moves.new_classes)
        moved.append(there)
        inside.append(is_within(places, values.shape[1:]))
    return torch.stack(moved), torch.stack(inside)


def voxel_values(
    values: Float32[Tensor, "channel _ _ _"], places: Float32[Tensor, "3 i j k"]
) -> Float32[Tensor, "channel i j k"]:
    """Values of voxels, as they are.

    Args:
        values: Any number of voxels along each axis.
        places: Whole numbers: voxels of ``values``, all inside.
    """
    i, j, k = places.long()
    _, _, length_j, length_k = values.shape
    return values.flatten(1)[:, (i * length_j + j) * length_k + k]


def clipped(
    places: Float32[Tensor, "3 i j k"], shape: Sequence[int]
) -> Float32[Tensor, "3 i j k"]:
    """Places, those beyond the voxels of an array moved to the border."""
    return torch.minimum(places.clamp(min=0), _last_voxel(places, shape))


def is_within(
    places: Float32[Tensor, "3 i j k"], shape: Sequence[int]
) -> Bool[Tensor, "i j k"]:
    """Whether places lie between the first and the last voxels, or on them."""
    beyond = places - _last_voxel(places, shape)
    return ((places >= -SLACK_VOXELS) & (beyond <= SLACK_VOXELS)).all(dim=0)


def _last_voxel(places: Tensor, shape: Sequence[int]) -> Float32[Tensor, "3 1 1 1"]:
    last = [length - 1.0 for length in shape]
    return torch.tensor(last, device=places.device)[:, None, None, None]
