import numpy as np
import pytest
import torch
from made_up_models import write_run
from phantoms import ball_and_box

from foveal.case import Case
from foveal.commands.models import load_model
from foveal.ensembles.voted_passes import as_votes, stapled
from foveal.errors import RunError
from foveal.geometry import Grid

ORGAN_AND_BOX = ((1,), (2,))


def one_pass(*voxels):
    """Rows of a volume of one column; one row of probabilities for each voxel."""
    rows = torch.tensor(voxels).T.reshape(3, -1, 1, 1)
    # In two blocks, as a network gives them.
    return iter([(0, rows[:, :1]), (1, rows[:, 1:])])


def shared(*passes):
    return [(1 / len(passes), rows) for rows in passes]


def sure(*classes):
    return one_pass(*(np.eye(3, dtype=np.float32)[one].tolist() for one in classes))


def test_votes_count_alike_however_sure_a_pass_is():
    doubtful = [0.4, 0.35, 0.25]
    passes = shared(
        one_pass([0.0, 1.0, 0.0], [0.1, 0.2, 0.7]),
        one_pass(doubtful, doubtful),
        one_pass(doubtful, [0.0, 0.1, 0.9]),
    )
    total = torch.zeros(3, 2, 1, 1)
    for share, rows in as_votes(passes, ORGAN_AND_BOX):
        for first, block in rows:
            total[:, first : first + block.shape[1]] += share * block
    # The mean of probabilities would say class 1 and class 2.
    assert total[:, :, 0, 0].T.tolist() == [
        pytest.approx([2 / 3, 1 / 3, 0]),
        pytest.approx([1 / 3, 0, 2 / 3]),
    ]


def test_staple_of_identical_passes_is_certain_of_what_they_say():
    rows = stapled(
        shared(sure(0, 1, 2, 2), sure(0, 1, 2, 2)), ORGAN_AND_BOX, 3, (4, 1, 1)
    )
    chances = torch.cat([block for _, block in rows], dim=1)[:, :, 0, 0].T
    assert chances.tolist() == np.eye(3)[[0, 1, 2, 2]].tolist()


def test_staple_of_three_passes_follows_the_two_that_agree():
    classes = (0, 0, 0, 0, 0, 0, 1, 1, 2, 2)
    other = (0, 0, 0, 1, 0, 0, 1, 0, 2, 2)
    rows = stapled(
        shared(sure(*classes), sure(*classes), sure(*other)),
        ORGAN_AND_BOX,
        3,
        (10, 1, 1),
    )
    chances = torch.cat([block for _, block in rows], dim=1)[:, :, 0, 0]
    assert chances.argmax(dim=0).tolist() == list(classes)
    assert chances.sum(dim=0).tolist() == pytest.approx([1] * 10)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    for seed in range(3):
        write_run(folder / f"run_{seed}", seed=seed)
    return [folder / f"run_{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def case():
    image, _ = ball_and_box(0)
    return Case("c", image[None], Grid(image.shape, np.diag([-1.5, 1.5, 2.0, 1.0])))


@pytest.fixture(scope="module")
def alone(runs, case):
    """What each model predicts by itself."""
    return np.stack([load_model(run).predict(case) for run in runs])


@pytest.mark.parametrize("fusion", ["majority", "weighted", "staple"])
def test_identical_models_predict_as_one(runs, case, alone, fusion):
    weights = (0.9, 0.8) if fusion == "weighted" else None
    pair = load_model([runs[0]] * 2, fusion=fusion, weights=weights)
    assert np.array_equal(pair.predict(case), alone[0])


def test_order_of_models_changes_nothing(runs, case):
    found = [
        load_model([runs[place] for place in order], fusion="staple").predict(case)
        for order in ((0, 1, 2), (2, 0, 1))
    ]
    assert np.array_equal(*found)


def test_heavy_model_overrules_the_others(runs, case, alone):
    ensemble = load_model(runs, fusion="weighted", weights=(0.2, 0.9, 0.3))
    assert np.array_equal(ensemble.predict(case), alone[1])


def test_votes_are_those_of_the_majority_of_label_maps(runs, case, alone):
    counts = np.stack([(alone == value).sum(axis=0) for value in (0, 1, 2)])
    has_majority = counts.max(axis=0) >= 2
    fused = load_model(runs, fusion="majority").predict(case)
    assert np.array_equal(fused[has_majority], counts.argmax(axis=0)[has_majority])
    assert (alone[:, has_majority] != fused[has_majority]).any()


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (1, {"fusion": "majority"}, "puts several passes together, but there is one"),
        (2, {"fusion": "weighted"}, "needs the weight of every model"),
        (
            2,
            {"fusion": "staple", "weights": (1, 2)},
            "weights are given, but staple does not use them",
        ),
        (2, {"fusion": "weighted", "weights": (1, 0)}, "must be positive numbers"),
    ],
)
def test_fusions_that_mean_nothing_are_refused(runs, models, options, message):
    with pytest.raises(RunError, match=message):
        load_model(runs[:models], **options)
