"""What a training step receives: patches of several cases on one stream."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.errors import SamplingError


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches that one stream gives to one step."""

    image: Float[Tensor, "patch channel i j k"]

    label_map: UInt8[Tensor, "patch i j k"] | None
    """Inside classes, 0 background, `foveal.case.IGNORED` where nothing is
    known; ``None`` on streams of unlabelled cases."""

    annotated: Bool[Tensor, "patch structure"] | None
    """Whether the structure was contoured in the case; where not, background means
    "background or that structure"."""

    structures: Bool[Tensor, "structure class"] | None
    """Whether each structure includes each inside class; ``None`` as ``label_map``."""

    case_names: tuple[str, ...]

    corners: tuple[tuple[int, int, int], ...]
    """First voxel of each patch before augmentation, in the preprocessed image; may be
    negative where the patch is larger than the volume, or reaches beyond it with the
    context of what the network predicts."""

    def with_image(self, image: Float[Tensor, "patch channel i j k"]) -> "Batch":
        """The same batch with other intensities or another memory layout."""
        return replace(self, image=image)

    def labels(
        self,
    ) -> tuple[
        UInt8[Tensor, "patch i j k"],
        Bool[Tensor, "patch structure"],
        Bool[Tensor, "structure class"],
    ]:
        """Label map, annotated structures and structures of a labelled batch.

        Raises:
            SamplingError: The stream has unlabelled cases.
        """
        if self.label_map is None or self.annotated is None or self.structures is None:
            raise SamplingError(
                f"cases {', '.join(self.case_names)}: one has no label map; "
                "a stream of labelled patches needs labelled cases only"
            )
        return self.label_map, self.annotated, self.structures
