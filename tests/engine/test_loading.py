"""What a stream's batches say of their labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SHAPE, MemoryCase, StudentAndCritic, intensity_augmentation, sources

from foveal.errors import SamplingError
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss

# Tumour on the left, left organ, right organ, tumour on the right: the organs are
# unions, and the tumour of one side has its counterpart on the other.
STRUCTURES = torch.tensor(
    [
        [False, True, True, False, False],  # left, with its tumour
        [False, False, False, True, True],  # right, with its tumour
        [False, True, False, False, True],  # tumour
    ]
)
SWAPPED_CLASSES = (0, 4, 3, 2, 1)
SWAPPED_STRUCTURES = (1, 0, 2)


def mirrored_batch(annotated, label_map, **changes):
    """Batch of one case whose left and right always change places."""
    case = MemoryCase("a", 0)
    case.label_map, case.annotated = label_map, annotated
    case.class_counts = tuple(np.bincount(label_map.ravel(), minlength=5).tolist())
    source = sources(StudentAndCritic())["labelled"]
    nothing = dict.fromkeys(
        (
            *("rotation_probability", "scaling_probability", "shear_probability"),
            *("translation_probability", "elastic_probability"),
        ),
        0.0,
    )
    source = replace(
        source,
        cases=[case],
        structures=STRUCTURES,
        **{"patch_size": SHAPE, **changes},
        intensity=intensity_augmentation(),
        spatial=replace(
            source.spatial,
            **nothing,
            mirror_probability=1.0,
            swapped_classes=SWAPPED_CLASSES,
            swapped_structures=SWAPPED_STRUCTURES,
        ),
    )
    return source.batch(0, source.read(0), torch.device("cpu"))


@pytest.mark.parametrize("loss", [cross_entropy, dice_loss])
def test_mirrored_labels_are_the_first_of_those_that_look_alike(loss):
    label_map = np.zeros(SHAPE, np.uint8)
    # Nobody drew the tumour, so each side is stored as the first of its two classes.
    label_map[2], label_map[9] = 1, 3
    batch = mirrored_batch((True, True, False), label_map)
    labels, annotated, structures = batch.labels()
    assert annotated.tolist() == [[True, True, False]] * 2
    # The left side is now where the right one was, and stored as before.
    assert set(labels[:, 2].unique().tolist()) == {1}
    assert set(labels[:, 9].unique().tolist()) == {3}
    logits = torch.nn.functional.one_hot(labels.long(), 5).movedim(-1, 1) * 30.0
    assert loss(logits, labels, annotated, structures).item() == pytest.approx(0)


def test_with_everything_annotated_labels_change_places_as_they_are():
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[2], label_map[9] = 1, 3
    labels, _, _ = mirrored_batch(None, label_map).labels()
    assert set(labels[:, 2].unique().tolist()) == {2}
    assert set(labels[:, 9].unique().tolist()) == {4}


BEYOND = tuple(length + 4 for length in SHAPE)


def test_ignored_voxels_may_hide_what_a_patch_does_not_show():
    def told(label_map):
        batch = mirrored_batch(None, label_map, patch_size=BEYOND, tells_presence=True)
        present, known, _ = batch.presence()
        return present[0].tolist(), known[0].tolist()

    label_map = np.zeros(SHAPE, np.uint8)
    label_map[2] = 3
    # The right organ is the left one after mirroring. Nothing hides beyond the volume.
    assert told(label_map) == ([True, False, False], [True, True, True])
    label_map[5, 5, 5] = 255
    assert told(label_map) == ([True, False, False], [True, False, False])


def test_streams_of_outlined_cases_do_not_tell_presence():
    batch = mirrored_batch(None, np.zeros(SHAPE, np.uint8))
    assert batch.present is None
    batch.labels()
    with pytest.raises(SamplingError, match="of one it is not known what it shows"):
        batch.presence()


@pytest.mark.parametrize("one_case", [False, True])
def test_balanced_domains_are_equally_likely_however_many_cases_they_have(one_case):
    cases = [MemoryCase(f"a{n}", n) for n in range(9)] + [MemoryCase("b", 9)]
    for case in cases:
        case.domain = case.name[0]
    source = replace(
        sources(StudentAndCritic())["labelled"],
        cases=cases,
        batch_size=4,
        balances_domains=True,
        one_case_per_batch=one_case,
    )
    batches = [[patch.case.name for patch in source.read(n)] for n in range(100)]
    drawn = [name for names in batches for name in names]
    # Of 100 or 400 draws a share strays by 0.05 or 0.025; of one case of ten it is 0.1.
    assert drawn.count("b") / len(drawn) == pytest.approx(0.5, abs=0.12)
    assert {name for name in drawn if name != "b"} == {case.name for case in cases[:9]}
    assert all(len(set(names)) == 1 for names in batches) == one_case
    assert drawn == [patch.case.name for n in range(100) for patch in source.read(n)]
