"""Cases that differ from the others: grids, intensities, structures, copies."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from foveal.io.pictures import is_picture
from foveal.planning.case_summary import (
    CaseSummary,
    ChannelSummary,
    StructureSummary,
)
from foveal.planning.findings import MANY_CASES, Finding, listed
from foveal.planning.left_right import (
    SIDED_OFFSET,
    USUAL_SHARE,
    left_right_pairs,
    side_of,
)
from foveal.planning.outliers import groups_apart, robust_deviations

FEWEST_TO_COMPARE = 8
"""Of fewer cases nobody can say what is usual."""

NEARLY_ALL = 0.9
"""Share of the cases from which on the others are the odd ones out."""

LARGEST_SPACING_FACTOR = 5.0
"""A case whose voxels are this much larger or smaller than usual has its spacing in
another unit, or belongs elsewhere."""

LOST_SPACING_FACTOR = 1.25
"""Voxels of exactly 1 mm are what a header says that nobody filled in; they are odd
where others differ by more than this."""

INTENSITY_GAP = 10.0
"""Between the spreads of two cases, with none in between: another scale."""

CT_WITHOUT_OFFSET = 500.0
"""A median above this, with nothing below 0, is no tissue in Hounsfield units."""

VOLUME_DEVIATIONS = 6.0
"""Robust standard deviations of the logarithm from which a structure is odd."""

LEAST_VOLUME_DEVIATION = math.log(1.35)
"""Organs differ by as much between people, however alike most of a data set are."""

FEW_VOXELS = 5
"""A structure of no more is a slip of the pen, if others have many."""

MANY_TIMES = 20

SWAPPED_SHARE = 0.25
"""Of the usual distance between the two of a pair; closer ones may lie either way."""

SMALL_OVERLAP = 0.01
"""Of the smaller structure: masks that lie over one another by less only touch."""


# --------------------------------------------------------------------------- grids


def compare_spacings(summaries: Sequence[CaseSummary]) -> None:
    """Warn of cases whose voxels are far larger or smaller than usual, or unknown."""
    known = [(summary, summary.grid) for summary in summaries if summary.grid]
    if not known:
        return
    # Sorted, as the axes of two cases may be stored in different order.
    spacings_mm = np.sort([grid.spacing_mm for _, grid in known], axis=1)
    median_mm = np.median(spacings_mm, axis=0)
    logarithms = np.log(spacings_mm / median_mm)
    factors = np.exp(np.abs(logarithms).max(axis=1))
    has_unit_voxels = np.all(spacings_mm == 1.0, axis=1)
    are_units_rare = np.mean(has_unit_voxels) <= 1 - NEARLY_ALL
    for (summary, grid), factor, logarithm, is_unit in zip(
        known, factors, logarithms, has_unit_voxels, strict=True
    ):
        text = (
            f"voxels of {_millimetres(grid.spacing_mm)}, where "
            f"{_millimetres(median_mm)} are usual"
        )
        if is_unit and are_units_rare and factor > LOST_SPACING_FACTOR:
            summary.warning(
                "spacing",
                text,
                "exactly 1 mm along every axis is what a file says whose spacing was "
                "lost, so structures would seem too small or large",
                "compare with the original scan, and convert it again",
            )
        elif factor > LARGEST_SPACING_FACTOR:
            summary.warning(
                "spacing",
                text,
                f"{_unit(float(logarithm.mean()))}; the case would be stretched or "
                "shrunk beyond use",
                "compare the header with the original scan, and correct it",
            )


def compare_orientations(summaries: Sequence[CaseSummary]) -> None:
    """Warn of the few cases whose axes run otherwise than in nearly all."""
    orientations = {
        summary.case.name: summary.grid.orientation
        for summary in summaries
        if summary.grid is not None
    }
    if len(orientations) < FEWEST_TO_COMPARE:
        return
    stored = list(orientations.values())
    usual = max(sorted(set(stored)), key=stored.count)
    if stored.count(usual) < NEARLY_ALL * len(stored):
        return
    for summary in summaries:
        found = orientations.get(summary.case.name, usual)
        if found != usual:
            summary.warning(
                "orientation",
                f"its axes run to {found}, those of {stored.count(usual)} of "
                f"{len(stored)} cases to {usual}",
                "Foveal turns every case by its header; should the header be wrong, "
                "this body lies on its side or is mirrored",
                "look whether left, front and head are where they should be; if so, "
                "leave it",
            )


def _unit(logarithm: float) -> str:
    """What may be wrong with voxels whose size is off by ``exp(logarithm)``."""
    for unit, factor in (("metres", 1e-3), ("centimetres", 0.1), ("micrometres", 1e3)):
        if abs(logarithm - math.log(factor)) < math.log(2):
            return f"the spacing seems to be in {unit} in place of millimetres"
    return "the spacing may be in another unit, or the case belong elsewhere"


def _millimetres(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in spacing_mm) + " mm"


# --------------------------------------------------------------------- intensities


def compare_intensities(
    summaries: Sequence[CaseSummary], channel_names: Sequence[str]
) -> list[Finding]:
    """Warn of cases on another scale than most, channel by channel.

    Cases of one domain are compared with one another: those of another scanner or
    sequence may well have another scale.

    Returns:
        A finding per scale that many cases share; single cases keep theirs.
    """
    findings = []
    for number, name in enumerate(channel_names):
        by_domain: dict[str | None, list[tuple[CaseSummary, ChannelSummary]]] = {}
        for summary in summaries:
            if number in summary.channels:
                seen = by_domain.setdefault(summary.case.domain, [])
                seen.append((summary, summary.channels[number]))
        for seen in by_domain.values():
            _warn_of_lost_offset(seen, name)
            findings += _compare_scales(seen, name)
    return findings


def _compare_scales(
    seen: Sequence[tuple[CaseSummary, ChannelSummary]], name: str
) -> list[Finding]:
    spreads = {
        place: channel.percentiles[2] - channel.percentiles[0]
        for place, (_, channel) in enumerate(seen)
        if channel.percentiles[2] > channel.percentiles[0]
    }
    if len(spreads) < FEWEST_TO_COMPARE:
        return []
    places = list(spreads)
    logarithms = [math.log(spread) for spread in spreads.values()]
    usual, *others = groups_apart(logarithms, math.log(INTENSITY_GAP))
    typical = math.exp(float(np.median([logarithms[n] for n in usual])))
    findings = []
    for group in others:
        factor = math.exp(float(np.median([logarithms[n] for n in group]))) / typical
        members = [seen[places[n]][0] for n in group]
        scale = f"about {_times(factor)} those of"
        if len(group) > MANY_CASES:
            findings.append(
                Finding(
                    "intensity scale",
                    "note",
                    f"{len(group)} of {len(spreads)} cases have intensities in channel "
                    f"{name} {scale} {len(usual)} others: two ways of storing, not "
                    "single mistakes",
                    "each case is scaled by itself, so this does no harm, unless the "
                    "channel is CT, whose numbers are taken at their word",
                    "nothing for MR and the like; for CT, export these cases again in "
                    "Hounsfield units",
                    tuple(summary.case.name for summary in members),
                )
            )
            continue
        for summary in members:
            summary.warning(
                "intensity scale",
                f"its intensities in channel {name} are {scale} the other cases",
                "it was stored in another way; as CT it would be misread, otherwise it "
                "is scaled by itself and does no harm",
                "look at the image; export it again as the others were",
            )
    return findings


def _warn_of_lost_offset(
    seen: Sequence[tuple[CaseSummary, ChannelSummary]], name: str
) -> None:
    """Warn of CT stored from 0 upwards in a data set of Hounsfield units."""
    if sum(channel.is_hu_like for _, channel in seen) <= len(seen) / 2:
        return
    for summary, channel in seen:
        if channel.lowest >= 0 and channel.percentiles[1] > CT_WITHOUT_OFFSET:
            summary.warning(
                "CT without its offset",
                f"channel {name} has nothing below 0 and a median of "
                f"{channel.percentiles[1]:.4g}, where others are in Hounsfield units",
                "1024 seems not to have been subtracted, so soft tissue reads as bone",
                "export the image again with its rescale intercept",
            )


def _times(factor: float) -> str:
    """A factor as people say it."""
    if factor >= 1:
        return f"{_rounded(factor)} times"
    return f"1/{_rounded(1 / factor)} of"


def _rounded(factor: float) -> str:
    return f"{float(f'{factor:.1g}'):,.0f}"


# ---------------------------------------------------------------------- structures


def compare_structures(
    summaries: Sequence[CaseSummary], names: Sequence[str]
) -> list[Finding]:
    """Warn of structures that are missing, tiny, huge or on the wrong side.

    Cases whose spacing is in doubt are not measured.

    Args:
        summaries: Of all cases.
        names: Of the structures.

    Returns:
        What concerns a structure in the data set as a whole.
    """
    labelled = [
        summary
        for summary in summaries
        if summary.structures and summary.grid and not summary.has("spacing")
    ]
    for name in names:
        annotated = [summary for summary in labelled if _is_annotated(summary, name)]
        where = [
            (summary, summary.structures[name])
            for summary in annotated
            if name in summary.structures
        ]
        absent = [summary for summary in annotated if name not in summary.structures]
        _warn_of_missing(name, absent, len(where))
        _compare_volumes(name, where)
        _warn_of_other_side(name, where)
    findings = _small_overlaps(labelled)
    for left, right in left_right_pairs(names):
        both = [
            (
                summary,
                summary.structures[left].right_mm,
                summary.structures[right].right_mm,
            )
            for summary in labelled
            if {left, right} <= summary.structures.keys()
        ]
        findings += _compare_sides(left, right, both)
    return findings


def _is_annotated(summary: CaseSummary, name: str) -> bool:
    return summary.case.annotated is None or name in summary.case.annotated


def _warn_of_missing(
    name: str, absent: Sequence[CaseSummary], num_present: int
) -> None:
    """Warn of the few cases that lack a structure which nearly all have."""
    total = num_present + len(absent)
    if total < FEWEST_TO_COMPARE or num_present < NEARLY_ALL * total:
        return
    for summary in absent:
        summary.warning(
            "missing structure",
            f"{name} is missing; {num_present} of {total} cases have it",
            "if it was forgotten, it would be learned as background",
            "contour it, or name in annotated_labels what was contoured",
        )


def _compare_volumes(
    name: str, where: Sequence[tuple[CaseSummary, StructureSummary]]
) -> None:
    """Warn of a structure far smaller or larger than in the other cases."""
    if len(where) < FEWEST_TO_COMPARE:
        return
    volumes_ml = [
        found.voxels * summary.grid.voxel_volume_ml
        for summary, found in where
        if summary.grid is not None
    ]
    usual_ml = float(np.median(volumes_ml))
    usual_voxels = float(np.median([found.voxels for _, found in where]))
    deviations = robust_deviations(np.log(volumes_ml).tolist(), LEAST_VOLUME_DEVIATION)
    for (summary, found), volume_ml, deviation in zip(
        where, volumes_ml, deviations, strict=True
    ):
        is_a_slip = (
            found.voxels <= FEW_VOXELS and usual_voxels > MANY_TIMES * found.voxels
        )
        if is_a_slip or abs(deviation) > VOLUME_DEVIATIONS:
            size = "tiny" if volume_ml < usual_ml else "huge"
            summary.warning(
                f"{size} structure",
                f"{name} has {found.voxels} pixels, where {usual_voxels:.0f} are usual"
                if is_picture(summary.case.channels[0].path)
                else f"{name} has {found.voxels} voxels, {_millilitres(volume_ml)}, "
                f"where {_millilitres(usual_ml)} are usual",
                "stray or missing voxels teach a wrong shape"
                if size == "tiny"
                else "other tissue may carry the label",
                f"look at {name} in this case; correct it if it is no rarity",
                structure=name,
            )


def _warn_of_other_side(
    name: str, where: Sequence[tuple[CaseSummary, StructureSummary]]
) -> None:
    """Warn of a structure without a partner that lies on the other side than usual."""
    if len(where) < FEWEST_TO_COMPARE or side_of(name) is not None:
        return
    offsets = np.array([found.offset for _, found in where])
    for side, other, direction in (("left", "right", -1), ("right", "left", 1)):
        is_usual = direction * offsets > SIDED_OFFSET
        if np.mean(is_usual) < max(USUAL_SHARE, NEARLY_ALL):
            continue
        for (summary, _), offset in zip(where, offsets, strict=True):
            if direction * offset < -SIDED_OFFSET:
                summary.warning(
                    "wrong side",
                    f"{name} lies on the patient's {other}, in {is_usual.sum()} of "
                    f"{len(where)} cases on the {side}",
                    "the image may be mirrored by a wrong header (or the patient be "
                    "one of a few)",
                    "compare with the original scan; correct the orientation",
                    structure=name,
                )


def _compare_sides(
    left: str, right: str, both: Sequence[tuple[CaseSummary, float, float]]
) -> list[Finding]:
    """Warn of cases in which the left one of a pair lies to the right."""
    distances = np.array([right_mm - left_mm for _, left_mm, right_mm in both])
    if len(distances) == 0:
        return []
    is_swapped = distances < -SWAPPED_SHARE * float(np.median(np.abs(distances)))
    cases = [entry[0] for entry, is_odd in zip(both, is_swapped, strict=True) if is_odd]
    if len(cases) > len(both) / 2 and len(cases) > 1:
        return [
            Finding(
                "left and right",
                "warning",
                f"{left} lies to the patient's right of {right} in {len(cases)} of "
                f"{len(both)} cases",
                "the names are the wrong way round, or the headers mirror the images",
                "exchange the two names in the list of labels, or correct the headers",
                tuple(summary.case.name for summary in cases),
            )
        ]
    as_named = len(both) - len(cases)
    usual = f", unlike in {as_named} of {len(both)} cases" if as_named else ""
    for summary in cases:
        summary.warning(
            "left and right",
            f"{left} lies to the patient's right of {right}{usual}",
            "the two labels are likely swapped, or the image is mirrored by a wrong "
            "header",
            "look at the case; exchange the two labels or correct the header",
            structure=left,
        )
    return []


def _small_overlaps(summaries: Sequence[CaseSummary]) -> list[Finding]:
    """Structures that lie over one another by a sliver only."""
    voxels: dict[str, int] = defaultdict(int)
    overlaps: dict[frozenset[str], dict[str, int]] = defaultdict(dict)
    for summary in summaries:
        for name, structure in summary.structures.items():
            voxels[name] += structure.voxels
        for names, count in summary.overlaps.items():
            overlaps[names][summary.case.name] = count
    findings = []
    for names in sorted(overlaps, key=sorted):
        count = sum(overlaps[names].values())
        smallest = min(names, key=lambda name: voxels[name])
        share = count / voxels[smallest]
        if share < SMALL_OVERLAP:
            findings.append(
                Finding(
                    "small overlap",
                    "warning",
                    f"{' and '.join(sorted(names))} lie over one another by {count} "
                    f"voxels in {len(overlaps[names])} case(s), "
                    f"{100 * share:.2g} % of {smallest}",
                    "they seem to be meant to lie side by side; what they share is a "
                    "class of its own inside, with too little to learn from",
                    "take these voxels out of one of the masks",
                    tuple(overlaps[names]),
                )
            )
    return findings


def _millilitres(volume_ml: float) -> str:
    return f"{volume_ml:.3g} ml"


# -------------------------------------------------------------------------- copies


def find_copies(
    summaries: Sequence[CaseSummary], channel_names: Sequence[str]
) -> list[Finding]:
    """Find channels whose voxels occur more than once, however they were stored."""
    places: dict[bytes, list[tuple[CaseSummary, int]]] = defaultdict(list)
    for summary in summaries:
        for number, channel in summary.channels.items():
            places[channel.digest].append((summary, number))
    findings = []
    told: set[frozenset[str]] = set()
    for copies in places.values():
        cases = {summary.case.name: summary for summary, _ in copies}
        _warn_of_repeated_channels(copies, channel_names)
        names = frozenset(cases)
        if len(cases) > 1 and names not in told:
            told.add(names)
            findings.append(_copied(list(cases.values()), copies, channel_names))
    return findings


def _warn_of_repeated_channels(
    copies: Sequence[tuple[CaseSummary, int]], channel_names: Sequence[str]
) -> None:
    by_case: dict[str, list[tuple[CaseSummary, int]]] = defaultdict(list)
    for summary, number in copies:
        by_case[summary.case.name].append((summary, number))
    for within in by_case.values():
        if len(within) > 1:
            names = [_channel_name(channel_names, number) for _, number in within]
            within[0][0].warning(
                "same image in two channels",
                f"the channels {listed(names)} hold the same voxels",
                "one of them is not what its name says",
                "put the right file in its place",
            )


def _copied(
    cases: Sequence[CaseSummary],
    copies: Sequence[tuple[CaseSummary, int]],
    channel_names: Sequence[str],
) -> Finding:
    """The same voxels in several cases."""
    names = tuple(summary.case.name for summary in cases)
    images = {
        frozenset(channel.digest for channel in summary.channels.values())
        for summary in cases
    }
    several = listed(names) if len(names) <= MANY_CASES else f"{len(names)} cases"
    what = f"one image under several names: {several}"
    if len(images) > 1:
        channels = {_channel_name(channel_names, number) for _, number in copies}
        what = (
            f"one image as channel {listed(sorted(channels))} under several names: "
            f"{several}"
        )
    splits = {summary.case.split or "train" for summary in cases}
    if "test" in splits and len(splits) > 1:
        return Finding(
            "same image twice",
            "error",
            what,
            "the test would be of an image that was trained on",
            "leave one of them out",
            names,
        )
    patients = {summary.case.patient for summary in cases}
    return Finding(
        "same image twice",
        "warning",
        what,
        "it may be trained on and validated with at once, which flatters the scores"
        if len(patients) > 1
        else "it counts more than once",
        "leave the copies out"
        + (", or give all of them one patient" if len(patients) > 1 else ""),
        names,
    )


def _channel_name(channel_names: Sequence[str], number: int) -> str:
    return channel_names[number] if number < len(channel_names) else str(number)
