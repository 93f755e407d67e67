import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_models import scan, write_run

import foveal
from foveal.case import Case
from foveal.commands.models import ModelsInTurn, read_models
from foveal.crf.mean_field import DenseCrf
from foveal.ensembles.fused import Fused
from foveal.ensembles.members import Ensemble
from foveal.ensembles.prediction import StructureFacts, predicted
from foveal.ensembles.running_sums import SumsInMemory, SumsOnDisk
from foveal.errors import CaseError, RunError
from foveal.geometry import Grid
from foveal.inference.model import Pass, Task
from foveal.inference.restore import decided_classes
from foveal.postprocessing.components import ComponentRule
from foveal.postprocessing.steps import Steps
from foveal.uncertainty.maps import entropy
from foveal.uncertainty.volumes import volume_of_draws


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
        assert facts.volume_interval_ml == pytest.approx((facts.volume_ml,) * 2)


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
        assert found == counts
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


def test_a_single_draw_of_dropout_is_refused(with_dropout):
    with pytest.raises(RunError, match=r"dropout_passes is 1, .* ask for 2 or more"):
        Ensemble((with_dropout,), dropout_passes=1)


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


def test_draws_depend_on_tile_member_and_mirroring_but_on_no_batch(with_dropout, case):
    prepared = with_dropout.prepared(case)
    one_by_one, batched = (
        replace(with_dropout, tiles=replace(with_dropout.tiles, batch_size=size))
        for size in (1, 4)
    )
    found = [
        volume_of(model.probabilities(prepared, Pass(dropout_seed=3)))
        for model in (one_by_one, batched)
    ]
    assert torch.equal(*found)
    other = volume_of(one_by_one.probabilities(prepared, Pass((), 3, member=1)))
    assert not torch.allclose(found[0], other, atol=1e-3)
    seeds = [[p.dropout_seed, p.member] for p in _passes_of(with_dropout)]
    assert seeds == [[0, 0], [1, 0], [0, 1], [1, 1]]


def _passes_of(model):
    ensemble = Ensemble((model, model), dropout_passes=2)
    return [
        one
        for number, model in enumerate(ensemble.models)
        for one in ensemble._passes(model, number)
    ]


def test_mirroring_without_axes_is_refused(models):
    rigid = replace(models[0], mirrored_axes=())
    with pytest.raises(RunError, match="mirrors along no axis"):
        Ensemble((rigid,), mirror=True)
    assert Ensemble((rigid, models[0]), mirror=True).num_passes == 5


def test_weights_of_a_model_are_gone_before_the_next_is_read(runs, case, monkeypatch):
    stored = read_models(runs)
    alive, most = weakref.WeakSet(), []
    make = type(stored[0]).model

    def watched(self, device):
        most.append(len(alive))
        model = make(self, device)
        alive.add(model.network)
        return model

    monkeypatch.setattr(type(stored[0]), "model", watched)
    Ensemble(ModelsInTurn(stored, "cpu")).predict(case)
    assert len(most) == 6
    assert max(most) == 0


TASK = Task(("x",), {"a": (1,)}, (1,), 0, False, "RAS")
SHAPE = (20, 20, 20)
CUBE = Case("cube", np.zeros((1, *SHAPE), np.float32), Grid(SHAPE, np.eye(4)))


def outlined(*boxes):
    """One pass: 0.97 in boxes and 0.02 elsewhere."""
    chance = torch.full(SHAPE, 0.02)
    for box in boxes:
        chance[box] = 0.97
    return iter([(0, torch.stack([1 - chance, chance]))])


LARGE, SMALL = (slice(2, 5),) * 3, (slice(10, 12),) * 3


def facts_of(passes, rules=(), **options):
    fused = Fused(
        iter(passes), len(passes), TASK, SHAPE, rules=rules, most_bytes=0, **options
    )
    return predicted(fused, CUBE, TASK, Steps(components=rules)).structures["a"]


def test_what_is_known_of_a_structure_is_of_the_label_map_after_rules():
    passes = [(1 / 3, outlined(LARGE, SMALL)) for _ in range(3)]
    kept = facts_of(passes, (ComponentRule(("a",), keep="largest"),))
    # As if the other part had never been outlined, but believed in.
    assert kept.volume_ml == pytest.approx(0.027)
    assert kept.volume_interval_ml == pytest.approx((0.027, 0.027))
    near = 0.97 * 27 + 0.02 * (10**3 - 27)
    assert kept.expected_dice == pytest.approx(2 * 0.97 * 27 / (27 + near), rel=1e-5)


def test_a_structure_that_rules_leave_nothing_of_has_no_expected_dice():
    passes = [(0.5, outlined(LARGE)) for _ in range(2)]
    emptied = facts_of(passes, (ComponentRule(("a",), smallest_voxels=100),))
    assert emptied == StructureFacts(0.0, (0.0, 0.0), None)


def test_mirrored_passes_of_a_model_are_one_draw_among_models():
    passes = [(0.5, outlined(LARGE)), *((0.125, outlined(SMALL)) for _ in range(4))]
    facts = facts_of(passes, members=[0, 1, 1, 1, 1])
    interval = volume_of_draws([0.027, 0.008]).interval_ml
    # The mean outlines neither, as none of them has more than half.
    assert facts.volume_ml == 0
    assert facts.volume_interval_ml == pytest.approx(interval)


def test_the_volume_lies_in_its_interval():
    passes = [(1 / 3, outlined((slice(n, n + 3),) * 3)) for n in (0, 6, 12)]
    assert facts_of(passes) == StructureFacts(0.0, (0.0, pytest.approx(0.027)), None)


def test_a_crf_leaves_no_interval_and_refuses_other_masks_than_it_was_chosen_on():
    passes = [(0.5, outlined(LARGE)) for _ in range(2)]
    crf = DenseCrf((2.0,) * 3, 1.0, (3.0,) * 3, (5.0,))
    fused = Fused(iter(passes), 2, TASK, SHAPE)
    facts = predicted(fused, CUBE, TASK, Steps(crf=crf)).structures["a"]
    assert facts.volume_interval_ml is None
    with pytest.raises(CaseError, match="chosen on cases with masks"):
        predicted(fused, CUBE, TASK, Steps(crf=crf, crf_within_mask=True))


@pytest.mark.parametrize("num_passes", [6, 20, 22, 36])
def test_a_tie_of_votes_is_background_in_nested_structures_too(num_passes):
    task = Task(("x",), {"whole": (1, 2), "core": (2,)}, (1, 2), 0, False, "RAS")
    rows = [torch.eye(3)[n % 2][:, None, None, None] for n in range(num_passes)]
    passes = ((1 / num_passes, iter([(0, one)])) for one in rows)
    fused = Fused(passes, num_passes, task, (1, 1, 1), has_votes=True)
    (block,) = fused.rows()
    assert decided_classes(block.probabilities, ((1, 2), (2,))).item() == 0
