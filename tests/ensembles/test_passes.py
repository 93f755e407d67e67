from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_models import scan, write_run

import foveal
from foveal.case import Case
from foveal.commands.models import ModelsInTurn, read_models
from foveal.ensembles.fused import Fused
from foveal.ensembles.members import Ensemble
from foveal.ensembles.running_sums import SumsInMemory, SumsOnDisk
from foveal.errors import CaseError, RunError
from foveal.geometry import Grid
from foveal.inference.model import Pass
from foveal.uncertainty.maps import entropy


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    plan = {"mirroring": {"axes": [0, 2]}}
    return [
        write_run(folder / f"run_{seed}", seed=seed, plan=plan) for seed in (0, 1, 2)
    ]


@pytest.fixture(scope="module")
def case():
    image, affine = scan()
    return Case("a", image[None], Grid(image.shape, affine))


@pytest.fixture(scope="module")
def models(runs):
    return tuple(foveal.load_model(run, device="cpu").models[0] for run in runs)


def volume_of(rows):
    """Blocks put where they say they belong."""
    blocks = sorted(rows, key=lambda block: block[0])
    assert [first for first, _ in blocks] == list(
        np.cumsum([0, *(block.shape[1] for _, block in blocks)])[:-1]
    )
    return torch.cat([block for _, block in blocks], dim=1)


def mean_of(ensemble, case):
    return torch.cat(list(ensemble.probabilities(case)), dim=1)


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 2)])
def test_a_mirrored_pass_is_the_prediction_of_the_mirrored_case(models, case, axes):
    model = models[0]
    prepared = model.prepared(case)
    flipped = [1 + axis for axis in axes]
    by_hand = replace(prepared, image=np.flip(prepared.image, flipped).copy())
    expected = volume_of(model.probabilities(by_hand)).flip(flipped)
    found = volume_of(model.probabilities(prepared, Pass(mirrored_axes=axes)))
    torch.testing.assert_close(found, expected)


def test_a_pass_mirrored_left_to_right_swaps_left_and_right(models, case):
    model = models[0]
    swapping = replace(model, sagittal_axis=0, swapped_classes=(0, 2, 1))
    prepared = model.prepared(case)
    mirrored = volume_of(model.probabilities(prepared, Pass((0,))))
    swapped = volume_of(swapping.probabilities(prepared, Pass((0,))))
    assert torch.equal(swapped, mirrored[[0, 2, 1]])
    # The other axis has nothing to do with left and right.
    assert torch.equal(
        volume_of(swapping.probabilities(prepared, Pass((2,)))),
        volume_of(model.probabilities(prepared, Pass((2,)))),
    )


def test_mirroring_averages_all_combinations_of_the_axes(models, case):
    model = models[0]
    prepared = model.prepared(case)
    ways = ((), (0,), (2,), (0, 2))
    assert model.mirrorings() == ways
    each = [volume_of(model.probabilities(prepared, Pass(axes))) for axes in ways]
    found = mean_of(Ensemble((model,), mirror=True), case)
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0))


def test_members_are_averaged_whatever_their_order(models, case):
    each = [mean_of(Ensemble((model,)), case) for model in models]
    expected = torch.stack(each).mean(dim=0)
    torch.testing.assert_close(mean_of(Ensemble(models), case), expected)
    torch.testing.assert_close(mean_of(Ensemble(models[::-1]), case), expected)
    weighted = mean_of(Ensemble(models, weights=(1.0, 2.0, 5.0)), case)
    by_hand = (each[0] + 2 * each[1] + 5 * each[2]) / 8
    torch.testing.assert_close(weighted, by_hand)


def test_an_ensemble_of_the_same_model_is_the_model(models, case):
    one = Ensemble(models[:1])
    three = Ensemble((models[0],) * 3)
    torch.testing.assert_close(mean_of(three, case), mean_of(one, case))
    np.testing.assert_array_equal(three.predict(case), one.predict(case))
    # All passes agree, so nothing is uncertain about the volume.
    for facts in three.prediction(case).structures.values():
        assert facts.volume_interval_ml == (facts.volume_ml, facts.volume_ml)


def test_spread_is_that_of_the_passes(models, case):
    each = torch.stack([mean_of(Ensemble((model,)), case) for model in models])
    rows = list(Ensemble(models).fused(case, wants_spread=True).rows())
    variance, predictive, expected = (
        torch.cat(parts, dim=-3)
        for parts in zip(*(block.spread for block in rows), strict=True)
    )
    # Labels 1 and 2 are the two structures.
    torch.testing.assert_close(
        variance, each[:, 1:].var(dim=0, correction=0), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(predictive, entropy(each.mean(dim=0)))
    torch.testing.assert_close(
        expected, torch.stack([entropy(one) for one in each]).mean(dim=0)
    )
    assert (predictive >= expected - 1e-6).all()


def test_one_pass_has_no_spread(models, case):
    for block in Ensemble(models[:1]).fused(case, wants_spread=True).rows():
        variance, predictive, expected = block.spread
        assert not variance.any()
        assert torch.equal(predictive, expected)


def test_volumes_of_passes_are_those_of_their_own_label_maps(models, case):
    voxel_ml = 1.5 * 1.5 * 2 / 1000
    fused = Ensemble(models).fused(case)
    list(fused.rows())
    for model, found in zip(models, fused.voxels_of_passes, strict=True):
        alone = Ensemble((model,))
        label_map = alone.predict(case)
        counts = [(label_map == value).sum() for value in (1, 2)]
        assert found.tolist() == counts
        volumes = [f.volume_ml for f in alone.prediction(case).structures.values()]
        assert volumes == pytest.approx([count * voxel_ml for count in counts])


def test_sums_on_disk_are_those_in_memory(tmp_path, models, case):
    torch.manual_seed(0)
    in_memory, on_disk = SumsInMemory(3, (7, 4, 5)), SumsOnDisk(3, (7, 4, 5), tmp_path)
    for first, count in ((0, 4), (4, 3), (2, 5), (6, 1)):
        rows = torch.rand(3, count, 4, 5)
        in_memory.add(first, rows)
        on_disk.add(first, rows)
    for one, other in zip(in_memory.rows(3), on_disk.rows(3), strict=True):
        assert torch.equal(one, other)
    assert list(tmp_path.iterdir()) == []
    ensemble = Ensemble(models)
    fused = Fused(
        ensemble.passes(case), 3, ensemble.task, case.grid.shape, most_bytes=1
    )
    on_disk = torch.cat([block.probabilities for block in fused.rows()], dim=1)
    torch.testing.assert_close(on_disk, mean_of(ensemble, case))


def test_a_memory_smaller_than_the_program_is_refused_and_the_least_named(models, case):
    with pytest.raises(CaseError, match=r"a memory of 1M is too little .* at least"):
        Ensemble(models, memory_bytes=10**6).predict(case)


def test_models_are_held_one_at_a_time(runs):
    models = ModelsInTurn(read_models(runs), "cpu")
    assert len(models) == 3
    first = models[0]
    assert models[0] is first
    assert models[1] is not first
    assert models[0] is not first


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropout") / "run"
    plan = {
        "network": {
            "features": [2, 4],
            "kernels": [[3, 3, 3]] * 2,
            "strides": [[2, 2, 2]],
            "dropout_fraction": 0.5,
        }
    }
    return foveal.load_model(write_run(folder, plan=plan), device="cpu").models[0]


def test_passes_with_dropout_are_draws_that_can_be_repeated(with_dropout, case):
    prepared = with_dropout.prepared(case)
    state = torch.random.get_rng_state()
    a, again, b, off = (
        volume_of(with_dropout.probabilities(prepared, Pass(dropout_seed=seed)))
        for seed in (3, 3, 4, None)
    )
    assert torch.equal(a, again)
    assert not torch.allclose(a, b, atol=1e-3)
    assert not torch.allclose(a, off, atol=1e-3)
    assert not any(module.training for module in with_dropout.network.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropout_is_refused_before_work_where_there_is_none(models):
    with pytest.raises(RunError, match="has no dropout"):
        Ensemble(models, dropout_passes=4)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((1.0,), "1 weights are given for 3 models"),
        ((1.0, 0.0, 2.0), "must be positive"),
    ],
)
def test_weights_without_sense_are_refused(models, weights, words):
    with pytest.raises(RunError, match=words):
        Ensemble(models, weights=weights)
