"""Cases of streams, and what is refused where a method lacks them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foveal.case import CaseFiles, ChannelFile, Dataset
from foveal.commands.beginning import require_domains
from foveal.commands.cases_of_folds import files_of_streams, stream_words
from foveal.config.settings import Settings
from foveal.errors import CaseError, SettingsError
from foveal.geometry import Grid
from foveal.io.cases import require_usable_headers
from foveal.io.volumes import write_volume
from foveal.methods.interface import Stream
from foveal.planning.splits import Fold


def case(name, domain=None, *, labelled=True, patient=None, split=None):
    return CaseFiles(
        name=name,
        patient=patient or name,
        channels=(ChannelFile(Path(f"{name}.nii")),),
        label_map=Path(f"{name}_label.nii") if labelled else None,
        domain=domain,
        split=split,
    )


def streams(dataset, fold, **domains):
    """Names of the cases per stream, of a method with streams of these domains."""
    wanted = {"labelled": Stream("labelled", "uniform", 1)}
    wanted |= {
        name: Stream(name, "uniform", 1, domains=given)
        for name, given in domains.items()
    }
    method = SimpleNamespace(streams=wanted)
    found = files_of_streams(method, dataset, fold)
    return {name: [case.name for case in cases] for name, cases in found.items()}


def dataset(*cases):
    return Dataset("made up", Path(), cases, ("MR",), {"organ": 1})


SITES = dataset(
    case("a1", "A"),
    case("a2", "A"),
    case("a3", "A", labelled=False),
    case("b1", "B", labelled=False),
    case("b2", "B", labelled=False, patient="a2"),
    case("b3", "B", labelled=False, split="test"),
    case("b4", "B", labelled=False, split="validation"),
    case("c1", "C", labelled=False),
)
FOLD = Fold(train=("a1",), validation=("a2",), test=("b3",))


def test_unlabelled_cases_of_patients_who_are_kept_apart_are_not_learned_from():
    assert streams(SITES, FOLD, unlabelled=()) == {
        "labelled": ["a1"],
        "unlabelled": ["a3", "b1", "c1"],
    }


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((), (), (["a1", "a3"], ["b1", "c1"])),
        (("A",), ("C",), (["a1", "a3"], ["c1"])),
        (("C", "A"), (), (["a1", "a3", "c1"], ["b1"])),
        ((), ("B",), (["a1", "a3"], ["b1"])),
    ],
)
def test_source_is_what_is_outlined_and_target_the_rest_unless_they_are_named(
    source, target, expected
):
    found = streams(SITES, FOLD, source=source, target=target)
    assert (found["source"], found["target"]) == expected


def test_labelled_cases_of_a_named_target_are_none_of_the_source():
    cases = dataset(case("a", "A"), case("b", "B"))
    fold = Fold(("a", "b"), (), ())
    assert streams(cases, fold, source=(), target=("B",)) == {
        "labelled": ["a", "b"],
        "source": ["a"],
        "target": ["b"],
    }


def test_a_line_tells_the_cases_and_domains_of_every_stream():
    files = {"labelled": SITES.labelled, "target": [SITES.cases[3], SITES.cases[7]]}
    assert stream_words(files) == (
        "cases to learn from: labelled 2 of A; target 2 of B, C"
    )


def test_a_data_set_without_unlabelled_cases_is_refused():
    with pytest.raises(SettingsError, match=r"all 2 cases .* into a folder imagesUn"):
        streams(dataset(*SITES.cases[:2]), FOLD, unlabelled=())
    with pytest.raises(SettingsError, match="all 1 of the data set are of patients"):
        streams(dataset(*SITES.cases[:2], SITES.cases[4]), FOLD, unlabelled=())


@pytest.mark.parametrize(
    ("cases", "source", "target", "message"),
    [
        ([case("a1")], (), (), "names 0: its cases to train on have no domain"),
        ([case("a1", "A")], (), (), '1 of its 1 cases to train on are of "A"; write'),
        (
            [case("a1", "A"), case("u", labelled=False)],
            ("A",),
            ("B",),
            '1 of its 2 cases to train on are of "A" and the others of none',
        ),
        (
            SITES.cases,
            (),
            ("X",),
            r'method.target names the domain "X".*"A" \(1 labelled, 1 unlabelled\)',
        ),
        (SITES.cases, ("A", "B"), ("B",), 'method.target both name "B"'),
        (SITES.cases, (), ("A",), "no domain is left as method.source"),
        (
            [case("a1", "A"), case("b", "B")],
            (),
            (),
            "no domain is left as method.target",
        ),
        (
            [
                case("a1", "A"),
                case("b", "B", labelled=False),
                case("u", labelled=False),
            ],
            ("A",),
            (),
            r"case u has no domain \(1 such cases\)",
        ),
    ],
)
def test_domains_that_leave_a_stream_without_cases_are_refused_by_name(
    cases, source, target, message
):
    fold = Fold(("a1", "b"), (), ())
    with pytest.raises(SettingsError, match=message):
        streams(dataset(*cases), fold, source=source, target=target)


def written(folder, name, *shapes):
    """An unlabelled case with a file per shape."""
    files = []
    for number, shape in enumerate(shapes):
        path = folder / f"{name}_{number}.nii"
        write_volume(path, np.zeros(shape, np.uint8), Grid(shape, np.eye(4)))
        files.append(ChannelFile(path))
    return replace(case(name, labelled=False), channels=tuple(files))


def test_headers_tell_which_unlabelled_image_has_other_channels(tmp_path):
    names = ("T1", "T2")
    sound = written(tmp_path, "sound", (2, 3, 4), (2, 3, 4))
    require_usable_headers(sound, names, resample_channels=False)
    one = written(tmp_path, "one", (2, 3, 4))
    with pytest.raises(CaseError, match=r"case one: it has 1 channel.*2 .*T1, T2"):
        require_usable_headers(one, names, resample_channels=False)
    listed_twice = replace(
        one, channels=tuple(ChannelFile(one.channels[0].path, n) for n in range(2))
    )
    with pytest.raises(CaseError, match=r"one_0.nii holds 1 channel\(s\) where 2 are"):
        require_usable_headers(listed_twice, names, resample_channels=False)
    apart = written(tmp_path, "apart", (2, 3, 4), (2, 3, 5))
    with pytest.raises(CaseError, match=r"case apart: channel 0 is .* but channel 1"):
        require_usable_headers(apart, names, resample_channels=False)
    require_usable_headers(apart, names, resample_channels=True)
    gone = replace(sound, channels=(ChannelFile(tmp_path / "gone.nii"),) * 2)
    with pytest.raises(CaseError, match=r"gone\.nii does not exist"):
        require_usable_headers(gone, names, resample_channels=False)


def test_one_domain_cannot_be_balanced():
    settings = Settings(sampling={"balance_domains": True})
    require_domains(settings, [case("a", "A"), case("b")])
    with pytest.raises(SettingsError, match=r'all 2 labelled .* of the domain "A"'):
        require_domains(settings, [case("a", "A"), case("b", "A")])
    with pytest.raises(SettingsError, match=r"all 1 labelled .* have no domain"):
        require_domains(settings, [case("a")])
