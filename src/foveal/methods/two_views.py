"""What networks say of two views of unlabelled patches, on the voxels of the second."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from foveal.augmentation.views import carried, second_views
from foveal.losses.consistency import mean_over
from foveal.methods.interface import Setting
from foveal.methods.running_statistics import running_statistics
from foveal.networks.interface import Network


class TwoViews(NamedTuple):
    """What is compared, voxel by voxel of the second view that is predicted."""

    logits: Float[Tensor, "patch class *space"]
    """Of the second view, from the network that learns."""

    target: Float32[Tensor, "patch class *space"]
    """Probabilities that were said of the first view; without a gradient."""

    inside: Bool[Tensor, "patch *space"]  # noqa: F821 - a shape, not names
    """Whether the first view shows the voxel."""

    def mean(
        self,
        of_voxels: Float32[Tensor, "patch *space"],  # noqa: F821
        confident: Bool[Tensor, "patch *space"],  # noqa: F821
    ) -> Float32[Tensor, ""]:
        """Mean over the voxels inside; see `mean_over`."""
        return mean_over(of_voxels, self.inside, confident)

    def measures(
        self,
        consistency: Float32[Tensor, ""],
        confident: Bool[Tensor, "patch *space"],  # noqa: F821
    ) -> dict[str, Tensor]:
        """What tells whether unlabelled patches teach anything, and what.

        Returns:
            The term before its weight; of the voxels inside, the fraction that is
            confident; of these, the fraction whose target is a structure. 0 where there
            are no such voxels.
        """
        counted = self.inside & confident
        of_structure = counted & (self.target.argmax(dim=1) > 0)
        num_counted = counted.sum()
        return {
            "consistency": consistency.detach(),
            "confident_fraction": num_counted / self.inside.sum().clamp(min=1),
            "structure_fraction": of_structure.sum() / num_counted.clamp(min=1),
        }


def seen_twice(
    image: Float[Tensor, "patch channel i j k"],
    setting: Setting,
    *,
    teacher: Network,
    student: Network,
) -> TwoViews:
    """Let one network speak of patches, and another of their second views.

    Every view is a pass of its own, and neither changes the statistics of batch norms.

    Args:
        image: First views. The second ones are drawn by PyTorch's global generator on
            the CPU, which the engine seeds at every step.
        setting: Of the run, for what changes between the views.
        teacher: Says the targets.
        student: Learns; may be the same network.
    """
    seed = int(torch.randint(2**62, ()))
    # In full precision, as what the loader augments.
    with torch.autocast(image.device.type, enabled=False):
        second = second_views(
            image,
            setting.spatial,
            setting.intensity,
            setting.spacing_mm,
            torch.Generator().manual_seed(seed),
        )
    with torch.no_grad(), running_statistics(teacher):
        first_logits = teacher(image).logits
    with running_statistics(student):
        logits = student(second.image).logits
    i, j, k = student.output_window(image.shape[2:])
    with torch.autocast(image.device.type, enabled=False):
        target, inside = carried(
            first_logits.float().softmax(dim=1), second.maps, (i, j, k)
        )
    return TwoViews(logits, target, inside)
