"""What a training step receives: patches of several cases on one stream."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.errors import SamplingError
from foveal.sampling.samplers import Draw


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
    """Whether each structure includes each inside class; ``None`` where nothing is
    known of some patch."""

    case_names: tuple[str, ...]

    corners: tuple[tuple[int, int, int], ...]
    """First voxel of each patch before augmentation, in the preprocessed image; may be
    negative where the patch is larger than the volume, or reaches beyond it with the
    context of what the network predicts."""

    draws: tuple[Draw, ...] = ()
    """How each patch was drawn."""

    present: Bool[Tensor, "patch structure"] | None = None
    """Whether the patch shows the structure; of a case that nobody outlined, whether
    its whole image does. ``None`` where that is not known of every patch, and on
    streams of outlined cases only, where nobody asks for it."""

    presence_known: Bool[Tensor, "patch structure"] | None = None
    """Whether it is known that the patch shows the structure, or that it does not:
    ignored voxels could be of a structure that is not seen elsewhere in the patch."""

    voxel_weights: Float[Tensor, "patch i j k"] | None = None
    """The user's weight of every voxel, not negative; 1 in cases without a weight map,
    0 beyond the volume of those with one. ``None`` where no loss asks for them."""

    soft_labels: Float[Tensor, "patch class i j k"] | None = None
    """Probabilities of the inside classes that a predictor gave, not negative; their
    sum is 1 where they are known, 0 where not, and between on the way. ``None`` where
    no method asks for them."""

    def with_image(self, image: Float[Tensor, "patch channel i j k"]) -> "Batch":
        """The same batch with other intensities or another memory layout."""
        return replace(self, image=image)

    def presence(
        self,
    ) -> tuple[
        Bool[Tensor, "patch structure"],
        Bool[Tensor, "patch structure"],
        Bool[Tensor, "structure class"],
    ]:
        """Whether each patch shows each structure, where that is known, structures.

        Raises:
            SamplingError: Of a case it is not known what it shows.
        """
        known = self.presence_known
        if self.present is None or known is None or self.structures is None:
            raise SamplingError(
                f"cases {', '.join(self.case_names)}: of one it is not known what it "
                "shows; give it a label map, or list its structures under present"
            )
        return self.present, known, self.structures

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

    def made_probabilities(self) -> Float[Tensor, "patch class i j k"]:
        """What a predictor gave as labels.

        Raises:
            SamplingError: They were not asked for.
        """
        if self.soft_labels is None:
            raise SamplingError(
                f"cases {', '.join(self.case_names)}: the batch has no soft labels; "
                "the source of its patches must read labels that a predictor made"
            )
        return self.soft_labels

    def weights(self) -> Float[Tensor, "patch i j k"]:
        """The user's voxel weights.

        Raises:
            SamplingError: They were not asked for.
        """
        if self.voxel_weights is None:
            raise SamplingError(
                f"cases {', '.join(self.case_names)}: the batch has no voxel weights; "
                "the source of its patches must read weight maps"
            )
        return self.voxel_weights


def shown_structures(
    label_map: UInt8[Tensor, "i j k"], structures: Bool[Tensor, "structure class"]
) -> Bool[Tensor, " structure"]:
    """Whether any known voxel of a patch belongs to each structure."""
    classes = label_map.flatten().bincount(minlength=structures.shape[1]) > 0
    return (structures & classes[: structures.shape[1]]).any(dim=1)
