"""Volumes that answer as stored cases do, with what is in memory."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass
class LabelledVolume:
    """A label map, and a mask and a weight map if the test gives them."""

    label_map: np.ndarray
    num_classes: int
    annotated: tuple[bool, ...] | None = None
    name: str = "volume"
    mask: np.ndarray | None = None
    weight_map: np.ndarray | None = None

    @property
    def shape(self):
        return self.label_map.shape

    @cached_property
    def class_voxels(self):
        return [np.argwhere(self.label_map == n) for n in range(self.num_classes)]

    @property
    def class_counts(self):
        return tuple(len(voxels) for voxels in self.class_voxels)

    def class_voxel(self, class_index, n):
        i, j, k = self.class_voxels[class_index][n].tolist()
        return i, j, k

    def read_label_map(self, window):
        return self.label_map[tuple(window)]

    def read_mask(self, window):
        return self.mask[tuple(window)]

    def read_weight_map(self, window):
        return self.weight_map[tuple(window)]


@dataclass
class UnlabelledVolume:
    """A volume of which nothing is known but its size."""

    name: str = "unlabelled"
    shape: tuple[int, int, int] = (20, 20, 20)
    class_counts: tuple[int, ...] = ()
    annotated: None = None
    mask: None = None
    weight_map: None = None

    def class_voxel(self, class_index, n):
        raise AssertionError("an unlabelled case has no voxels of a class")

    def read_label_map(self, window):
        raise AssertionError("an unlabelled case has no label map")

    def read_mask(self, window):
        raise AssertionError("the case has no mask")

    def read_weight_map(self, window):
        raise AssertionError("the case has no weight map")
