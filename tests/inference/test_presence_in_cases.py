"""What windows of whole cases show, and what is not known of them."""

import numpy as np
import torch

from foveal.geometry import Grid
from foveal.inference.presence import presence_in_cases
from foveal.inference.tiling import OverlappingTiles
from foveal.store.store import StoredCase

TILES = OverlappingTiles((4, 4, 4), 0.0, 2)


class InMemory(StoredCase):
    def read_image(self, window):
        return np.zeros((1, *self.shape), np.float32)[:, *window]

    def read_label_map(self, window):
        return self.label_map[window]


def scores_of(label_map):
    """Scores of "a" (class 1), of a classifier that always tells it."""
    case = InMemory.__new__(InMemory)
    values = {
        "grid": Grid(label_map.shape, np.eye(4)),
        "annotated": None,
        "class_counts": (1,),
        "label_map": label_map,
        "missing_channels": {},
    }
    for name, value in values.items():
        object.__setattr__(case, name, value)
    told = presence_in_cases(
        lambda patches: torch.ones(len(patches), 1), [case], TILES, {"a": (1,)}
    )
    return told["a"]


def test_a_window_whose_ignored_voxels_may_hide_the_structure_does_not_count():
    label_map = np.zeros((8, 4, 3), np.uint8)  # Two windows, one voxel beyond along k.
    assert (scores_of(label_map).images, scores_of(label_map).showing) == (2, 0)
    label_map[0, 0, 0] = 255
    assert (scores_of(label_map).images, scores_of(label_map).showing) == (1, 0)
    label_map[1, 0, 0] = 1
    assert (scores_of(label_map).images, scores_of(label_map).showing) == (2, 1)
