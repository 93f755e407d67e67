import pytest

from foveal.planning.left_right import (
    SidePositions,
    choose_mirroring,
    left_right_pairs,
    side_of,
)


def positions(*offsets):
    """One case per mapping of offsets, every structure of 10 ml."""
    return [SidePositions(case, dict.fromkeys(case, 10.0)) for case in offsets]


@pytest.mark.parametrize(
    "names",
    [
        ("LeftParotid", "RightParotid"),
        ("parotid_left", "parotid_right"),
        ("Parotid_L", "Parotid_R"),
        ("L parotid", "R parotid"),
        ("Parotid-LT", "Parotid-RT"),
        ("lt. parotid", "rt. parotid"),
        ("ctx-left-frontal", "ctx-right-frontal"),
        ("leftparotid", "rightparotid"),
        ("LParotid", "RParotid"),
        ("LEFT_KIDNEY", "RIGHT_KIDNEY"),
        ("Left Parotid", "parotid_r"),
        ("rib_left_1", "rib_right_1"),
    ],
)
def test_names_that_differ_by_side_are_a_pair(names):
    assert left_right_pairs(names) == (names,)
    assert left_right_pairs(names[::-1]) == (names,)


@pytest.mark.parametrize(
    "names",
    [
        ("Liver", "River"),
        ("L1", "R1"),
        ("left kidney", "right lung"),
        ("left kidney", "kidney left"),
        ("rib_left_1", "rib_right_2"),
        ("bright spot", "blight spot"),
        ("left ventricle", "right ventricle"),
        ("heart_atrium_left", "heart_atrium_right"),
    ],
)
def test_other_names_are_no_pair(names):
    assert left_right_pairs(names) == ()


def test_lateral_ventricles_of_the_brain_are_a_pair():
    names = ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle")

    assert left_right_pairs(names) == (names,)


def test_a_name_that_occurs_twice_on_a_side_pairs_with_nobody():
    names = ("left kidney", "kidney left", "right kidney")

    assert left_right_pairs(names) == ()
    assert [side_of(name) for name in names] == ["left", "left", "right"]


def test_pairs_swap_and_midline_structures_stay():
    cases = positions({"eye_l": -0.2, "eye_r": 0.2, "nose": 0.01})

    chosen = choose_mirroring(["eye_l", "eye_r", "nose"], cases)

    assert chosen.axes == (0,)
    assert chosen.left_right_pairs == (("eye_l", "eye_r"),)
    assert not any("Warning" in reason for reason in chosen.reasons)


def test_an_organ_that_is_always_on_one_side_turns_mirroring_off():
    cases = positions({"liver": 0.2}, {"liver": 0.15}, {"liver": 0.25})

    chosen = choose_mirroring(["liver"], cases)

    assert chosen.axes == ()
    assert any("off" in reason and "liver" in reason for reason in chosen.reasons)


def test_a_lesion_on_either_side_leaves_mirroring_on():
    cases = positions({"tumour": 0.2}, {"tumour": -0.2}, {"tumour": 0.3})

    assert choose_mirroring(["tumour"], cases).axes == (0,)


def test_a_named_side_without_partner_turns_mirroring_off():
    assert choose_mirroring(["kidney_left"], []).axes == ()


def test_names_that_contradict_positions_are_warned_of():
    good, bad = {"eye_l": -0.2, "eye_r": 0.2}, {"eye_l": 0.2, "eye_r": -0.2}

    chosen = choose_mirroring(["eye_l", "eye_r"], positions(good, bad, good))

    assert chosen.axes == (0,)
    assert any(
        "eye_l lies to the patient's right of eye_r in 1 of 3 cases" in reason
        for reason in chosen.reasons
    )


def test_an_unnamed_pair_is_warned_of_and_turns_mirroring_off():
    cases = positions({"renA": -0.2, "renB": 0.22}, {"renA": -0.18, "renB": 0.2})

    chosen = choose_mirroring(["renA", "renB"], cases)

    assert chosen.axes == ()
    assert chosen.left_right_pairs == ()
    assert any("renA and renB lie like" in reason for reason in chosen.reasons)


def test_structures_of_unlike_volume_do_not_look_like_a_pair():
    cases = [
        SidePositions({"liver": 0.2, "spleen": -0.2}, {"liver": 1500, "spleen": 200})
    ]

    chosen = choose_mirroring(["liver", "spleen"], cases)

    assert not any("lie like" in reason for reason in chosen.reasons)
