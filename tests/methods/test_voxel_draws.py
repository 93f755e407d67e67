"""Which voxels are drawn, of which classes, and how many."""

import pytest
import torch

from foveal.methods.voxel_draws import (
    UNSURE,
    drawn_by_prediction,
    evenly_drawn,
    sure_classes,
)

ORGAN_AND_LESION = torch.tensor([[False, True, True], [False, False, True]])
APART = torch.tensor([[False, True, False], [False, False, True]])


def counts(classes, places):
    """Of every class among the voxels drawn, each of which is drawn once."""
    assert len(places.unique()) == len(places)
    return classes[places].bincount(minlength=3).tolist()


@pytest.mark.parametrize(
    ("structures", "annotated", "expected"),
    [
        (APART, (True, True), [0, 1, 2, UNSURE]),
        # Background may be the structure that nobody looked for.
        (APART, (True, False), [UNSURE, 1, UNSURE, UNSURE]),
        # Organ may be lesion, and background is background.
        (ORGAN_AND_LESION, (True, False), [0, UNSURE, UNSURE, UNSURE]),
        (ORGAN_AND_LESION, (False, False), [UNSURE] * 4),
    ],
)
def test_only_what_a_label_can_mean_alone_is_sure(structures, annotated, expected):
    label_map = torch.tensor([[0, 1, 2, 255]] * 2, dtype=torch.uint8)[:, :, None]
    flags = torch.tensor([annotated, (True, True)])
    found = sure_classes(label_map, flags, structures)
    assert found[0, :, 0].tolist() == expected
    assert found[1, :, 0].tolist() == [0, 1, 2, UNSURE]


def test_classes_are_drawn_evenly_and_rare_ones_as_far_as_they_go():
    classes = torch.tensor([0] * 900 + [1] * 90 + [2] * 5 + [UNSURE] * 50)
    assert counts(classes, evenly_drawn(classes, 60)) == [20, 20, 5]
    assert counts(classes, evenly_drawn(classes, 1)) == [1, 1, 1]
    assert counts(classes[:990], evenly_drawn(classes[:990], 60)) == [30, 30, 0]


def test_every_voxel_of_a_class_is_as_likely():
    torch.manual_seed(0)
    classes = torch.tensor([0, 1, 0, 0, 1, 0])
    drawn = torch.cat([evenly_drawn(classes, 4) for _ in range(500)])
    shares = drawn.bincount() / 500
    expected = torch.tensor([0.5, 1.0, 0.5, 0.5, 1.0, 0.5])
    torch.testing.assert_close(shares, expected, atol=0.08, rtol=0)


def test_without_anything_sure_nothing_is_drawn():
    assert evenly_drawn(torch.full((9,), UNSURE), 4).tolist() == []
    assert evenly_drawn(torch.zeros(0, dtype=torch.long), 4).tolist() == []


@pytest.mark.parametrize(
    ("voxels", "share", "expected"),
    [
        ((5000, 300, 300), 0.5, [60, 30, 30]),
        ((5000, 300, 300), 0.25, [30, 45, 45]),
        ((5000, 300, 300), 0.0, [0, 60, 60]),
        ((5000, 300, 300), 1.0, [120, 0, 0]),
        # Too little foreground is not made up for by background.
        ((5000, 12, 0), 0.5, [12, 12, 0]),
        ((5000, 2, 300), 0.75, [90, 2, 15]),
        ((5000, 0, 0), 0.5, [0, 0, 0]),
        ((10, 300, 300), 0.5, [10, 30, 30]),
    ],
)
def test_background_has_at_most_its_share(voxels, share, expected):
    predicted = torch.arange(3).repeat_interleave(torch.tensor(voxels))
    drawn = drawn_by_prediction(predicted, 120, share)
    found = counts(predicted, drawn)
    if share == 0.75:
        assert found[0] == int(3 * (found[1] + found[2]))
        assert found[1:] == [2, 15]
    else:
        assert found == expected
