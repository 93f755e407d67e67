"""What a run gives to a method, made up; augmentation that does nothing by itself."""

import torch

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.methods.interface import Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.sampling.batch import Batch

NO_MOVES = SpatialAugmentation(
    rotation_probability=0.0,
    rotation_degrees=(30.0, 30.0, 30.0),
    scaling_probability=0.0,
    scaling=(0.7, 1.4),
    shear_probability=0.0,
    shear_degrees=6.0,
    shear_axes=(0, 1, 2),
    spacing_jitter_probability=0.0,
    spacing_jitter_mm=0.1,
    translation_probability=0.0,
    translation_voxels=2.0,
    elastic_probability=0.0,
    elastic_spacing_voxels=8.0,
    elastic_voxels=2.0,
    mirror_probability=0.0,
    mirror_axes=(0, 1, 2),
    sagittal_axis=0,
    swapped_classes=(0, 2, 1),
    swapped_structures=(1, 0),
)

NO_CHANGES = IntensityAugmentation(
    noise_probability=0.0,
    noise_deviation=(0.0, 0.3),
    blur_probability=0.0,
    blur_sigma_voxels=(0.5, 1.0),
    shift_probability=0.0,
    shift_deviation=0.1,
    shift_factor_deviation=0.0,
    brightness_probability=0.0,
    brightness=(0.75, 1.25),
    contrast_probability=0.0,
    contrast=(0.75, 1.25),
    low_resolution_probability=0.0,
    low_resolution=(0.5, 1.0),
    gamma_probability=0.0,
    gamma=(0.7, 1.5),
)


def setting(network, patch_size, *, spatial=NO_MOVES, intensity=NO_CHANGES):
    """Of two structures, trained by cross entropy and Dice."""
    losses = {"cross_entropy": (cross_entropy, 1.0), "dice": (dice_loss, 1.0)}
    return Setting(
        network=network,
        in_channels=1,
        labelled_loss=LabelledLoss(losses),
        sampler="class_balanced",
        batch_size=2,
        patch_size=patch_size,
        spacing_mm=(1.0, 1.0, 1.0),
        structures=torch.eye(3, dtype=torch.bool)[1:],
        spatial=spatial,
        intensity=intensity,
    )


def batch(patch_size, *, seed, labelled, patches=2):
    """Noise; what is bright is of the second structure, what is dark of the first."""
    draws = torch.Generator().manual_seed(seed)
    image = torch.randn(patches, 1, *patch_size, generator=draws)
    labels = torch.where(image > 0.5, 2, torch.where(image < -0.5, 1, 0))
    return Batch(
        image=image,
        label_map=labels[:, 0].to(torch.uint8) if labelled else None,
        annotated=torch.ones(patches, 2, dtype=torch.bool) if labelled else None,
        structures=torch.eye(3, dtype=torch.bool)[1:] if labelled else None,
        case_names=("made up",) * patches,
        corners=((0, 0, 0),) * patches,
    )
