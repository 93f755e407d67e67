from types import SimpleNamespace

import numpy as np
import torch

from foveal.case import Case
from foveal.ensembles.growing import growing_label_maps
from foveal.geometry import Grid
from foveal.inference.model import Task

TASK = Task(("MR",), {"organ": (1,), "lesion": (2,)}, (10, 20), 0, False, "RAS")

# Probabilities of background, organ and lesion in two voxels.
FIRST = [[0.4, 0.6, 0.0], [0.9, 0.1, 0.0]]
SECOND = [[0.7, 0.3, 0.0], [0.4, 0.0, 0.6]]
THIRD = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def ensemble_of(*models):
    """Stands for models that say these probabilities, voxel by voxel."""

    def passes(_):
        for voxels in models:
            rows = torch.tensor(voxels).T.reshape(3, 2, 1, 1)
            blocks = iter([(0, rows[:, :1]), (1, rows[:, 1:])])
            yield 1 / len(models), blocks

    return SimpleNamespace(task=TASK, structures=TASK.structures, passes=passes)


def grown(tmp_path, *models):
    grid = Grid((2, 1, 1), np.eye(4))
    case = Case("made up", np.zeros((1, 2, 1, 1), np.float32), grid)
    maps = growing_label_maps(ensemble_of(*models), case, tmp_path)
    return [one.ravel().tolist() for one in maps]


def test_each_label_map_is_decided_by_the_mean_so_far(tmp_path):
    # Means of two: (.55 .45 0), (.65 .05 .3); of three: (.37 .63 0), (.43 .03 .53).
    assert grown(tmp_path, FIRST, SECOND, THIRD) == [[10, 0], [0, 0], [10, 20]]


def test_the_same_member_again_changes_nothing(tmp_path):
    assert grown(tmp_path, SECOND, SECOND, SECOND) == [[0, 20]] * 3


def test_the_last_does_not_depend_on_the_order(tmp_path):
    there, back = grown(tmp_path, FIRST, THIRD), grown(tmp_path, THIRD, FIRST)

    assert there[-1] == back[-1] == [10, 20]
