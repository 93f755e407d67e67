"""Noise, blur, shifts, brightness, contrast, resolution and gamma of training patches.

Written for whole batches on any device. Blur and low resolution act along one axis at a
time, as a matrix product; on a CPU that is several times faster than convolutions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor


@dataclass(frozen=True)
class IntensityAugmentation:
    """How likely and how strong the changes of intensities are.

    Every probability is per patch; strengths are drawn per channel of a changed patch,
    uniformly between the two values given, those of shifts normally.
    """

    noise_probability: float
    noise_deviation: tuple[float, float]
    """Standard deviation, in units of the preprocessed image."""

    blur_probability: float
    blur_sigma_voxels: tuple[float, float]
    """Positive."""

    shift_probability: float
    shift_deviation: float
    """Standard deviation of what is added to all values of a channel, in units of the
    preprocessed image: with z-scores, of the deviation of its image."""

    shift_factor_deviation: float
    """Standard deviation of the factor, 1 on average, of the shifted values."""

    brightness_probability: float
    brightness: tuple[float, float]
    """Factor of every value."""

    contrast_probability: float
    contrast: tuple[float, float]
    """Factor of the distance from the mean."""

    low_resolution_probability: float
    low_resolution: tuple[float, float]
    """Factor of the voxel count, drawn for each axis, in (0, 1]."""

    gamma_probability: float
    gamma: tuple[float, float]
    """Exponent, positive. Half of the changed patches are inverted for it."""

    missing_channel_value: float | None = None
    """A channel that has this value everywhere in a patch is missing there, and stays
    so: noise and factors would make an image of it. ``None``: none is missing."""

    def apply(
        self,
        image: Float32[Tensor, "patch channel i j k"],
        generator: torch.Generator,
    ) -> Float32[Tensor, "patch channel i j k"]:
        """Change some of the patches; the others are copied.

        Args:
            image: Patches of one batch.
            generator: The only source of randomness, on the CPU. How much is drawn
                does not depend on the values of ``image``.
        """
        unchanged, image = image, image.clone()
        for probability, change in (
            (self.noise_probability, self._change_noise),
            (self.blur_probability, self._change_sharpness),
            (self.shift_probability, self._change_level),
            (self.brightness_probability, self._change_brightness),
            (self.contrast_probability, self._change_contrast),
            (self.low_resolution_probability, self._change_resolution),
            (self.gamma_probability, self._change_gamma),
        ):
            is_changed = torch.rand(len(image), generator=generator) < probability
            changed = is_changed.nonzero().flatten().to(image.device)
            if len(changed):
                image[changed] = change(image[changed], generator)
        if self.missing_channel_value is None:
            return image
        # Interpolation of a constant may be off by rounding.
        filling = torch.full_like(unchanged, self.missing_channel_value)
        is_missing = torch.isclose(unchanged, filling, rtol=1e-4, atol=1e-4).all(
            dim=(2, 3, 4), keepdim=True
        )
        return torch.where(is_missing, filling, image)

    def _change_noise(self, image: Tensor, generator: torch.Generator) -> Tensor:
        deviation = _strengths(image, self.noise_deviation, generator)
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        return image + _per_channel(deviation) * noise

    def _change_sharpness(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return blurred(image, _strengths(image, self.blur_sigma_voxels, generator))

    def _change_level(self, image: Tensor, generator: torch.Generator) -> Tensor:
        deviates = torch.randn((2, *image.shape[:2]), generator=generator)
        shift, change = deviates.to(image.device)
        factor = 1 + self.shift_factor_deviation * change
        shifted = image + _per_channel(self.shift_deviation * shift)
        return shifted * _per_channel(factor)

    def _change_brightness(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return image * _per_channel(_strengths(image, self.brightness, generator))

    def _change_contrast(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return with_contrast(image, _strengths(image, self.contrast, generator))

    def _change_resolution(self, image: Tensor, generator: torch.Generator) -> Tensor:
        factors = [_strengths(image, self.low_resolution, generator) for _ in range(3)]
        return with_resolution(image, factors)

    def _change_gamma(self, image: Tensor, generator: torch.Generator) -> Tensor:
        gamma = _strengths(image, self.gamma, generator)
        is_inverted = torch.rand(len(image), generator=generator) < 0.5
        sign = torch.where(is_inverted, -1.0, 1.0).to(image.device)
        sign = sign[:, None, None, None, None]
        return sign * with_gamma(sign * image, gamma)


def blurred(
    image: Float32[Tensor, "patch channel i j k"],
    sigma_voxels: Float32[Tensor, "patch channel"],
) -> Float32[Tensor, "patch channel i j k"]:
    """Gaussian blur. At the border the weights inside are rescaled to sum to 1."""
    return along_axes(
        image, [gaussian_matrix(size, sigma_voxels) for size in image.shape[2:]]
    )


def gaussian_matrix(
    size: int, sigma_voxels: Float32[Tensor, "patch channel"]
) -> Float32[Tensor, "patch channel out in"]:
    """Gaussian weights between the voxels of one axis; each row sums to 1."""
    voxels = torch.arange(size, device=sigma_voxels.device)
    distances = voxels[:, None] - voxels
    weights = torch.exp(-0.5 * (distances / sigma_voxels[..., None, None]) ** 2)
    return weights / weights.sum(-1, keepdim=True)


def with_contrast(
    image: Float32[Tensor, "patch channel i j k"],
    factor: Float32[Tensor, "patch channel"],
) -> Float32[Tensor, "patch channel i j k"]:
    """Distances from each channel's mean times ``factor``, cut off at its old range."""
    mean = image.mean((2, 3, 4), keepdim=True)
    lowest = image.amin((2, 3, 4), keepdim=True)
    highest = image.amax((2, 3, 4), keepdim=True)
    stretched = mean + _per_channel(factor) * (image - mean)
    return torch.clamp(stretched, lowest, highest)


def with_resolution(
    image: Float32[Tensor, "patch channel i j k"],
    factors: Sequence[Float32[Tensor, "patch channel"]],
) -> Float32[Tensor, "patch channel i j k"]:
    """What a coarser scan would show: nearest voxels kept, then linear interpolation.

    Args:
        image: Patches.
        factors: For each of the three axes, the part of the voxels that is kept.
    """
    sizes = image.shape[2:]
    return along_axes(
        image,
        [
            low_resolution_matrix(size, factor)
            for size, factor in zip(sizes, factors, strict=True)
        ],
    )


def low_resolution_matrix(
    size: int, factor: Float32[Tensor, "patch channel"]
) -> Float32[Tensor, "patch channel out in"]:
    """Weights of one axis for fewer voxels, at least one, and back to ``size``.

    Coarse voxels share the length of the axis equally. Each takes the value of the fine
    voxel that holds its centre; beyond the outermost centres values are constant.
    """
    count = (size * factor).round().clamp(min=1)[..., None]
    voxels = torch.arange(size, device=factor.device)
    position = (voxels + 0.5) * count / size - 0.5
    position = torch.minimum(position.clamp(min=0), count - 1)
    lower = position.floor()
    upper = torch.minimum(lower + 1, count - 1)
    weight = position - lower

    def one_hot(coarse: Tensor) -> Tensor:
        kept = ((coarse + 0.5) * size / count).floor()
        return (kept[..., None] == voxels).to(factor.dtype)

    return torch.lerp(one_hot(lower), one_hot(upper), weight[..., None])


def with_gamma(
    image: Float32[Tensor, "patch channel i j k"],
    gamma: Float32[Tensor, "patch channel"],
) -> Float32[Tensor, "patch channel i j k"]:
    """Each channel, scaled to [0, 1], to the power ``gamma``; mean and deviation kept.

    A constant channel stays as it is.
    """
    axes = (2, 3, 4)
    lowest = image.amin(axes, keepdim=True)
    extent = image.amax(axes, keepdim=True) - lowest
    is_constant = extent == 0
    scaled = (image - lowest) / torch.where(is_constant, 1.0, extent)
    curved = scaled ** _per_channel(gamma)
    deviation, mean = torch.std_mean(image, axes, correction=0, keepdim=True)
    curved_deviation, curved_mean = torch.std_mean(
        curved, axes, correction=0, keepdim=True
    )
    restored = mean + (curved - curved_mean) * (deviation / curved_deviation)
    return torch.where(is_constant, image, restored)


def along_axes(
    image: Float32[Tensor, "patch channel i j k"],
    matrices: Sequence[Float32[Tensor, "patch channel _ _"]],
) -> Float32[Tensor, "patch channel i j k"]:
    """Multiply the lines of voxels along i, j and k by one matrix each."""
    along_i, along_j, along_k = matrices
    image = (along_i @ image.flatten(3)).reshape(image.shape)
    image = along_j[:, :, None] @ image
    return image @ along_k.mT[:, :, None]


def _strengths(
    image: Tensor, limits: tuple[float, float], generator: torch.Generator
) -> Float32[Tensor, "patch channel"]:
    """One number per patch and channel, uniform between the limits."""
    lowest, highest = limits
    shares = torch.rand(image.shape[:2], generator=generator)
    return (lowest + (highest - lowest) * shares).to(image.device)


def _per_channel(
    strengths: Float32[Tensor, "patch channel"],
) -> Float32[Tensor, "patch channel 1 1 1"]:
    return strengths[:, :, None, None, None]
