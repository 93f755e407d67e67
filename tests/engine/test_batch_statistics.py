"""Statistics of batch norm as the plain mean of the last batches."""

import pytest
import torch
from lightning_fabric import Fabric
from made_up import sources, training
from torch import nn

from foveal.engine.batch_statistics import RecentStatistics
from foveal.engine.training import NonFiniteLossError


def made(seed=5, precision="float32", ema_decay=0.0, batches=3):
    return training(
        Fabric(accelerator="cpu", devices=1),
        seed,
        precision,
        norm="batch",
        rules_of=lambda _: {"batch_norm_batches": batches, "ema_decay": ema_decay},
    )


def steps(trained, first, last):
    streams = sources(trained.method)
    for step in range(first, last):
        batches = {
            name: source.batch(step, source.read(step), torch.device("cpu"))
            for name, source in streams.items()
        }
        trained.update(batches, total_steps=10)


def test_mean_of_the_batches_seen_and_then_of_the_last_ones():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    recent = RecentStatistics(network, 3)
    assert recent.means() == {}
    batches = [torch.randn(4, 2, 5, 5) * (n + 1) + n for n in range(5)]
    for n, batch in enumerate(batches):
        network.train()(batch)
        recent.update()
        counted = torch.stack(batches[max(0, n - 2) : n + 1])
        found = recent.means()
        # No dilution by values that a ring begins with.
        assert torch.allclose(
            found["0.running_mean"], counted.mean(dim=(1, 3, 4)).mean(dim=0), atol=1e-6
        )
        variances = torch.stack([each.var(dim=(0, 2, 3)) for each in counted])
        assert torch.allclose(found["0.running_var"], variances.mean(dim=0), rtol=1e-5)


def test_fixed_norms_keep_theirs():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    recent = RecentStatistics(network, 3, fixed=[network[0]])
    assert network[0].momentum == 0.1
    network(torch.randn(4, 2))
    recent.update()
    assert set(recent.means()) == {"1.running_mean", "1.running_var"}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_what_is_validated_and_saved_has_the_mean(ema_decay):
    trained = made(ema_decay=ema_decay)
    seen = []
    for step in range(5):
        steps(trained, step, step + 1)
        state = trained.method.student.state_dict()
        seen.append({name: state[name].clone() for name in state if "running" in name})
    weights = trained.predictor_weights()
    network = trained.frozen_predictor()
    assert seen[0]
    for name in seen[0]:
        expected = torch.stack([each[name] for each in seen[-3:]]).mean(dim=0)
        assert torch.allclose(weights[name], expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(network.state_dict()[name], weights[name])
        assert weights[name].dtype == torch.float32
    saved, _ = trained.snapshot()
    assert torch.equal(saved[f"predictor.{name}"], weights[name])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_resumed_run_is_the_same_to_the_bit(precision, ema_decay):
    unbroken = made(precision=precision, ema_decay=ema_decay)
    steps(unbroken, 0, 2)
    tensors, state = unbroken.snapshot()
    steps(unbroken, 2, 6)
    resumed = made(seed=6, precision=precision, ema_decay=ema_decay)
    resumed.seed = 5
    resumed.restore(tensors, state)
    steps(resumed, 2, 6)
    first, second = unbroken.snapshot(), resumed.snapshot()
    assert first[1] == second[1]
    assert first[1]["statistics_seen"] == 6
    assert first[0].keys() == second[0].keys()
    assert any(name.startswith("statistics.") for name in first[0])
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name


def test_a_step_that_was_not_made_does_not_count():
    trained = made()
    steps(trained, 0, 1)
    before = trained.predictor_weights()
    streams = sources(trained.method)
    batches = {
        name: source.batch(1, source.read(1), torch.device("cpu"))
        for name, source in streams.items()
    }
    broken = batches["labelled"]
    batches["labelled"] = broken.with_image(broken.image * torch.nan)
    with pytest.raises(NonFiniteLossError):
        trained.update(batches, total_steps=10)
    after = trained.predictor_weights()
    name = "encoder.0.0.1.running_mean"
    assert torch.equal(before[name], after[name])
