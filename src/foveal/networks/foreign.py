"""Networks of other libraries: those listed here and no others.

MONAI's (https://monai.io, Cardoso et al. 2022, https://arxiv.org/abs/2211.02701) come
with ``pip install "foveal[monai]"`` and are imported when one is built. A name in a
file chooses a function of this module; nothing that a file says is ever imported.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Literal

from torch import Tensor, nn

from foveal.errors import SettingsError
from foveal.networks.interface import Network, Output, UnknownLayerError

SWIN_ALIGNMENT = 32
"""Patches of two voxels, then four times merged by two."""


class ForeignNetwork(Network):
    """Another library's module that maps an image to logits of the same shape.

    Args:
        body: In training and evaluation alike, gives the logits and nothing else.
        alignment: Input lengths must be multiples of it.
        classifier: Name of the module in ``body`` that makes logits of features.
    """

    padding: Literal["same", "valid"] = "same"

    def __init__(
        self, body: nn.Module, *, alignment: Sequence[int], classifier: str
    ) -> None:
        super().__init__()
        self.body = body
        self.alignment = tuple(alignment)
        self.classifier_names = (f"body.{classifier}",)

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """``None``: unknown, so that nothing may rely on less than the whole input."""
        return None

    def forward(self, image: Tensor, taps: Sequence[str] = ()) -> Output:
        """Logits on the image's grid.

        Args:
            image: `(patch, channel, …)`, axes divisible by ``alignment``.
            taps: Names of modules in ``body``.
        """
        found: dict[str, Tensor] = {}

        def keep_as(name: str, activation: Tensor) -> None:
            found[name] = activation

        named = [name for name, _ in self.body.named_modules() if name]
        unknown = [name for name in taps if name not in named]
        if unknown:
            raise UnknownLayerError(unknown, named)
        hooks = [
            self.body.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, activation, name=name: keep_as(
                    name, activation
                )
            )
            for name in taps
        ]
        try:
            logits = self.body(image)
        finally:
            for hook in hooks:
                hook.remove()
        # Some modules only hold others, or give something else than a tensor.
        never = [name for name in taps if not isinstance(found.get(name), Tensor)]
        if never:
            raise UnknownLayerError(
                never, [each for each in named if each not in never]
            )
        return Output(logits, (), tuple(found[name] for name in taps))


def monai_unet(
    in_channels: int,
    num_classes: int,
    *,
    dimensions: int,
    features: Sequence[int],
    strides: Sequence[int],
    residual_units: int,
    norm: str,
    dropout_fraction: float,
) -> ForeignNetwork:
    """``UNet``: convolutions with stride down, transposed ones up, residual units.

    Kerfoot et al. 2019, https://doi.org/10.1007/978-3-030-12029-0_40. The default, with
    one channel and three classes, has 4,807,482 parameters in 3D.
    """
    body = _networks_of_monai().UNet(
        spatial_dims=dimensions,
        in_channels=in_channels,
        out_channels=num_classes,
        channels=tuple(features),
        strides=tuple(strides),
        num_res_units=residual_units,
        norm=norm,
        dropout=dropout_fraction,
    )
    return ForeignNetwork(
        body, alignment=(math.prod(strides),) * dimensions, classifier="model.2"
    )


def monai_attentionunet(
    in_channels: int,
    num_classes: int,
    *,
    dimensions: int,
    features: Sequence[int],
    strides: Sequence[int],
    dropout_fraction: float,
) -> ForeignNetwork:
    """``AttentionUnet``: what a skip passes on is weighted by the coarser stage.

    Oktay et al. 2018, https://arxiv.org/abs/1804.03999. The default, with one channel
    and three classes, has 1,466,583 parameters in 3D.
    """
    body = _networks_of_monai().AttentionUnet(
        spatial_dims=dimensions,
        in_channels=in_channels,
        out_channels=num_classes,
        channels=tuple(features),
        strides=tuple(strides),
        dropout=dropout_fraction,
    )
    return ForeignNetwork(
        body, alignment=(math.prod(strides),) * dimensions, classifier="model.2"
    )


def monai_dynunet(
    in_channels: int,
    num_classes: int,
    *,
    dimensions: int,
    features: Sequence[int],
    strides: Sequence[int],
    residual: bool,
    norm: str,
    dropout_fraction: float,
) -> ForeignNetwork:
    """``DynUNet``: after nnU-Net, here with kernels of 3 and no deep supervision.

    Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z. The default, with
    one channel and three classes, has 5,600,963 parameters in 3D.
    """
    body = _networks_of_monai().DynUNet(
        spatial_dims=dimensions,
        in_channels=in_channels,
        out_channels=num_classes,
        kernel_size=(3,) * len(features),
        strides=(1, *strides),
        upsample_kernel_size=tuple(strides),
        filters=tuple(features),
        norm_name=(norm, {"affine": True}),
        res_block=residual,
        dropout=dropout_fraction or None,
    )
    # It holds its layers once more, nested as they are computed; as a plain attribute
    # that does not put every weight into the checkpoint twice.
    nested = body.skip_layers
    del body.skip_layers
    vars(body)["skip_layers"] = nested
    return ForeignNetwork(
        body, alignment=(math.prod(strides),) * dimensions, classifier="output_block"
    )


def monai_segresnet(
    in_channels: int,
    num_classes: int,
    *,
    dimensions: int,
    first_features: int,
    blocks_down: Sequence[int],
    blocks_up: Sequence[int],
    dropout_fraction: float,
) -> ForeignNetwork:
    """``SegResNet``: residual encoder, small decoder, group norm; without its VAE.

    Myronenko 2018, https://arxiv.org/abs/1810.11654. The default, with one channel and
    three classes, has 4,700,931 parameters in 3D.
    """
    body = _networks_of_monai().SegResNet(
        spatial_dims=dimensions,
        in_channels=in_channels,
        out_channels=num_classes,
        init_filters=first_features,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
        dropout_prob=dropout_fraction or None,
    )
    step = 2 ** (len(blocks_down) - 1)
    return ForeignNetwork(
        body, alignment=(step,) * dimensions, classifier="conv_final.2"
    )


def monai_swinunetr(
    in_channels: int,
    num_classes: int,
    *,
    dimensions: int,
    first_features: int,
    depths: Sequence[int],
    heads: Sequence[int],
    dropout_fraction: float,
) -> ForeignNetwork:
    """``SwinUNETR``: shifted-window transformer as encoder, convolutions as decoder.

    Hatamizadeh et al. 2022, https://arxiv.org/abs/2201.01266. The default, with one
    channel and three classes, has 15,703,029 parameters in 3D. Its instance norm needs
    patches longer than 32 voxels on at least one axis.
    """
    networks = _networks_of_monai()
    _require_einops()
    body = networks.SwinUNETR(
        spatial_dims=dimensions,
        in_channels=in_channels,
        out_channels=num_classes,
        feature_size=first_features,
        depths=tuple(depths),
        num_heads=tuple(heads),
        drop_rate=dropout_fraction,
    )
    return ForeignNetwork(
        body, alignment=(SWIN_ALIGNMENT,) * dimensions, classifier="out"
    )


def _networks_of_monai() -> ModuleType:
    try:
        from monai.networks import nets
    except ModuleNotFoundError as error:
        raise SettingsError(
            f'networks "monai:…" need MONAI, which is not here ({error}); '
            'pip install "foveal[monai]"'
        ) from error
    return nets


def _require_einops() -> None:
    """MONAI says that it is missing later and less clearly."""
    try:
        import einops  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingsError(
            'network "monai:swinunetr" also needs einops, which is not here; '
            'pip install "foveal[monai]"'
        ) from error
