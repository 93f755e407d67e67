"""Mean teacher: unlabelled patches mean what the average of the weights says.

Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780. The teacher's weights are
the moving average of the student's; on unlabelled patches the student's probabilities
are brought to the teacher's by their squared difference. The teacher predicts.

What differs from the paper:

- Teacher and student see two views of a patch, apart by the run's augmentation; what
  the teacher says is carried to the voxels of the student's view and compared there.
- The squared difference is summed over classes; the authors' program takes their mean.
- Only unlabelled patches are compared, and the rise of the weight is a straight line;
  in the paper labelled ones are compared too, and the rise is a sigmoid.
- The decay rises with the steps, (1 + n) / (10 + n), up to one value; in the paper it
  is min(1 - 1 / n, 0.99) at first and 0.999 later.
- Batch norms see labelled patches only, and of the teacher they have the average of the
  student's statistics.

As in the paper dropout is on in both, each with its own draws.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from foveal.losses.consistency import is_confident, squared_difference
from foveal.methods.interface import Clock, Method, Setting
from foveal.methods.ramps import rise
from foveal.methods.two_views import seen_twice
from foveal.networks.averaging import follow
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch


class MeanTeacher(Method):
    """A student that learns, and a teacher that is its average and predicts.

    Args:
        setting: Of the run; its network is the student.
        weight: Of the squared difference.
        ramp_up_fraction: Share of the run in which the weight rises from 0.
        decay: Of the average, in the long run.
        threshold: Voxels of which the teacher is less sure count as 0.
        batch_size: Unlabelled patches per step; ``None``: as many as labelled ones.
    """

    updates: Tensor

    def __init__(
        self,
        setting: Setting,
        *,
        weight: float,
        ramp_up_fraction: float,
        decay: float,
        threshold: float,
        batch_size: int | None,
    ) -> None:
        super().__init__()
        self.student = setting.network
        self.teacher = copy.deepcopy(setting.network).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.setting = setting
        self.weight = weight
        self.ramp_up_fraction = ramp_up_fraction
        self.decay = decay
        self.threshold = threshold
        self.streams = {
            "labelled": setting.labelled_stream,
            "unlabelled": setting.unlabelled_stream(batch_size),
        }
        self._measures: Mapping[str, Tensor] = {}

    @property
    def predictor(self) -> Network:
        """The teacher."""
        return self.teacher

    @property
    def networks(self) -> Sequence[Network]:
        """Teacher and student, which begin alike."""
        return [self.teacher, self.student]

    def parameter_groups(self) -> Mapping[str, list[Parameter]]:
        """The student's parameters under ``"network"``."""
        return {"network": list(self.student.parameters())}

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """One term per loss of labelled patches, and ``"consistency"``."""
        labelled = batches["labelled"]
        output = self.student(labelled.image)
        terms = self.setting.labelled_loss(self.student, output, labelled)
        views = seen_twice(
            batches["unlabelled"].image,
            self.setting,
            teacher=self.teacher,
            student=self.student,
        )
        confident = is_confident(views.target, self.threshold)
        differences = squared_difference(views.logits, views.target)
        consistency = views.mean(differences, confident)
        self._measures = views.measures(consistency, confident)
        factor = self.weight * rise(clock, self.ramp_up_fraction)
        return {**terms, "consistency": factor * consistency}

    def after_step(self, clock: Clock) -> None:
        """Move the teacher towards the student."""
        self.updates += 1
        follow(
            self.teacher.state_dict(),
            self.student,
            decay=self.decay,
            updates=int(self.updates),
        )

    def measures(self) -> Mapping[str, Tensor]:
        """How consistent, how sure and of what; see `TwoViews.measures`."""
        return self._measures
