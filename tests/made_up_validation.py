"""Validation cases made up in memory, in place of those that a run predicts."""

from types import SimpleNamespace

import numpy as np

from foveal.commands.validation_probabilities import ValidationCase


class MadeUpCases(list):
    """What is used of `ValidationCases`."""

    digests = ("weights",)

    def __init__(self, cases, structures):
        super().__init__(cases)
        self.structures = structures


def made_up_case(
    number, probabilities, reference, *, patient, spacing_mm, num_cases, image=None
):
    """A case with everything annotated, without a mask, kept as a run's are."""
    kept = probabilities.astype(np.float16).astype(np.float32)
    if image is None:
        image = np.zeros((1, *reference.shape), np.float32)
    return ValidationCase(
        files=SimpleNamespace(name=f"case_{number}", patient=patient),
        probabilities=kept / kept.sum(axis=0),
        image=image,
        spacing_mm=spacing_mm,
        mask=None,
        reference=reference,
        annotated=None,
        num_cases=num_cases,
    )
