"""A 2D network on volumes: every slice by itself."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from foveal.networks.interface import Network, Output, whole


class SliceBySlice(Network):
    """Gives every slice of a volume to a 2D network, as one batch.

    Args:
        network: 2D.
        axis: Of the volume that counts the slices, 0 to 2.
    """

    def __init__(self, network: Network, axis: int) -> None:
        super().__init__()
        self.network = network
        self.axis = axis
        self.padding = network.padding
        self.classifier_names = tuple(
            f"network.{name}" for name in network.classifier_names
        )
        self.embedding_layer = network.embedding_layer
        self.alignment = self._with_axis(network.alignment, 1)
        self.margins = self._with_axis(network.all_margins, (0, 0))

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """Those of the 2D network."""
        return self.network.adapted_layers

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "slice feature _ _"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature i j k"]:
        """See `Network`; slices come back to their patches."""
        part = list(whole(output_shape) if window is None else window)
        plane = list(output_shape)
        by_patch = activation.unflatten(0, (-1, plane.pop(self.axis)))
        seen = by_patch[:, part.pop(self.axis)]
        shown = self.network.at_output(tap, seen.flatten(0, 1), plane, part)
        return shown.unflatten(0, (len(seen), -1)).movedim(1, 2 + self.axis)

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """That of the 2D network, and one slice."""
        field = self.network.receptive_field
        return None if field is None else self._with_axis(field, 1)

    @property
    def pathway_fields(self) -> tuple[tuple[int, ...], ...]:
        """Those of the 2D network, and one slice each."""
        return tuple(self._with_axis(each, 1) for each in self.network.pathway_fields)

    def pretrained_names(self) -> Mapping[str, str]:
        """Those of the 2D network."""
        return {
            f"network.{name}": there
            for name, there in self.network.pretrained_names().items()
        }

    def forward(
        self, image: Float[Tensor, "patch channel i j k"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits of all slices; activations keep slices and patches together."""
        number = len(image)
        output = self.network(self._slices(image), taps)

        def stacked(maps: Tensor) -> Tensor:
            return maps.unflatten(0, (number, -1)).movedim(1, 2 + self.axis)

        return Output(
            stacked(output.logits),
            tuple(stacked(logits) for logits in output.coarse_logits),
            output.activations,
        )

    def image_logits(
        self, image: Float[Tensor, "patch channel i j k"]
    ) -> Float[Tensor, "patch class"]:
        """Mean over the slices of what each shows."""
        logits = self.network.image_logits(self._slices(image))
        return logits.unflatten(0, (len(image), -1)).mean(1)

    def _slices(
        self, image: Float[Tensor, "patch channel i j k"]
    ) -> Float[Tensor, "slice channel _ _"]:
        """All slices of all patches, in the memory layout of the image."""
        by_slice = image.movedim(2 + self.axis, 1)
        if image.stride(1) == 1:
            # Joined with the channels last, as a copy of other order would lose that.
            return by_slice.movedim(2, -1).flatten(0, 1).movedim(-1, 1)
        return by_slice.flatten(0, 1)

    def _with_axis(self, of_plane: Sequence, of_axis: object) -> tuple:  # type: ignore[type-arg]
        return (*of_plane[: self.axis], of_axis, *of_plane[self.axis :])
