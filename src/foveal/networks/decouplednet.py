"""DecoupledNet: image labels teach one part what is there, few masks another where.

Hong, Noh and Han 2015, https://arxiv.org/abs/1506.04924, with the layers of the
authors' model files and the sum of class maps of their inference. Teichmann's tutorial
says of it only that it relaxes the need of DeconvNet and SegNet for many masks by
transfer learning; everything else is the paper's. Differs:

- Masks train the class maps as they are summed at prediction; the authors train one
  figure-ground problem per image and label.
- The classification part also has an output for the background, as every network here
  has; the segmentation part does not look at it.
- Any image size: scores are pooled over the whole image, and small ones are completed
  by zeros.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.errors import SettingsError
from foveal.networks.deconvnet import FullyConnectedBridge
from foveal.networks.initialisation import initialise
from foveal.networks.interface import Network, Output, asked, whole
from foveal.networks.places import spread
from foveal.networks.vgg import (
    CONVOLUTIONS,
    FULLY_CONNECTED_KERNEL,
    Pooled,
    UnpoolingDecoder,
    VggEncoder,
    at_least,
    batch_norm,
    convolution_names,
    fully_connected_names,
    strides_of_taps,
)

ABSENT = -1e4
"""Logit of a class that is left out; finite in float16."""


class Evidence(NamedTuple):
    """What the classification part saw."""

    pooled: list[Pooled]
    fc6: Float[Tensor, "patch feature m n"]
    fc7: Float[Tensor, "patch feature m n"]
    scores: Float[Tensor, "patch class m n"]
    """One per window of 7 x 7 poolings; an image's is the largest."""


class DecoupledNet(Network):
    """A classifier, bridging layers and a decoder that draws one class at a time.

    The evidence for a class, carried back from its score to the last pooling, tells the
    decoder what to draw; the decoder itself knows no classes. Its weights serve all.

    Three channels, 21 classes and the published features have 134,346,581 parameters in
    the classification part and 173,107,906 in the other parts, 307,454,487 in all.

    Training takes two runs: first the classification part with image labels
    (`image_logits`), then with ``classification`` frozen the rest with masks.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        features: Per stage, finest first.
        head_features: Of the classifier's two layers that were fully connected.
        bridge_features: Of the bridge's two such layers.
        dropout_fraction: After each of the classifier's two, in training it.
        presence_threshold: Classes of lower image probability are left out of
            predictions; 0 leaves none out.
    """

    padding: Literal["same", "valid"] = "same"
    alignment = (1, 1)
    # The decoder's own output is figure and ground, whatever the classes are.
    classifier_names = ("classification.score",)
    # What comes later has a map per class, and not one per image.
    embedding_layer = "fc7"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        features: Sequence[int],
        head_features: int,
        bridge_features: int,
        dropout_fraction: float,
        presence_threshold: float,
    ) -> None:
        super().__init__()
        self.presence_threshold = presence_threshold
        self.classification = ClassificationPart(
            in_channels,
            num_classes,
            features=features,
            head_features=head_features,
            dropout_fraction=dropout_fraction,
        )
        self.norm_features = batch_norm(features[-1])
        self.norm_relevance = batch_norm(features[-1])
        self.bridge = FullyConnectedBridge(
            2 * features[-1], bridge_features, features[-1]
        )
        self.decoder = UnpoolingDecoder(
            features, transposed=True, finest_convolutions=CONVOLUTIONS[0]
        )
        self.figure_ground = nn.Conv2d(features[0], 2, 1)
        for part in (self.bridge, self.decoder, self.figure_ground):
            initialise(part, "normal")

    def image_logits(
        self, image: Float[Tensor, "patch channel i j"]
    ) -> Float[Tensor, "patch class"]:
        """How strongly each class is anywhere in the image, background first."""
        return self.classification(image)

    def forward(
        self, image: Float[Tensor, "patch channel i j"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid, whose softmax is the authors' sum of class maps.

        Background's is the logarithm of the probability of ground when all classes
        that are present are drawn together, a class's that of figure when it is drawn
        alone.

        Args:
            image: Preprocessed, of any size.
            taps: Any of ``pool1`` to ``pool5``, ``fc6``, ``fc7``; and, as many per
                image as maps are drawn, ``relevance`` and ``decoder.0`` (the coarsest)
                to ``decoder.4``.
        """
        evidence = self.classification.evidence(image)
        is_present = self._is_present(evidence)
        classes = self._drawn_classes(is_present)
        relevance = self.classification.relevance(evidence, classes)
        of_present = relevance * is_present[:, classes, None, None, None]
        # A single class together with no other is that class alone.
        is_single = is_present.shape[1] == 1
        drawn = (
            relevance
            if is_single
            else torch.cat([of_present.sum(dim=1, keepdim=True), relevance], dim=1)
        )

        number = drawn.shape[1]
        features = self.norm_features(evidence.pooled[-1].maps)
        decoded = self._drawn(
            features.repeat_interleave(number, dim=0),
            drawn.flatten(0, 1),
            [_repeated(each, number) for each in evidence.pooled],
        )
        figure_ground = self.figure_ground(decoded[-1]).unflatten(0, (-1, number))
        log_ground, log_figure = figure_ground.log_softmax(dim=2).unbind(dim=2)
        # Those not drawn at all are not there either.
        of_classes = torch.full_like(
            log_ground[:, :1].expand(-1, is_present.shape[1], -1, -1), ABSENT
        )
        of_classes[:, classes] = log_figure[:, -len(classes) :] if classes else 0
        of_classes = of_classes.masked_fill(~is_present[:, :, None, None], ABSENT)
        logits = torch.cat([log_ground[:, :1], of_classes], dim=1)

        activations = {
            f"pool{n}": each.maps for n, each in enumerate(evidence.pooled, start=1)
        }
        activations |= {"fc6": evidence.fc6, "fc7": evidence.fc7}
        activations["relevance"] = drawn.flatten(0, 1)
        activations |= {f"decoder.{n}": maps for n, maps in enumerate(decoded)}
        return Output(logits, (), asked(activations, taps))

    def _is_present(self, evidence: Evidence) -> Bool[Tensor, "patch foreground"]:
        """Which classes each image shows, as far as that is asked."""
        of_image = probabilities(evidence.scores)[:, 1:]
        if self.training:
            # Whether the classifier is right is not known here; all are learned.
            return torch.ones_like(of_image, dtype=torch.bool)
        return of_image >= self.presence_threshold

    def _drawn_classes(self, is_present: Bool[Tensor, "patch foreground"]) -> list[int]:
        """Those that some image shows, counted without background."""
        number = is_present.shape[1]
        if self.training or self.presence_threshold == 0 or number == 1:
            return list(range(number))
        return is_present.any(dim=0).nonzero().flatten().tolist()

    def _drawn(
        self, features: Tensor, relevance: Tensor, pooled: Sequence[Pooled]
    ) -> list[Tensor]:
        """What the decoder makes of features and of the class that they speak for."""
        both = torch.cat([features, self.norm_relevance(relevance)], dim=1)
        return self.decoder(self.bridge(both), pooled)

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """Of the classification part, all that the other parts see."""
        return "pool3", "pool4", "pool5", "fc7"

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "patch feature m n"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature i j"]:
        """See `Network`.

        Raises:
            SettingsError: Of a layer of which every image has one map per class.
        """
        part = whole(output_shape) if window is None else window
        if tap.startswith(("relevance", "decoder")):
            raise SettingsError(
                f"{tap} of decouplednet has a map per class and not per image; name "
                "any of pool1 to pool5, fc6 and fc7"
            )
        if tap.startswith("pool"):
            stride = strides_of_taps()[tap]
            return spread(activation, part, (stride, stride), (0, 0))
        stride = 2 ** len(CONVOLUTIONS)
        offsets = []
        for length in output_shape:
            # Zeros complete a small last pooling; a window's centre stands for it.
            missing = max(0, FULLY_CONNECTED_KERNEL - -(-length // stride))
            offsets.append(stride * (FULLY_CONNECTED_KERNEL // 2 - missing // 2))
        return spread(activation, part, (stride, stride), offsets)

    @property
    def receptive_field(self) -> None:
        """Class scores are of the whole image."""
        return

    def pretrained_names(self) -> dict[str, str]:
        """Parameters to their names in torchvision's ``vgg16``."""
        return convolution_names("classification.encoder") | fully_connected_names(
            "classification."
        )


class ClassificationPart(nn.Module):
    """VGG16 for several classes per image.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        features: Per stage, finest first.
        head_features: Of the two layers that were fully connected.
        dropout_fraction: After each of those, in training.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        features: Sequence[int],
        head_features: int,
        dropout_fraction: float,
    ) -> None:
        super().__init__()
        self.encoder = VggEncoder(in_channels, features, norm=False)
        self.fc6 = nn.Conv2d(features[-1], head_features, FULLY_CONNECTED_KERNEL)
        self.fc7 = nn.Conv2d(head_features, head_features, 1)
        self.score = nn.Conv2d(head_features, num_classes, 1)
        self.dropout = nn.Dropout(dropout_fraction)
        initialise(self, "he")
        initialise(self.score, "normal")

    def forward(
        self, image: Float[Tensor, "patch channel i j"]
    ) -> Float[Tensor, "patch class"]:
        """Logit of each class being anywhere in the image."""
        pooled = self.encoder(image)[-1].maps
        fc6 = self.fc6(at_least(pooled, FULLY_CONNECTED_KERNEL)[0]).relu()
        fc7 = self.fc7(self.dropout(fc6)).relu()
        return self.score(self.dropout(fc7)).amax(dim=(2, 3))

    def evidence(self, image: Float[Tensor, "patch channel i j"]) -> Evidence:
        """The same without dropout, and all on the way to it."""
        pooled = self.encoder(image)
        fc6 = self.fc6(at_least(pooled[-1].maps, FULLY_CONNECTED_KERNEL)[0]).relu()
        fc7 = self.fc7(fc6).relu()
        return Evidence(pooled, fc6, fc7, self.score(fc7))

    def relevance(
        self, evidence: Evidence, classes: Sequence[int]
    ) -> Float[Tensor, "patch foreground channel i j"]:
        """Gradient of each class's score by the last pooling, times its probability.

        Written out, as predictions are made where gradients are not recorded; the score
        is linear in the last pooling as long as no ReLU changes.

        Args:
            evidence: Of the images.
            classes: That are asked for, counted without background.
        """
        chosen = [1 + number for number in classes]
        scores = evidence.scores[:, chosen]
        places = scores.flatten(2).argmax(dim=2, keepdim=True)
        of_image = probabilities(evidence.scores)[:, chosen].unsqueeze(2)
        # Only the window with the highest score speaks.
        seeds = torch.zeros_like(scores.flatten(2)).scatter(2, places, of_image)
        seeds = seeds.unflatten(2, scores.shape[2:]).unsqueeze(2)
        behind = seeds * self.score.weight[chosen] * (evidence.fc7 > 0).unsqueeze(1)
        number = behind.shape[1]
        behind = F.conv_transpose2d(behind.flatten(0, 1), self.fc7.weight)
        behind = behind * (evidence.fc6 > 0).repeat_interleave(number, dim=0)
        behind = F.conv_transpose2d(behind, self.fc6.weight)
        _, (rows, columns) = at_least(evidence.pooled[-1].maps, FULLY_CONNECTED_KERNEL)
        return behind[:, :, rows, columns].unflatten(0, (len(scores), number))


def probabilities(
    scores: Float[Tensor, "patch class m n"],
) -> Float[Tensor, "patch class"]:
    """Of each class being anywhere in the image, as image labels train them.

    A class stands against background, see `foveal.losses.presence.presence_logits`;
    background's own value says nothing.
    """
    highest = scores.amax(dim=(2, 3))
    return (highest - highest[:, :1]).sigmoid()


def _repeated(pooled: Pooled, number: int) -> Pooled:
    """The same for every map that is drawn of an image."""
    return Pooled(
        pooled.maps.repeat_interleave(number, dim=0),
        pooled.indices.repeat_interleave(number, dim=0),
        pooled.shape,
    )
