"""A method that shares nothing with supervised training, and cases from memory."""

import numpy as np
import torch
from torch import nn

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.building import network
from foveal.engine.loading import PatchSource
from foveal.engine.training import Training, UpdateRules
from foveal.inference.numerics import Numerics
from foveal.losses.cross_entropy import cross_entropy
from foveal.methods.interface import Method, Stream
from foveal.sampling.laws import anywhere
from foveal.sampling.samplers import BaseSampler

SHAPE = (12, 10, 9)
PATCH = (8, 8, 8)


class MemoryCase:
    """What the engine asks of a stored case, made from a seed."""

    def __init__(self, name, seed, *, labelled=True):
        generator = np.random.default_rng(seed)
        self.name = name
        self.shape = SHAPE
        self.num_channels = 1
        self.annotated = None
        self.present = None
        self.mask = None
        self.weight_map = None
        self.missing_channels = {}
        self.domain = None
        self.image = generator.normal(size=(1, *SHAPE)).astype(np.float32)
        self.label_map = (self.image[0] > 0.5).astype(np.uint8)
        counts = (int((self.label_map == 0).sum()), int(self.label_map.sum()))
        self.class_counts = counts if labelled else ()

    def read_image(self, window):
        return self.image[:, *window].copy()

    def read_label_map(self, window):
        return self.label_map[window].copy()

    def read_mask(self, window):
        raise AssertionError("the case has no mask")

    def read_weight_map(self, window):
        raise AssertionError("the case has no weight map")

    def class_voxel(self, class_index, n):
        return tuple(int(v) for v in np.argwhere(self.label_map == class_index)[n])


class StudentAndCritic(Method):
    """A U-Net learns from labels; a critic learns to tell the streams apart."""

    def __init__(self, norm="instance"):
        super().__init__()
        self.streams = {
            "labelled": Stream("labelled", "uniform", 2),
            "unlabelled": Stream("unlabelled", "uniform", 3),
        }
        self.student = network(
            "unet3d",
            in_channels=1,
            num_classes=2,
            features=(4, 8),
            kernels=((3, 3, 3),) * 2,
            strides=((2, 2, 2),),
            norm=norm,
            dropout_fraction=0.2,
        )
        self.critic = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def predictor(self):
        return self.student

    def parameter_groups(self):
        return {
            "student": list(self.student.parameters()),
            "critic": list(self.critic.parameters()),
        }

    def forward(self, batches, clock):
        labelled, unlabelled = batches["labelled"], batches["unlabelled"]
        logits = self.student(labelled.image).logits
        other = self.student(unlabelled.image).logits
        means = torch.cat([z.float().mean(dim=(2, 3, 4)) for z in (logits, other)])
        is_labelled = torch.tensor([1.0] * len(logits) + [0.0] * len(other))
        told = self.critic(means.detach()).squeeze(1)
        return {
            "segmentation": cross_entropy(logits, *labelled.labels()),
            "critic": nn.functional.binary_cross_entropy_with_logits(
                told.float(), is_labelled
            ),
        }

    def after_step(self, clock):
        self.seen += clock.step + 1


def spatial_augmentation():
    return SpatialAugmentation(
        rotation_probability=0.3,
        rotation_degrees=(20.0, 20.0, 20.0),
        scaling_probability=0.3,
        scaling=(0.8, 1.2),
        shear_probability=0.2,
        shear_degrees=6.0,
        shear_axes=(0, 1, 2),
        spacing_jitter_probability=0.2,
        spacing_jitter_mm=0.1,
        translation_probability=0.2,
        translation_voxels=2.0,
        elastic_probability=0.2,
        elastic_spacing_voxels=4.0,
        elastic_voxels=1.0,
        mirror_probability=0.5,
        mirror_axes=(0,),
        sagittal_axis=0,
        swapped_classes=(0, 1),
        swapped_structures=(0,),
    )


def intensity_augmentation():
    return IntensityAugmentation(
        noise_probability=0.3,
        noise_deviation=(0.0, 0.1),
        blur_probability=0.3,
        blur_sigma_voxels=(0.5, 1.0),
        shift_probability=0.3,
        shift_deviation=0.1,
        shift_factor_deviation=0.01,
        brightness_probability=0.3,
        brightness=(0.8, 1.2),
        contrast_probability=0.3,
        contrast=(0.8, 1.2),
        low_resolution_probability=0.3,
        low_resolution=(0.5, 1.0),
        gamma_probability=0.3,
        gamma=(0.7, 1.5),
    )


def sources(method, rank=0):
    cases = {
        "labelled": [MemoryCase(f"labelled {n}", n) for n in range(3)],
        "unlabelled": [MemoryCase(f"new {n}", 10 + n, labelled=False) for n in (0, 1)],
    }
    return {
        name: PatchSource(
            name=name,
            cases=cases[stream.cases],
            sampler=BaseSampler(anywhere),
            patch_size=PATCH,
            margins=((0, 0),) * 3,
            spacing_mm=(1.0, 1.0, 2.0),
            batch_size=stream.batch_size,
            structures=torch.tensor([[False, True]]),
            spatial=spatial_augmentation(),
            intensity=intensity_augmentation(),
            seed=5,
            rank=rank,
        )
        for name, stream in method.streams.items()
    }


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def training(
    fabric,
    seed=5,
    precision="float32",
    norm="instance",
    optimiser=adamw,
    rules_of=lambda method: {},
):
    torch.manual_seed(seed)
    method = StudentAndCritic(norm)
    groups = method.parameter_groups()
    rules = {"gradient_clip_norm": 10.0, "ema_decay": 0.9} | rules_of(method)
    optimisers = {
        "student": optimiser(
            [each for each in groups["student"] if each.requires_grad]
        ),
        "critic": torch.optim.SGD(groups["critic"], lr=1e-1, momentum=0.9),
    }
    return Training(
        method,
        optimisers,
        fabric,
        numerics=Numerics(precision, "channels_last"),
        rules=UpdateRules(lambda step, total: 1 - step / total, **rules),
        seed=seed,
    )
