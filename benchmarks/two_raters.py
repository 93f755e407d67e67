"""Two experts' outlines of the same scans: how far they agree, and their fusions.

    python benchmarks/two_raters.py --out results

Seven head-and-neck scans, up to 21 organs, an oncologist's and a radiographer's masks
(`two_raters`). Printed, as means over organs and scans where a rater drew something:

1. Agreement of the two: Dice, HD95 and mean surface distance.
2. The fusions of the two: Dice with each of them, mean of both.
3. The fusions of these two and a third, made-up rater, who is the oncologist with an
   error: eroded or dilated by a voxel in each slice, shifted by three voxels, or every
   fourth organ left empty. Dice with each of the two experts, mean of both; a good
   fusion keeps it whatever the third does. `wrong`: voxels on which both experts agree
   but not the fusion, per voxel of the structure; 0 for a majority of three, always.

Masks are cropped to what any rater drew and a margin, which changes no vote; for STAPLE
the number of background voxels matters, so its prior is that of the crop. A scan takes
about a minute.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveal.ensembles.staple import staple_of
from foveal.ensembles.votes import gather_votes
from foveal.ensembles.voting import majority_of, weighted_of
from foveal.geometry import Grid
from foveal.io.volumes import case_stem, only_volumes, read_volume
from foveal.metrics.evaluation import measure
from foveal.metrics.overlap import dice as dice_of

Mask = NDArray[np.bool_]

RATERS = ("oncologist", "radiographer")
MARGIN = 10
SHIFT_VOXELS = 3
IN_PLANE = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[..., None]


def eroded(mask: Mask, _: int) -> Mask:
    """A rater who draws inside the border."""
    return ndimage.binary_erosion(mask, IN_PLANE)


def dilated(mask: Mask, _: int) -> Mask:
    """A rater who draws outside of it."""
    return ndimage.binary_dilation(mask, IN_PLANE)


def shifted(mask: Mask, _: int) -> Mask:
    """A rater whose scans lie elsewhere."""
    return np.roll(mask, SHIFT_VOXELS, axis=0)


def forgetful(mask: Mask, number: int) -> Mask:
    """A rater who leaves every fourth organ out."""
    return np.zeros_like(mask) if number % 4 == 0 else mask


THIRD_RATERS: dict[str, Callable[[Mask, int], Mask]] = {
    "eroded": eroded,
    "dilated": dilated,
    "shifted": shifted,
    "forgetful": forgetful,
}


def main() -> None:
    """Measure every scan, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scans", type=int, help="Only the first so many.")
    options = parser.parse_args()
    root = Path(os.environ.get("FOVEAL_DATA", "../shared/data")) / "two_raters"
    rows: list[dict[str, float | str]] = []
    for scan in sorted(path for path in root.iterdir() if path.is_dir())[
        : options.scans
    ]:
        kept = options.out / "two_raters" / f"{scan.name}.json"
        if not kept.exists():
            found = measured_scan(scan)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found))
        rows += json.loads(kept.read_text())
    print_tables(rows)


def measured_scan(scan: Path) -> list[dict[str, float | str]]:
    """Every comparison of every organ of a scan."""
    rows: list[dict[str, float | str]] = []
    for number, organ in enumerate(organs_of(scan)):
        masks, grid = read_masks(scan, organ)
        if not any(mask.any() for mask in masks):
            continue
        about = {"scan": scan.name, "organ": organ}
        rows.append(about | {"what": "raters"} | compared(masks[0], masks[1], grid))
        for name, fused in fusions(masks).items():
            dice = [dice_of(fused, mask) for mask in masks]
            rows.append(about | {"what": f"both, {name}", "dice": fmean(dice)})
        agreed = masks[0] == masks[1]
        size = max(np.count_nonzero(masks[0] & masks[1]), 1)
        for kind, third in THIRD_RATERS.items():
            three = [*masks, third(masks[0], number)]
            alone = {"third alone": three[2]}
            for name, fused in (alone | fusions(three)).items():
                wrong = np.count_nonzero((fused != masks[0]) & agreed) / size
                dice = [dice_of(fused, mask) for mask in masks]
                own = {"dice": fmean(dice), "wrong": wrong}
                rows.append(about | {"what": f"{kind}, {name}"} | own)
    return rows


def fusions(masks: Sequence[Mask]) -> dict[str, Mask]:
    """The same masks fused in every way; the first rater is trusted most."""
    votes = gather_votes(masks)
    weights = (0.9, 0.8, 0.7)[: len(masks)]
    names = [f"rater {number}" for number in range(len(masks))]
    decided = {
        "majority": majority_of(votes),
        "weighted": weighted_of(votes, weights, names),
        "staple": staple_of(votes).decided,
    }
    return {name: votes.label_map(one) > 0 for name, one in decided.items()}


def compared(first: Mask, second: Mask, grid: Grid) -> dict[str, float]:
    """Overlap and distances of two masks."""
    found = measure(first, second, grid)
    return {name: found[name] for name in ("dice", "hd95_mm", "assd_mm")}


def organs_of(scan: Path) -> list[str]:
    """Names that both raters use, "_" as they may be written taken for "-"."""
    named = [
        {
            case_stem(path).replace("_", "-")
            for path in only_volumes(sorted((scan / rater).iterdir()))
        }
        for rater in RATERS
    ]
    return sorted(named[0] & named[1])


def read_masks(scan: Path, organ: str) -> tuple[list[Mask], Grid]:
    """Both raters' masks, cropped to what they drew."""
    masks = []
    for rater in RATERS:
        (path,) = (
            path
            for path in only_volumes((scan / rater).iterdir())
            if case_stem(path).replace("_", "-") == organ
        )
        volume = read_volume(path)
        masks.append(volume.array > 0.5)
    union = masks[0] | masks[1]
    if not union.any():
        return masks, volume.grid
    window = tuple(
        slice(max(inside.start - MARGIN, 0), inside.stop + MARGIN)
        for inside in ndimage.find_objects(union.view(np.uint8))[0]
    )
    cropped = [np.ascontiguousarray(mask[window]) for mask in masks]
    return cropped, Grid(cropped[0].shape, volume.grid.affine)


def print_tables(rows: Sequence[Mapping[str, float | str]]) -> None:
    """Means over organs and scans, and the raters' agreement per organ."""
    print("| what | structures | Dice | HD95 mm | ASSD mm | wrong |")
    print("|---|---|---|---|---|---|")
    for what in dict.fromkeys(row["what"] for row in rows):
        own = [row for row in rows if row["what"] == what]
        wrong = f"{mean(own, 'wrong'):.4f}" if "wrong" in own[0] else ""
        print(f"| {what} | {len(own)} | {measures(own)} | {wrong} |")
    print("\n| organ | scans | Dice | HD95 mm | ASSD mm |\n|---|---|---|---|---|")
    agreement = [row for row in rows if row["what"] == "raters"]
    for organ in sorted({str(row["organ"]) for row in agreement}):
        own = [row for row in agreement if row["organ"] == organ]
        print(f"| {organ} | {len(own)} | {measures(own)} |")


def measures(rows: Sequence[Mapping[str, float | str]]) -> str:
    """Cells of Dice and distances; empty where they were not measured."""
    distances = [
        f"{mean(rows, name):.2f}" if name in rows[0] else ""
        for name in ("hd95_mm", "assd_mm")
    ]
    return " | ".join([f"{mean(rows, 'dice'):.3f}", *distances])


def mean(rows: Sequence[Mapping[str, float | str]], name: str) -> float:
    """Of what is defined and finite: distances to an empty mask are not."""
    values = [float(row[name]) for row in rows]
    finite = [value for value in values if np.isfinite(value)]
    return fmean(finite) if finite else float("nan")


if __name__ == "__main__":
    main()
