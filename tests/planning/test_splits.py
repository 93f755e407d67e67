from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.case import CaseFiles, ChannelFile, NamedFold, StructureFile
from foveal.errors import DatasetError, SettingsError
from foveal.planning.splits import (
    Fold,
    Splits,
    make_splits,
    read_splits,
    splits_to_toml,
)


def case(name, patient=None, *, split=None, labelled=True, domain=None):
    return CaseFiles(
        name,
        patient or name,
        (ChannelFile(Path(f"{name}.nii.gz")),),
        Path(f"{name}_seg.nii.gz") if labelled else None,
        split=split,
        domain=domain,
    )


@given(st.integers(2, 6), st.integers(6, 30), st.integers(0, 1000))
def test_every_patient_is_validated_in_exactly_one_fold(folds, patients, seed):
    names = [f"p{n}" for n in range(patients)]

    splits = make_splits([case(name) for name in names], folds, seed)

    validated = [name for fold in splits.folds for name in fold.validation]
    assert sorted(validated) == sorted(names)
    for fold in splits.folds:
        assert sorted(fold.train + fold.validation) == sorted(names)
        assert patients // folds <= len(fold.validation) <= -(-patients // folds)


def test_splits_do_not_depend_on_the_order_of_the_cases():
    cases = [case(f"p{n}") for n in range(12)]

    assert make_splits(cases, 3, 1) == make_splits(cases[::-1], 3, 1)
    assert make_splits(cases, 3, 1) != make_splits(cases, 3, 2)


def test_scans_of_one_patient_stay_together():
    cases = [case(f"scan{n}", f"patient{n // 2}") for n in range(8)]

    splits = make_splits(cases, 2, 0)

    patients = {f"patient{n}" for n in range(4)}
    assert set(splits.folds[0].train) | set(splits.folds[0].validation) == patients
    assert not set(splits.folds[0].train) & set(splits.folds[0].validation)


def test_one_fold_trains_on_everybody():
    splits = make_splits([case("b"), case("a")], 1, 0)

    assert splits == Splits((Fold(("a", "b"), (), ()),))


def test_test_patients_are_in_no_other_part():
    cases = [case(f"p{n}") for n in range(4)]
    cases += [case("t1", split="test"), case("t2", split="test", labelled=False)]

    for fold in make_splits(cases, 2, 0).folds:
        assert fold.test == ("t1", "t2")
        assert not {"t1", "t2"} & {*fold.train, *fold.validation}


def test_a_named_validation_split_makes_one_fold():
    cases = [case("a", split="train"), case("b", split="validation"), case("c")]

    assert make_splits(cases, 5, 0) == Splits((Fold(("a", "c"), ("b",), ()),))


def test_unlabelled_patients_are_not_trained_on():
    cases = [case("a"), case("b"), case("u", labelled=False)]

    assert make_splits(cases, 1, 0).folds[0].train == ("a", "b")


def test_a_patient_in_two_splits_is_refused():
    cases = [case("a", "p", split="train"), case("b", "p", split="test"), case("c")]
    with pytest.raises(DatasetError, match='patient p has cases in the splits "train"'):
        make_splits(cases, 1, 0)


def test_more_folds_than_patients_are_refused():
    with pytest.raises(DatasetError, match=r"2 patients .* 5 folds.*splits\.folds=2"):
        make_splits([case("a"), case("b")], 5, 0)


def test_few_patients_make_a_fold_each_unless_folds_are_asked_for():
    few, many = ([case(f"c{n}") for n in range(count)] for count in (3, 9))
    assert [fold.validation for fold in make_splits(few, 3, 0).folds] == [
        fold.validation for fold in make_splits(few, None, 0).folds
    ]
    assert len(make_splits(many, None, 0).folds) == 5
    (alone,) = make_splits(few[:1], None, 0).folds
    assert (alone.train, alone.validation) == (("c0",), ())


def test_nobody_to_train_on_is_refused():
    with pytest.raises(DatasetError, match="no patient with a label map is left"):
        make_splits([case("a", split="test"), case("u", labelled=False)], 1, 0)


def test_the_division_of_a_data_set_without_domains_stays_what_it_was():
    splits = make_splits([case(f"p{n}") for n in range(12)], 3, 12345)

    assert [fold.validation for fold in splits.folds] == [
        ("p10", "p2", "p5", "p9"),
        ("p11", "p4", "p7", "p8"),
        ("p0", "p1", "p3", "p6"),
    ]


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=6, max_size=40),
    st.integers(2, 6),
    st.integers(0, 100),
    st.randoms(use_true_random=False),
)
def test_every_domain_is_spread_evenly_over_the_folds(domains, folds, seed, order):
    cases = [case(f"p{n}", domain=domain) for n, domain in enumerate(domains)]
    splits = make_splits(cases, folds, seed)

    of = {file.patient: file.domain for file in cases}
    for domain in set(domains):
        counts = [
            sum(of[name] == domain for name in fold.validation) for fold in splits.folds
        ]
        assert max(counts) - min(counts) <= 1
    sizes = [len(fold.validation) for fold in splits.folds]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == len(domains)
    order.shuffle(cases)
    assert make_splits(cases, folds, seed) == splits


def test_a_patient_with_masks_per_structure_is_labelled():
    drawn = CaseFiles(
        "m",
        "m",
        (ChannelFile(Path("m.nii")),),
        structure_files=(StructureFile("liver", Path("liver.nii")),),
    )
    assert make_splits([case("a"), drawn], 1, 0).folds[0].train == ("a", "m")


def test_folds_of_the_data_set_are_used_by_patient():
    cases = [case("a1", "a"), case("a2", "a"), case("b"), case("c")]
    cases += [case("t", split="test"), case("u", labelled=False)]
    given_folds = [
        NamedFold(("a1", "a2", "b", "u"), ("c",)),
        NamedFold(("c", "t"), ("a1", "b")),
    ]

    splits = make_splits(cases, None, 0, given=given_folds)

    assert splits == Splits(
        (Fold(("a", "b"), ("c",), ("t",)), Fold(("c",), ("a", "b"), ("t",)))
    )
    assert make_splits(cases, 2, 7, given=given_folds) == splits


@pytest.mark.parametrize(
    ("folds", "given_folds", "match"),
    [
        (5, [NamedFold(("a1",), ("b",))], "splits.folds is 5 but .* brings 1 folds"),
        (None, [NamedFold(("a1", "b"), ("a2",))], "validates patient a "),
        (None, [NamedFold(("t", "u"), ("b",))], "fold 0 .* no labelled patient"),
    ],
)
def test_folds_that_contradict_the_rest_are_refused(folds, given_folds, match):
    cases = [case("a1", "a"), case("a2", "a"), case("b")]
    cases += [case("t", split="test"), case("u", labelled=False)]
    with pytest.raises(DatasetError, match=match):
        make_splits(cases, folds, 0, given=given_folds)


def test_folds_and_a_named_validation_split_are_refused():
    cases = [case("a"), case("b", split="validation")]
    with pytest.raises(DatasetError, match="names 1 patients for validation"):
        make_splits(cases, None, 0, given=[NamedFold(("a",), ("b",))])


def test_a_written_file_reads_back(tmp_path):
    splits = make_splits(
        [case(f'p "{n}" ü') for n in range(5)] + [case("t", split="test")], 2, 0
    )
    path = tmp_path / "splits.toml"
    path.write_text(splits_to_toml(splits), encoding="utf-8")

    assert read_splits(path) == splits


GOOD = 'train = ["a"]\nvalidation = ["b"]\ntest = []\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("format_version = 2\n", "format_version 2; this Foveal reads 1"),
        ("format_version = 1\n", "names no folds"),
        ("train = [", "is not a TOML file"),
        (
            'format_version = 1\n[[folds]]\ntrain = ["a"]\n',
            "fold 0 must hold the lists",
        ),
        (
            "format_version = 1\n[[folds]]\n" + GOOD.replace('["b"]', "[1]"),
            "validation must be a list of patient names",
        ),
        (
            f"format_version = 1\n[[folds]]\n{GOOD}[[folds]]\n"
            + GOOD.replace('"b"', '"a"'),
            r"fold 1 names \['a'\] more than once",
        ),
        (
            "format_version = 1\n[[folds]]\n" + GOOD.replace('["a"]', "[]"),
            "nobody to train on",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, match):
    path = tmp_path / "splits.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=match):
        read_splits(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="does not exist"):
        read_splits(tmp_path / "splits.toml")
