"""Users' weight maps on their way into batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SHAPE, MemoryCase, StudentAndCritic, sources

from foveal.case import IGNORED
from foveal.errors import SamplingError

BEYOND = tuple(length + 4 for length in SHAPE)
WEIGHTS = np.random.default_rng(3).random(SHAPE, np.float32)


def batch_of(case, *, step=0, reads_weight_maps=True, intensity=None, **changes):
    source = sources(StudentAndCritic())["labelled"]
    source = replace(
        source,
        cases=[case],
        reads_weight_maps=reads_weight_maps,
        intensity=intensity or Unchanged(),
        **changes,
    )
    return source.batch(step, source.read(step), torch.device("cpu"))


def case_with(weight_map):
    case = MemoryCase("a", 0)
    case.weight_map = weight_map
    case.read_weight_map = lambda window: weight_map[window].copy()
    return case


class Unchanged:
    """No augmentation of intensities."""

    def apply(self, image, generator):
        return image


def weighted_as_bright():
    """A case whose weights are its intensities, which are not negative."""
    case = case_with(WEIGHTS)
    case.image = WEIGHTS[np.newaxis]
    return case


@pytest.mark.parametrize("step", range(6))
def test_weights_lie_where_the_image_does_whatever_is_done_to_the_patch(step):
    batch = batch_of(weighted_as_bright(), step=step, patch_size=BEYOND)

    # Of six steps some patches are turned, bent and mirrored; zero beyond the volume.
    assert torch.equal(batch.voxel_weights, batch.image[:, 0])
    assert batch.image.shape[1] == 1
    assert (batch.voxel_weights >= 0).all()


def test_a_mirrored_patch_has_mirrored_weights():
    case = weighted_as_bright()
    spatial = sources(StudentAndCritic())["labelled"].spatial
    nothing = {name: 0.0 for name in vars(spatial) if name.endswith("_probability")}
    mirrored = replace(spatial, **{**nothing, "mirror_probability": 1.0})

    batch = batch_of(case, patch_size=SHAPE, spatial=mirrored)

    np.testing.assert_array_equal(batch.voxel_weights[0], WEIGHTS[::-1])


def test_without_a_weight_map_every_voxel_counts_once():
    batch = batch_of(case_with(None), patch_size=BEYOND)

    assert torch.equal(batch.voxel_weights, torch.ones(2, *BEYOND))


def test_beyond_the_volume_weights_are_zero_and_labels_ignored():
    spatial = sources(StudentAndCritic())["labelled"].spatial
    still = replace(
        spatial,
        **{name: 0.0 for name in vars(spatial) if name.endswith("_probability")},
    )
    case = case_with(np.ones(SHAPE, np.float32))

    batch = batch_of(case, patch_size=BEYOND, spatial=still)

    assert torch.equal(batch.voxel_weights == 0, batch.label_map == IGNORED)
    assert batch.voxel_weights.sum() == 2 * np.prod(SHAPE)


def test_weights_change_nothing_else_in_a_batch():
    case = case_with(WEIGHTS)
    intensity = sources(StudentAndCritic())["labelled"].intensity
    with_weights = batch_of(case, intensity=intensity)
    without = batch_of(case, intensity=intensity, reads_weight_maps=False)

    assert torch.equal(with_weights.image, without.image)
    assert torch.equal(with_weights.label_map, without.label_map)
    assert without.voxel_weights is None
    with pytest.raises(SamplingError, match="no voxel weights; the source of its pat"):
        without.weights()
