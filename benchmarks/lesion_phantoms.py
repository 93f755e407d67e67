"""Pictures of lesions from two scanners, and a training on them that takes seconds.

Not a benchmark by itself. One channel shows lesions weakly and alike on both scanners;
the other clearly, but with other grey values on the second.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.optim import Adam

from foveal.engine.training import Training, UpdateRules
from foveal.inference.numerics import Numerics
from foveal.losses.cross_entropy import cross_entropy
from foveal.methods.adversarial import Adversarial
from foveal.methods.interface import Method, Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.methods.supervised import Supervised
from foveal.networks.interface import Network, Output, asked
from foveal.sampling.batch import Batch

LENGTH = 36
"""Pixels along both axes."""

NUM_IMAGES = 60
"""Of each scanner to train on, and as many to test on."""

BATCH_SIZE = 8
"""Labelled images per step; of either domain as many again."""

LEARNING_RATE = 3e-3
NUM_HIDDEN = 5
NUM_FEATURES = 8

STRUCTURES = torch.tensor([[False, True]])


class Images(NamedTuple):
    """Images of one scanner and where their lesions are."""

    image: Tensor
    """`(case, channel, i, j)`."""

    label_map: Tensor
    """`(case, i, j)`, one byte; 1 in lesions."""


class Scores(NamedTuple):
    """Mean over images."""

    dice: float
    recall: float
    precision: float


def phantoms(
    number: int, domain: Literal["source", "target"], generator: np.random.Generator
) -> Images:
    """One to three round lesions in tissue.

    Args:
        number: Of images.
        domain: The target's second channel is ``0.7 * c2 + 0.5``.
        generator: Of tissue, lesions and noise.
    """
    images = np.empty((number, 2, LENGTH, LENGTH), np.float32)
    label_maps = np.empty((number, LENGTH, LENGTH), np.uint8)
    for place in range(number):
        shape = (LENGTH, LENGTH)
        tissue = 5 * ndimage.gaussian_filter(generator.normal(size=shape), 2.0)
        lesion = discs(generator)
        weak = 0.35 * tissue + 0.5 * lesion + generator.normal(0, 0.5, shape)
        clear = 0.21 * tissue + 1.2 * lesion + generator.normal(0, 0.25, shape)
        if domain == "target":
            clear = 0.7 * clear + 0.5
        images[place] = weak, clear
        label_maps[place] = lesion
    return Images(torch.from_numpy(images), torch.from_numpy(label_maps))


def discs(generator: np.random.Generator) -> NDArray[np.bool_]:
    """One to three, with radii from 2 to 5 pixels, seen whole where it is predicted."""
    indices = np.indices((LENGTH, LENGTH))
    inside = np.zeros((LENGTH, LENGTH), bool)
    for _ in range(generator.integers(1, 4)):
        radius = generator.uniform(2, 5)
        margin = NUM_HIDDEN + radius
        centre = generator.uniform(margin, LENGTH - 1 - margin, (2, 1, 1))
        inside |= ((indices - centre) ** 2).sum(axis=0) <= radius**2
    return inside


class FiveLayers(Network):
    """Five valid convolutions of 3 x 3 and a classifier; no batch norm."""

    padding: Literal["same", "valid"] = "valid"
    alignment = (1, 1)
    margins = ((NUM_HIDDEN, NUM_HIDDEN),) * 2
    classifier_names = ("classifier",)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        channels = [in_channels, *[NUM_FEATURES] * NUM_HIDDEN]
        self.hidden = nn.ModuleList(
            nn.Conv2d(before, NUM_FEATURES, 3) for before in channels[:-1]
        )
        self.classifier = nn.Conv2d(NUM_FEATURES, 2, 1)
        for layer in self.hidden:
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Two pixels more with every layer."""
        return (2 * NUM_HIDDEN + 1,) * 2

    def forward(self, image: Tensor, taps: Sequence[str] = ()) -> Output:
        """Layers are called ``"1"`` to ``"5"``."""
        activations: dict[str, Tensor] = {}
        features = image
        for number, layer in enumerate(self.hidden, 1):
            features = torch.relu(layer(features))
            activations[str(number)] = features
        return Output(self.classifier(features), (), asked(activations, taps))

    def at_output(
        self,
        tap: str,
        activation: Tensor,
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Tensor:
        """The centre, or the window of it: all layers have the logits' pixels."""
        margin = NUM_HIDDEN - int(tap)
        centre = (slice(margin, margin + length) for length in output_shape)
        inner = activation[:, :, *centre]
        return inner if window is None else inner[:, :, *window]


def supervised(in_channels: int, seed: int) -> Method:
    """A fresh network that learns from labelled images only."""
    torch.manual_seed(seed)
    return Supervised(
        FiveLayers(in_channels),
        {"cross_entropy": (cross_entropy, 1.0)},
        sampler="uniform",
        batch_size=BATCH_SIZE,
    )


def adversarial(
    seed: int,
    layers: Sequence[str],
    *,
    alpha_max: float,
    form: Literal["reversal", "confusion", "flipped"],
) -> Method:
    """A fresh network and a discriminator of its layers."""
    torch.manual_seed(seed)
    setting = Setting(
        network=FiveLayers(2),
        labelled_loss=LabelledLoss({"cross_entropy": (cross_entropy, 1.0)}),
        sampler="uniform",
        batch_size=BATCH_SIZE,
        in_channels=2,
        patch_size=(LENGTH, LENGTH),  # type: ignore[arg-type]
        spacing_mm=(1.0, 1.0),  # type: ignore[arg-type]
        structures=STRUCTURES,
        # It changes no images itself.
        spatial=None,  # type: ignore[arg-type]
        intensity=None,  # type: ignore[arg-type]
    )
    return Adversarial(
        setting,
        layers=layers,
        alpha_max=alpha_max,
        begin_fraction=0.25,
        full_fraction=0.8,
        form=form,
        features=(16, 16),
        learning_rate=LEARNING_RATE,
        batch_size=2 * BATCH_SIZE,
    )


def fitted(
    method: Method,
    draw: Callable[[np.random.Generator], Mapping[str, Batch]],
    steps: int,
    seed: int,
) -> tuple[Network, list[float]]:
    """Train from start to end.

    Args:
        method: Fresh.
        draw: Batches of a step.
        steps: Updates.
        seed: Of all draws.

    Returns:
        The network, and how often the discriminator was right in each step; nothing
        without one.
    """
    groups = method.parameter_groups()
    optimisers = {name: Adam(group, LEARNING_RATE) for name, group in groups.items()}
    training = Training(
        method,
        optimisers,
        Fabric(accelerator="cpu"),
        numerics=Numerics("float32", "contiguous"),
        rules=UpdateRules(lambda step, total: 1.0, float("inf"), 0.0),
        seed=seed,
    )
    generator = np.random.default_rng(seed)
    accuracy = []
    for _ in range(steps):
        training.update(draw(generator), steps)
        if "discriminator_accuracy" in method.measures():
            accuracy.append(float(method.measures()["discriminator_accuracy"]))
    return training.frozen_predictor(), accuracy


def batch_of(
    images: Images, number: int, generator: np.random.Generator, *, labelled: bool
) -> Batch:
    """Some of the images, drawn uniformly."""
    drawn = torch.from_numpy(generator.integers(len(images.image), size=number))
    return Batch(
        image=images.image[drawn],
        label_map=images.label_map[drawn] if labelled else None,
        annotated=torch.ones(number, 1, dtype=torch.bool) if labelled else None,
        structures=STRUCTURES if labelled else None,
        case_names=tuple(map(str, drawn.tolist())),
        corners=((0, 0, 0),) * number,
    )


@torch.no_grad()
def scores(network: Network, images: Images) -> Scores:
    """Of the lesions where they are predicted."""
    predicted = network(images.image).logits.argmax(dim=1).bool()
    reference = images.label_map[(..., *network.output_window((LENGTH, LENGTH)))].bool()
    both = (predicted & reference).sum(dim=(1, 2)).double()
    found, there = predicted.sum(dim=(1, 2)), reference.sum(dim=(1, 2))
    return Scores(
        dice=float((2 * both / (found + there)).mean()),
        recall=float((both / there).mean()),
        # Where nothing is found, nothing of it is right.
        precision=float((both / found.clamp(min=1)).mean()),
    )
