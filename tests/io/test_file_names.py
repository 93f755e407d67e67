import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.errors import DatasetError
from foveal.io.file_names import require_different_names, require_file_name


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "Größe 12",
        "肝臓_001",
        "scan.one",
        "conan",
        "a" * 150,
        "-1",
        "p(3)[x]",
        "comb",
    ],
)
def test_names_of_every_language_are_taken(name):
    require_file_name(name, "case")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("a:b", "it holds ':'"),
        ('a"b', "it holds '\"'"),
        ("a/b", "it holds '/'"),
        ("a\\b", "it holds"),
        ("a\nb", "it holds"),
        ("a\u200bb", "it holds"),
        ("a.", "begin or end with a dot"),
        (" a", "begin or end with a dot or a space"),
        ("a ", "begin or end with a dot or a space"),
        (".a", "begin or end with a dot"),
        ("", "must not be empty"),
        ("con", "Windows keeps this name"),
        ("NUL.old", "Windows keeps this name"),
        ("Lpt1", "Windows keeps this name"),
        ("a" * 151, "151 characters .151 bytes.; at most 150"),
        ("肝" * 70, "70 characters .210 bytes.; at most 150 .200 bytes. fit"),
    ],
)
def test_names_that_some_system_does_not_take_are_refused(name, match):
    with pytest.raises(DatasetError, match=match):
        require_file_name(name, "case")


@given(st.text(alphabet="aAäÄßéç", min_size=1, max_size=4))
def test_names_that_differ_in_case_or_composition_only_collide(name):
    other = unicodedata.normalize("NFD", name.upper())
    with pytest.raises(DatasetError, match=r'the case name ".*" stands 2 times'):
        require_different_names(
            Path("t.csv"), [(name, Path("1.nii")), (other, Path("2.nii"))], "case"
        )


def test_a_collision_names_the_files():
    named = [("b", None), ("a", Path("x.nii")), ("A", Path("y.nii"))]
    with pytest.raises(
        DatasetError, match=r't\.csv: .*"a" \(x\.nii\), "A" \(y\.nii\);'
    ):
        require_different_names(Path("t.csv"), named, "case")


def test_different_names_are_taken():
    names = ["a", "b", "a1", "ab", "ä"]
    require_different_names(Path("t.csv"), [(name, None) for name in names], "case")
