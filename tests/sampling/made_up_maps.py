"""Error maps in memory, which tests may replace and count the reads of."""

import numpy as np


class MemoryMap:
    """Errors of one case, one byte per voxel."""

    def __init__(self, errors, step=0, difficulty=0.5):
        self.errors = np.asarray(errors, np.uint8)
        self.step = step
        self.difficulty = difficulty
        self.voxels_read = 0

    def read(self, window):
        part = self.errors[tuple(window)]
        self.voxels_read += part.size
        return part


class MemoryMaps(dict):
    """Case name to its newest map."""

    def current(self, case_name):
        return self.get(case_name)
