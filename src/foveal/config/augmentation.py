"""How training patches are changed."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from foveal.config.sections import Factors, Fraction, PerAxis, PositiveFraction, Section


class AugmentationConfig(Section):
    """Changes of training patches; each ``_probability`` is per patch."""

    rotation_probability: Fraction = 0.2
    rotation_degrees: NonNegativeFloat | PerAxis = 30.0
    """Largest angle. One number: about each axis, on strongly anisotropic grids only
    that across the slices. Three: about i, j and k, whatever the grid."""

    scaling_probability: Fraction = 0.2
    scaling: Factors = (0.7, 1.4)
    shear_probability: Fraction = 0.0
    shear_degrees: Annotated[float, Field(ge=0.0, lt=90.0)] = 6.0
    """Largest angle by which an axis leans; on strongly anisotropic grids only in
    the slices."""

    spacing_jitter_probability: Fraction = 0.0
    spacing_jitter_mm: NonNegativeFloat = 0.1
    """Largest difference of a patch's spacing from the plan's, drawn per axis."""

    translation_probability: Fraction = 0.0
    translation_voxels: NonNegativeFloat = 4.0
    elastic_probability: Fraction = 0.0
    elastic_spacing_voxels: PositiveFloat = 16.0
    """Distance of the control points."""

    elastic_voxels: NonNegativeFloat = 3.0
    """Standard deviation of the control points' displacement, at most 0.4 times their
    distance."""

    mirror_probability: Fraction = 0.5
    """Per axis of ``mirroring.axes``."""

    noise_probability: Fraction = 0.1
    noise_deviation: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 0.3)
    blur_probability: Fraction = 0.1
    blur_sigma_voxels: Factors = (0.5, 1.0)
    shift_probability: Fraction = 0.0
    shift_deviation: NonNegativeFloat = 0.1
    """Standard deviation of what is added to a channel, in units of the preprocessed
    image."""

    shift_factor_deviation: NonNegativeFloat = 0.0
    """Standard deviation of the factor, 1 on average, of the shifted values."""

    brightness_probability: Fraction = 0.15
    brightness: Factors = (0.75, 1.25)
    """Factor."""

    contrast_probability: Fraction = 0.15
    contrast: Factors = (0.75, 1.25)
    """Factor about the patch's mean."""

    gamma_probability: Fraction = 0.2
    gamma: Factors = (0.7, 1.5)
    low_resolution_probability: Fraction = 0.1
    low_resolution: tuple[PositiveFraction, PositiveFraction] = (0.5, 1.0)
    """Factor of the voxel count per axis."""

    @model_validator(mode="after")
    def anatomy_is_not_folded(self) -> Self:
        """Refuse elastic deformation that turns tissue inside out."""
        # At 0.4 no drawn patch of 64 x 64 x 64 voxels folded, at 0.5 half of them with
        # a spacing of 4 voxels.
        if self.elastic_voxels > 0.4 * self.elastic_spacing_voxels:
            raise ValueError(
                f"elastic_voxels {self.elastic_voxels:g} must be at most 0.4 times "
                f"elastic_spacing_voxels {self.elastic_spacing_voxels:g}; control "
                "points that pass each other fold the image"
            )
        return self

    @model_validator(mode="after")
    def strengths_are_used(self) -> Self:
        """Refuse the strength of a change that never happens."""
        # By their values: those of a saved run are all set.
        fields = type(self).model_fields
        suffix = "_probability"
        changes = [name.removesuffix(suffix) for name in fields if suffix in name]
        for change in changes:
            strengths = [name for name in fields if name.startswith(change)]
            strengths.remove(change + suffix)
            for name in strengths if getattr(self, change + suffix) == 0 else ():
                usual = fields[name].default
                if getattr(self, name) != usual:
                    raise ValueError(
                        f"{name} changes nothing while {change}{suffix} is 0; raise "
                        f"that, or leave {name} out"
                    )
        return self
