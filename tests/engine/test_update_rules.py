"""Frozen modules, rates per group, clipping and penalties in an update."""

import pytest
import torch
from lightning_fabric import Fabric
from made_up import sources, training
from torch import nn

from foveal.engine.penalties import WeightPenalty


def cpu():
    return Fabric(accelerator="cpu", devices=1)


def batches_of(trained, step=0):
    return {
        name: source.batch(step, source.read(step), torch.device("cpu"))
        for name, source in sources(trained.method).items()
    }


def test_frozen_modules_do_not_change_while_the_rest_learns():
    def rules(method):
        method.student.encoder.requires_grad_(False)
        return {"frozen": [method.student.encoder], "ema_decay": 0.0}

    trained = training(cpu(), norm="batch", rules_of=rules)
    before, _ = trained.snapshot()
    for step in range(3):
        trained.update(batches_of(trained, step), total_steps=3)
    after, _ = trained.snapshot()
    assert not trained.method.student.encoder.training
    assert trained.method.student.decoder.training
    for name, tensor in before.items():
        if name.startswith("method.student."):
            assert torch.equal(tensor, after[name]) == (".encoder." in name), name
    assert all(
        each.grad is None for each in trained.method.student.encoder.parameters()
    )


class _Sum(torch.optim.SGD):
    """Keeps the gradients that it was given."""

    def step(self, closure=None):
        self.given = [
            each.grad.clone() for group in self.param_groups for each in group["params"]
        ]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_norm_is_clipped_over_all_groups_of_an_optimiser(groups):
    made = []

    def optimiser(parameters):
        half = len(parameters) // 2
        parts = [parameters] if groups == 1 else [parameters[:half], parameters[half:]]
        made.append(_Sum([{"params": part} for part in parts], lr=1.0))
        return made[0]

    trained = training(
        cpu(), optimiser=optimiser, rules_of=lambda _: {"gradient_clip_norm": 1e-3}
    )
    trained.update(batches_of(trained), total_steps=3)
    norms = torch.stack([each.norm() for each in made[0].given])
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_an_infinite_norm_clips_nothing():
    made = []

    def optimiser(parameters):
        made.append(_Sum(parameters, lr=1.0))
        return made[-1]

    for norm in (1e9, float("inf")):
        trained = training(
            cpu(),
            optimiser=optimiser,
            rules_of=lambda _, norm=norm: {"gradient_clip_norm": norm},
        )
        trained.update(batches_of(trained), total_steps=3)
    for first, second in zip(made[0].given, made[1].given, strict=True):
        assert torch.equal(first, second)


def test_groups_keep_the_ratio_of_their_rates():
    rates = []

    def optimiser(parameters):
        groups = [
            {"params": parameters[:2], "lr": 0.1},
            {"params": parameters[2:], "lr": 0.01},
        ]
        made = torch.optim.SGD(groups, lr=1.0)
        rates.append(made)
        return made

    trained = training(cpu(), optimiser=optimiser)
    trained.step = 1
    trained.update(batches_of(trained), total_steps=4)
    assert [group["lr"] for group in rates[0].param_groups] == pytest.approx(
        [0.075, 0.0075]
    )


def test_penalty_is_part_of_the_gradient_that_the_optimiser_gets():
    given = []
    for penalised in (False, True):
        made = []

        def optimiser(parameters, made=made):
            made.append(_Sum(parameters, lr=1.0))
            return made[0]

        def rules(method, penalised=penalised):
            weights = [
                layer.weight
                for layer in method.student.modules()
                if isinstance(layer, nn.Conv3d)
            ]
            return {
                "gradient_clip_norm": float("inf"),
                "penalty": WeightPenalty(weights, 0.1, 0.2) if penalised else None,
            }

        trained = training(cpu(), optimiser=optimiser, rules_of=rules)
        trained.update(batches_of(trained), total_steps=3)
        given.append(made[0].given)
    first = trained.method.student.encoder[0][0][0].weight
    expected = 0.1 * first.sign() + 2 * 0.2 * first
    assert torch.allclose(given[1][0] - given[0][0], expected, atol=1e-6)
    assert torch.equal(given[0][1], given[1][1])


def test_a_group_with_a_constant_rate_follows_no_schedule():
    def rules(method):
        method.constant_rates = {"critic": 0.1}
        return {}

    made = []

    def optimiser(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.5))
        return made[-1]

    trained = training(cpu(), optimiser=optimiser, rules_of=rules)
    for step in range(2):
        trained.update(batches_of(trained, step), total_steps=4)
    critic = trained._optimisers["critic"]
    assert critic.param_groups[0]["lr"] == 0.1
    assert made[0].param_groups[0]["lr"] == 0.5 * 3 / 4
