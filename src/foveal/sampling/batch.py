"""What a training step receives: patches of several cases on one stream."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches that one stream gives to one step."""

    image: Float[Tensor, "patch channel i j k"]

    label_map: UInt8[Tensor, "patch i j k"] | None
    """Consecutive inside labels, 0 background, `foveal.case.IGNORED` where nothing is
    known; ``None`` on streams of unlabelled cases."""

    annotated: Bool[Tensor, "patch class"] | None
    """Whether the class was contoured in the case. Class 0 is always annotated; in
    voxels labelled 0, background means "background or a class not annotated"."""

    case_names: tuple[str, ...]

    corners: tuple[tuple[int, int, int], ...]
    """First voxel of each patch before augmentation, in the preprocessed image; may be
    negative where the patch is larger than the volume."""

    def with_image(self, image: Float[Tensor, "patch channel i j k"]) -> "Batch":
        """The same batch with other intensities or another memory layout."""
        return replace(self, image=image)
