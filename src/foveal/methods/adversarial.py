"""Adversarial domain adaptation: features by which nobody can tell the domain.

Kamnitsas et al. 2017, Unsupervised Domain Adaptation in Brain Lesion Segmentation with
Adversarial Networks, https://arxiv.org/abs/1612.08894, and Kamnitsas' thesis (Imperial
College London 2019), chapter 5. Forms ``"confusion"``: Tzeng et al. 2015,
https://arxiv.org/abs/1510.02192, eq. 3 and 4; ``"flipped"``: as in Goodfellow et al.
2014, https://arxiv.org/abs/1406.2661, section 3.

Differs from the thesis:

- Gradients are reversed between network and discriminator (Ganin et al. 2016,
  https://arxiv.org/abs/1505.07818), which is equation 5.6 in one backward pass.
- Domain batches are normalised by the running statistics of labelled ones; the thesis
  does not say what its batch norms do.
- Of a patch of which the network predicts more than `WIDEST` voxels along an axis, the
  discriminator sees a window at a random place; the thesis' 9^3 it sees whole.
- The discriminator's optimiser is of the kind that the settings name, with their
  momentum, weight decay and penalties; its learning rate is its own. Layers are frozen
  by names of the network, so the discriminator's never are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn import Parameter

from foveal.errors import SettingsError
from foveal.methods.interface import Clock, Method, Setting, Stream
from foveal.methods.probed_layers import probed_channels
from foveal.methods.running_statistics import running_statistics
from foveal.networks.discriminator import DomainDiscriminator
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch

WIDEST = 13
"""Voxels along an axis that the discriminator sees at most, 5 decisions with a field of
9: all of a U-Net's patch would cost more than the U-Net itself."""

Form = Literal["reversal", "confusion", "flipped"]


class Adversarial(Method):
    """Supervised terms, and a discriminator that the network learns to confuse.

    The supervised gradient ``g_seg`` and that of the discriminator's loss ``g_adv``
    make the network's gradient ``g_seg - alpha * g_adv``; the discriminator's is
    ``g_adv``. With the other forms the network has a domain loss of its own, whose
    gradient takes the place of ``-g_adv``.

    Args:
        setting: Of the run.
        source: Domains; empty: those with an outlined case to train on.
        target: Domains; empty: all others.
        layers: Of the network; empty: its ``adapted_layers``.
        alpha_max: Of alpha in the end.
        begin_fraction: Share of the run until which alpha is 0.
        full_fraction: Share of the run from which alpha is ``alpha_max``.
        form: What the network minimises of the domains.
        features: Channels of the discriminator's layers.
        learning_rate: Of the discriminator.
        batch_size: Domain patches per step, half from either; ``None``: twice as many
            as labelled ones.

    Raises:
        SettingsError: A layer does not exist, or is no map of the image.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        source: Sequence[str] = (),
        target: Sequence[str] = (),
        layers: Sequence[str] = (),
        alpha_max: float = 0.05,
        begin_fraction: float = 0.2,
        full_fraction: float = 0.7,
        form: Form = "reversal",
        features: Sequence[int] = (100, 100, 100, 100),
        learning_rate: float = 1e-3,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        half = setting.batch_size if batch_size is None else batch_size // 2
        self.streams = {
            "labelled": setting.labelled_stream,
            "source": Stream("source", "uniform", half, tuple(source)),
            "target": Stream("target", "uniform", half, tuple(target)),
        }
        self.labelled_loss = setting.labelled_loss
        self.alpha_max = alpha_max
        self.begin_fraction, self.full_fraction = begin_fraction, full_fraction
        self.form = form
        self.network = setting.network
        self.layers = tuple(layers) or setting.network.adapted_layers
        predicted = setting.network.output_shape(setting.patch_size)
        self.discriminator = DomainDiscriminator(
            sum(
                probed_channels(
                    setting,
                    self.layers,
                    option="method.layers",
                    missing="this network has no layers that are adapted by default; "
                    "name some of",
                )
            ),
            features=features,
            shape=[min(length, WIDEST) for length in predicted],
        )
        self.constant_rates = {"discriminator": learning_rate}
        self._measured: dict[str, Tensor] = {}

    @property
    def predictor(self) -> Network:
        """The segmentation network."""
        return self.network

    def parameter_groups(self) -> Mapping[str, list[Parameter]]:
        """``"network"`` and ``"discriminator"``."""
        return {
            "network": list(self.network.parameters()),
            "discriminator": list(self.discriminator.parameters()),
        }

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """The supervised terms, ``domain`` and, unless reversed, ``confusion``."""
        labelled, source = batches["labelled"], batches["source"]
        output = self.network(labelled.image)
        terms = self.labelled_loss(self.network, output, labelled)
        alpha = alpha_at(
            clock,
            alpha_max=self.alpha_max,
            begin_fraction=self.begin_fraction,
            full_fraction=self.full_fraction,
        )
        features = self.features(torch.cat([source.image, batches["target"].image]))
        domains = torch.zeros(len(features), dtype=torch.long, device=features.device)
        domains[len(source.image) :] = 1
        if self.form == "reversal":
            logits = self.discriminator(reversed_gradient(features, alpha))
        else:
            logits = self.discriminator(features.detach())
            terms["confusion"] = alpha * self._confusion(features, domains)
        terms["domain"] = domain_loss(logits, domains)
        self._measured = {
            "discriminator_accuracy": balanced_accuracy(logits.detach(), domains),
            "alpha": torch.tensor(alpha, dtype=torch.float64),
        }
        return terms

    def measures(self) -> Mapping[str, Tensor]:
        """How often the discriminator is right, 0.5 by chance, and alpha."""
        return self._measured

    def may_be_best(self, share_done: float) -> bool:
        """Once alpha is what it is to be: outlined cases may be of the source alone."""
        return self.alpha_max == 0 or share_done >= self.full_fraction

    def features(
        self, image: Float[Tensor, "patch channel i j k"]
    ) -> Float[Tensor, "patch feature *window"]:
        """Activations of the chosen layers on the grid of the logits, put together.

        A window of them, at a random place, where more than `WIDEST` voxels are
        predicted along an axis.
        """
        with running_statistics(self.network):
            output = self.network(image, self.layers)
        shape = output.logits.shape[2:]
        window = random_window(shape)
        features = torch.cat(
            [
                self.network.at_output(name, activation, shape, window)
                for name, activation in zip(
                    self.layers, output.activations, strict=True
                )
            ],
            dim=1,
        )
        is_fixed = torch.is_grad_enabled() and not features.requires_grad
        if self.alpha_max > 0 and is_fixed:
            raise SettingsError(
                f"method.layers {', '.join(self.layers)}: transfer.freeze keeps all "
                "that they depend on as it is, so nothing can be adapted; name later "
                "layers, or freeze less"
            )
        return features

    def _confusion(self, features: Tensor, domains: Tensor) -> Tensor:
        """What the network minimises; the discriminator only passes gradients on."""
        weights = {
            name: weight.detach()
            for name, weight in self.discriminator.named_parameters()
        }
        logits = functional_call(self.discriminator, weights, (features,))
        if self.form == "flipped":
            return domain_loss(logits, 1 - domains)
        return even_loss(logits)


def alpha_at(
    clock: Clock, *, alpha_max: float, begin_fraction: float, full_fraction: float
) -> float:
    """0 at first, then rising linearly to ``alpha_max`` (thesis, section 5.3.1.3)."""
    done = clock.step / clock.total_steps
    if done >= full_fraction:
        return alpha_max
    if done <= begin_fraction:
        return 0.0
    return alpha_max * (done - begin_fraction) / (full_fraction - begin_fraction)


def domain_loss(
    logits: Float[Tensor, "patch domain *place"], domains: Tensor
) -> Float[Tensor, ""]:
    """Cross entropy of every decision, their mean (thesis, eq. 5.3).

    Args:
        logits: Of all places.
        domains: Of the patches, from 0.
    """
    of_places = domains.reshape(-1, *[1] * (logits.ndim - 2))
    target = of_places.expand(-1, *logits.shape[2:])
    return F.cross_entropy(in_single_precision(logits), target)


def even_loss(logits: Float[Tensor, "patch domain *place"]) -> Float[Tensor, ""]:
    """Cross entropy of every decision and an even one (Tzeng et al. 2015, eq. 3)."""
    return -F.log_softmax(in_single_precision(logits), dim=1).mean()


def in_single_precision(logits: Tensor) -> Tensor:
    """Half precision is left, as it rounds small differences of losses away."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def balanced_accuracy(
    logits: Float[Tensor, "patch domain *place"], domains: Tensor
) -> Float[Tensor, ""]:
    """Share of decisions that are right, mean over both domains; 0.5 by chance."""
    right = logits.argmax(dim=1).flatten(1) == domains[:, None]
    of_patches = right.float().mean(dim=1)
    return torch.stack([of_patches[domains == n].mean() for n in (0, 1)]).mean()


def random_window(shape: Sequence[int]) -> tuple[slice, ...]:
    """At most `WIDEST` voxels along every axis, by PyTorch's global generator."""
    sizes = [min(length, WIDEST) for length in shape]
    starts = [
        int(torch.randint(length - size + 1, ())) if length > size else 0
        for length, size in zip(shape, sizes, strict=True)
    ]
    return tuple(
        slice(start, start + size) for start, size in zip(starts, sizes, strict=True)
    )


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, alpha: float) -> Tensor:  # noqa: ANN401 - PyTorch's context
        ctx.alpha = alpha
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - PyTorch's context
        return -ctx.alpha * gradient, None


def reversed_gradient(features: Tensor, alpha: float) -> Tensor:
    """The same features, whose gradient is multiplied by ``-alpha``."""
    same: Tensor = _ReversedGradient.apply(features, alpha)  # type: ignore[no-untyped-call]
    return same
