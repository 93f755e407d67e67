"""Where the voxels of patches lie: rotation, spacing, elastic deformation, mirroring.

All that is drawn for a patch becomes one map from its voxels to places in the volume,
so the image is interpolated once, and only the box of the volume that the map reaches
is read. Elastic deformation is the free-form deformation by cubic B-splines of Rueckert
et al. 1999, https://doi.org/10.1109/42.796284.

A *place* is a point of the volume in voxels, in general between them. Rotation and
shear act in millimetres, so that anisotropic voxels do not distort what is rotated. A
patch of another spacing than the volume's is one whose voxels lie that far apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor


@dataclass(frozen=True)
class SpatialAugmentation:
    """How likely and how large the changes of a patch's geometry are.

    Every probability is per patch; that of mirroring is per patch and axis. A patch of
    one voxel along an axis, a slice, is changed in its plane only: what lies next to it
    is neither needed nor shown.
    """

    rotation_probability: float
    rotation_degrees: tuple[float, float, float]
    """Largest angle about each array axis; angles are uniform up to it."""

    scaling_probability: float
    scaling: tuple[float, float]
    """Smallest and largest factor by which structures grow, both positive; uniform in
    its logarithm, the same for all axes."""

    shear_probability: float
    shear_degrees: float
    """Largest angle by which an axis leans towards another, below 90; uniform."""

    shear_axes: tuple[int, ...]
    """Array axes in whose planes, those across them, axes may lean. On strongly
    anisotropic grids only the axis of the coarse spacing."""

    spacing_jitter_probability: float
    spacing_jitter_mm: float
    """Largest difference between the spacing of a patch and that of the volume along
    each axis, smaller than the latter; uniform, drawn for each axis."""

    translation_probability: float
    translation_voxels: float
    """Largest shift along each axis."""

    elastic_probability: float
    elastic_spacing_voxels: float
    """Distance of the control points."""

    elastic_voxels: float
    """Standard deviation of the control points' displacement along each axis. Splines
    smooth: that of a voxel is about a third of it."""

    mirror_probability: float
    mirror_axes: tuple[int, ...]
    """Array axes that may be reversed."""

    sagittal_axis: int
    """Array axis that runs from left to right."""

    swapped_classes: tuple[int, ...]
    """Inside class that each inside class becomes when the sagittal axis is reversed: a
    left structure becomes its right partner, others stay."""

    swapped_structures: tuple[int, ...]
    """The same for structures, by their places in the plan."""

    def draw(
        self,
        patch_size: Sequence[int],
        generator: torch.Generator,
        spacing_mm: Sequence[float],
    ) -> "PatchTransform":
        """Draw what happens to one patch.

        Args:
            patch_size: In voxels, three axes.
            generator: The only source of randomness, on the CPU.
            spacing_mm: Voxel edge lengths of the volume, in axis order.
        """
        i, j, k = patch_size
        mirrored = tuple(
            axis
            for axis in self.mirror_axes
            if _happens(self.mirror_probability, generator) and patch_size[axis] > 1
        )
        swaps = self.sagittal_axis in mirrored
        return PatchTransform(
            patch_size=(i, j, k),
            deformation=self._draw_deformation(patch_size, generator, spacing_mm),
            mirrored_axes=mirrored,
            new_classes=self.swapped_classes if swaps else None,
            new_structures=self.swapped_structures if swaps else None,
        )

    def _draw_deformation(
        self,
        patch_size: Sequence[int],
        generator: torch.Generator,
        spacing_mm: Sequence[float],
    ) -> "Deformation | None":
        rotates, scales, shears, jitters, translates, bends = (
            _happens(probability, generator)
            for probability in (
                self.rotation_probability,
                self.scaling_probability,
                self.shear_probability,
                self.spacing_jitter_probability,
                self.translation_probability,
                self.elastic_probability,
            )
        )
        if not (rotates or scales or shears or jitters or translates or bends):
            return None
        is_thick = torch.tensor([size > 1 for size in patch_size])
        matrix_mm = torch.eye(3)
        if rotates:
            matrix_mm = matrix_mm @ self._draw_rotation(is_thick, generator)
        if shears:
            matrix_mm = matrix_mm @ self._draw_shear(is_thick, generator)
        if scales:
            # The map leads from the patch to the volume: growth there is a step less.
            # A row is one axis of the volume; a slice grows in its plane only.
            factor = self._draw_factor(generator)
            matrix_mm = matrix_mm / torch.where(is_thick, factor, 1.0)[:, None]
        spacing = torch.tensor([float(length) for length in spacing_mm])
        patch_spacing = spacing
        if jitters:
            patch_spacing = spacing + self.spacing_jitter_mm * _signed(3, generator)
        translation = torch.zeros(3)
        if translates:
            translation = self.translation_voxels * _signed(3, generator) * is_thick
        deformation = Deformation(
            matrix=in_voxels(matrix_mm, patch_spacing, spacing),
            translation=translation,
            spline=self._draw_spline(patch_size, generator) if bends else None,
        )
        return None if deformation.is_identity else deformation

    def _draw_rotation(
        self, is_thick: Bool[Tensor, " 3"], generator: torch.Generator
    ) -> Float32[Tensor, "3 3"]:
        allowed = torch.tensor([_across(axis, is_thick) for axis in range(3)])
        largest = torch.tensor(self.rotation_degrees)
        degrees = largest * _signed(3, generator) * allowed
        return rotation_matrix(degrees.tolist())

    def _draw_shear(
        self, is_thick: Bool[Tensor, " 3"], generator: torch.Generator
    ) -> Float32[Tensor, "3 3"]:
        angles = torch.deg2rad(self.shear_degrees * _signed((3, 3), generator))
        shifts = torch.tan(angles)
        matrix = torch.eye(3)
        for axis in self.shear_axes:
            if not _across(axis, is_thick):
                continue
            first, second = (axis + 1) % 3, (axis + 2) % 3
            matrix[first, second] = shifts[first, second]
            matrix[second, first] = shifts[second, first]
        return matrix

    def _draw_factor(self, generator: torch.Generator) -> float:
        smallest, largest = self.scaling
        share = float(torch.rand((), generator=generator))
        return smallest * (largest / smallest) ** share

    def _draw_spline(
        self, patch_size: Sequence[int], generator: torch.Generator
    ) -> "Spline":
        counts = [
            num_control_points(size, self.elastic_spacing_voxels) for size in patch_size
        ]
        deviates = torch.randn((3, *counts), generator=generator)
        is_thick = torch.tensor([size > 1 for size in patch_size])
        deviates = deviates * is_thick[:, None, None, None]
        return Spline(self.elastic_voxels * deviates, self.elastic_spacing_voxels)


@dataclass(frozen=True, eq=False)
class PatchTransform:
    """What happens to one patch: a deformation, then mirroring."""

    patch_size: tuple[int, int, int]
    deformation: "Deformation | None"
    """``None``: voxels stay voxels, and nothing is interpolated."""

    mirrored_axes: tuple[int, ...]

    new_classes: tuple[int, ...] | None
    """Inside class that each inside class becomes; ``None``: all stay."""

    new_structures: tuple[int, ...] | None
    """The same for structures."""

    def source_window(
        self, corner: Sequence[int], patch_size: Sequence[int]
    ) -> tuple[slice, slice, slice]:
        """Box of the volume that `apply` needs, possibly beyond its borders.

        Exactly the patch unless it is deformed.

        Args:
            corner: First voxel of the patch.
            patch_size: As the transform was drawn for.

        Raises:
            ValueError: The transform was drawn for another patch size.
        """
        if tuple(patch_size) != self.patch_size:
            raise ValueError(
                f"patch size {tuple(patch_size)} differs from the {self.patch_size} "
                "that the transform was drawn for"
            )
        if self.deformation is None:
            box = tuple(slice(0, size) for size in self.patch_size)
        else:
            box = self.deformation.box(self.patch_size)
        i, j, k = (
            slice(start + axis.start, start + axis.stop)
            for start, axis in zip(corner, box, strict=True)
        )
        return i, j, k

    def apply(
        self,
        image_box: Float32[Tensor, "channel _ _ _"],
        label_box: UInt8[Tensor, "_ _ _"] | None,
        annotated: Bool[Tensor, " structure"],
    ) -> tuple[
        Float32[Tensor, "channel i j k"],
        UInt8[Tensor, "i j k"] | None,
        Bool[Tensor, " structure"],
    ]:
        """Make the patch from what the source window holds.

        Images are interpolated linearly, label maps take the nearest voxel.

        Args:
            image_box: The source window of the volume, 0 beyond its borders.
            label_box: Inside classes of the same window, `foveal.case.IGNORED` beyond
                its borders; ``None`` for an unlabelled case.
            annotated: Which structures were contoured in the case.

        Returns:
            Image and label map of the patch, and which structures are contoured in it.
        """
        image, label_map = image_box, label_box
        if self.deformation is not None:
            places = self.deformation.places(self.patch_size, image.device)
            image = linear_values(image, places)
            if label_map is not None:
                label_map = nearest_values(label_map, places)
        if self.mirrored_axes:
            image = image.flip([1 + axis for axis in self.mirrored_axes])
            if label_map is not None:
                label_map = label_map.flip(self.mirrored_axes)
        if self.new_structures is not None:
            annotated = renamed_flags(annotated, self.new_structures)
        if self.new_classes is not None and label_map is not None:
            label_map = renamed_labels(label_map, self.new_classes)
        return image, label_map, annotated


@dataclass(frozen=True, eq=False)
class Deformation:
    """Map from the voxels of a patch to places, about the middle of the patch.

    ``place = middle + matrix (voxel - middle) + translation + spline(voxel)``
    """

    matrix: Float32[Tensor, "3 3"]
    """In voxels."""

    translation: Float32[Tensor, " 3"]
    """In voxels."""

    spline: "Spline | None"
    """Elastic displacement."""

    @property
    def is_identity(self) -> bool:
        """Whether every voxel stays where it is."""
        return (
            torch.equal(self.matrix, torch.eye(3))
            and not self.translation.any()
            and (self.spline is None or not self.spline.control_points.any())
        )

    def box(self, patch_size: Sequence[int]) -> tuple[slice, slice, slice]:
        """Voxels about all places with a margin of one, counted from the corner.

        Along an axis where all places are the patch's only voxel, that voxel.
        """
        middle = _middle(patch_size)
        reach = self.matrix.abs() @ middle
        lowest = middle + self.translation - reach
        highest = middle + self.translation + reach
        if self.spline is not None:
            # A B-spline stays within the bounds of its control points.
            lowest = lowest + self.spline.control_points.amin((1, 2, 3))
            highest = highest + self.spline.control_points.amax((1, 2, 3))
        i, j, k = (
            slice(0, 1)
            if low == high == 0.0
            else slice(math.floor(low) - 1, math.ceil(high) + 2)
            for low, high in zip(lowest.tolist(), highest.tolist(), strict=True)
        )
        return i, j, k

    def places(
        self, patch_size: Sequence[int], device: torch.device
    ) -> Float32[Tensor, "3 i j k"]:
        """Where the voxels of the patch lie, counted from the first voxel of `box`."""
        middle = _middle(patch_size)
        first = torch.tensor([float(axis.start) for axis in self.box(patch_size)])
        offset = middle + self.translation - first
        # The linear part is a sum of one term per axis: no matrix product per voxel.
        along_i, along_j, along_k = (
            (column[:, None] * (torch.arange(size) - centre)).to(device)
            for column, size, centre in zip(
                self.matrix.T, patch_size, middle, strict=True
            )
        )
        in_plane = (
            along_i[:, :, None] + along_j[:, None] + offset.to(device)[:, None, None]
        )
        places = in_plane[..., None] + along_k[:, None, None]
        if self.spline is not None:
            places += self.spline.displacement(patch_size, device)
        return places


@dataclass(frozen=True, eq=False)
class Spline:
    """Smooth displacement, given by control points on a grid about the patch."""

    control_points: Float32[Tensor, "3 _ _ _"]
    """Displacement in voxels along each axis; as many points per axis as
    `num_control_points` says."""

    spacing_voxels: float

    def displacement(
        self, patch_size: Sequence[int], device: torch.device
    ) -> Float32[Tensor, "3 i j k"]:
        """Displacement of every voxel of a patch, in voxels."""
        weights = [
            spline_weights(size, self.spacing_voxels).to(device) for size in patch_size
        ]
        points = self.control_points.to(device)
        return torch.einsum("cabd,ia,jb,kd->cijk", points, *weights)


def num_control_points(size: int, spacing_voxels: float) -> int:
    """Control points along an axis: those within the patch and one beyond each end."""
    return math.ceil((size - 1) / spacing_voxels) + 3


def spline_weights(
    size: int, spacing_voxels: float
) -> Float32[Tensor, "voxel control_point"]:
    """Cubic B-spline weights of the control points of an axis.

    Each row has at most four weights above 0 and sums to 1. The row of control points
    has its middle at the middle of the patch.
    """
    count = num_control_points(size, spacing_voxels)
    voxels = (torch.arange(size) - (size - 1) / 2) / spacing_voxels
    points = torch.arange(count) - (count - 1) / 2
    distances = (voxels[:, None] - points).abs()
    near = 2 / 3 - distances**2 + distances**3 / 2
    far = (2 - distances).clamp(min=0) ** 3 / 6
    return torch.where(distances < 1, near, far)


def rotation_matrix(degrees: Sequence[float]) -> Float32[Tensor, "3 3"]:
    """Rotations about the axes i, then j, then k, as one matrix of mm offsets.

    A positive angle turns the axis after the named one towards the axis after that.
    """
    matrix = torch.eye(3)
    for axis, angle in enumerate(degrees):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = torch.eye(3)
        turn[first, first], turn[first, second] = cosine, -sine
        turn[second, first], turn[second, second] = sine, cosine
        matrix = turn @ matrix
    return matrix


def in_voxels(
    matrix_mm: Float32[Tensor, "3 3"],
    from_spacing_mm: Float32[Tensor, " 3"],
    to_spacing_mm: Float32[Tensor, " 3"],
) -> Float32[Tensor, "3 3"]:
    """Matrix that does to offsets in voxels what ``matrix_mm`` does to those in mm.

    Args:
        matrix_mm: From and to millimetres.
        from_spacing_mm: Of the voxels in which offsets are given, a patch's.
        to_spacing_mm: Of the voxels in which the results count, a volume's.
    """
    return matrix_mm * from_spacing_mm / to_spacing_mm[:, None]


def linear_values(
    image: Float32[Tensor, "channel _ _ _"], places: Float32[Tensor, "3 i j k"]
) -> Float32[Tensor, "channel i j k"]:
    """Image at places between its voxels, by trilinear interpolation.

    Args:
        image: Any number of voxels along each axis.
        places: In voxels of ``image``, all inside.
    """
    lengths = torch.tensor(image.shape[1:], device=image.device)
    # grid_sample counts from -1 (first voxel's centre) to 1 (last one's), k axis first.
    # All places along an axis of one voxel are 0, which is -1 whatever the step.
    steps = (lengths - 1).clamp(min=1)
    relative = places * (2 / steps)[:, None, None, None] - 1
    grid = relative.flip(0).permute(1, 2, 3, 0)
    return F.grid_sample(image[None], grid[None], align_corners=True)[0]


def nearest_values(
    label_map: UInt8[Tensor, "_ _ _"], places: Float32[Tensor, "3 i j k"]
) -> UInt8[Tensor, "i j k"]:
    """Labels of the voxels nearest to places, all inside the label map."""
    # Indexing is exact and several times faster than grid_sample on the CPU.
    i, j, k = places.round().long()
    _, length_j, length_k = label_map.shape
    return label_map.flatten().take((i * length_j + j) * length_k + k)


def renamed_labels(
    label_map: UInt8[Tensor, "i j k"], new_classes: Sequence[int]
) -> UInt8[Tensor, "i j k"]:
    """Label map in which class ``c`` is now ``new_classes[c]``; other values stay."""
    table = torch.arange(256, dtype=torch.uint8)
    table[: len(new_classes)] = torch.tensor(new_classes, dtype=torch.uint8)
    return table.to(label_map.device).take(label_map.long())


def renamed_channels(
    soft_labels: Float32[Tensor, "class i j k"], new_classes: Sequence[int]
) -> Float32[Tensor, "class i j k"]:
    """Probabilities of classes when class ``c`` is now ``new_classes[c]``."""
    renamed = torch.empty_like(soft_labels)
    renamed[list(new_classes)] = soft_labels
    return renamed


def renamed_flags(
    flags: Bool[Tensor, " structure"], new_structures: Sequence[int]
) -> Bool[Tensor, " structure"]:
    """Flags per structure when structure ``s`` is now ``new_structures[s]``."""
    renamed = torch.empty_like(flags)
    renamed[list(new_structures)] = flags
    return renamed


def _happens(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _across(axis: int, is_thick: Bool[Tensor, " 3"]) -> bool:
    """Whether a patch has more than one voxel along both of the other axes."""
    return bool(is_thick[(axis + 1) % 3] and is_thick[(axis + 2) % 3])


def _signed(
    shape: int | tuple[int, ...], generator: torch.Generator
) -> Float32[Tensor, "..."]:
    """Numbers uniform between -1 and 1."""
    return 2 * torch.rand(shape, generator=generator) - 1


def _middle(patch_size: Sequence[int]) -> Float32[Tensor, " 3"]:
    return torch.tensor([(size - 1) / 2 for size in patch_size])
