"""Problems for `isample.py`: few voxels of structures among many, and a dense one.

Not a benchmark by itself. Scans are made, or read from ``FOVEAL_DATA`` and their label
maps written anew, below a folder of results.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import tomli_w
from numpy.typing import NDArray
from trainings import data_folder, in_hashed_order

import foveal
from foveal.demo_data.abdomen import STRUCTURES, Abdomen, draw_abdomen

KIDNEY_SHARE = 0.003
"""Of the voxels of a trunk, as in the scans of the isample paper."""

HEADNECK = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid")

NUM_TRAIN, NUM_HELD_OUT = 16, 8

AIR_HU = -1000


class Problem(NamedTuple):
    """Training and held-out cases, and the grid they are looked at on."""

    write: Callable[[Path], Path]
    """Makes the table in a folder."""

    spacing_mm: tuple[float, float, float]


def problem_table(name: str, out: Path) -> Path:
    """The table of a problem, made unless it is there."""
    table = out / name / "data.toml"
    if not table.exists():
        PROBLEMS[name].write(out / name)
    return table


def foreground_share(table: Path) -> float:
    """Share of the voxels of all cases that belong to a structure."""
    dataset = foveal.read_dataset(table)
    label_maps = [nib.load(case.label_map) for case in dataset.labelled]
    inside = sum(np.count_nonzero(found.dataobj) for found in label_maps)
    return inside / sum(int(np.prod(found.shape)) for found in label_maps)


# -------------------------------------------------------------------- made-up scans


def write_trunks(folder: Path) -> Path:
    """Made-up abdomens, made longer by slices of others that show no kidney."""
    drawn = [upright(abdomen_of(n)) for n in range(NUM_TRAIN + NUM_HELD_OUT)]
    rows = []
    for number, abdomen in enumerate(drawn):
        is_train = number < NUM_TRAIN
        # What trains and what is held out share nothing.
        group = drawn[:NUM_TRAIN] if is_train else drawn[NUM_TRAIN:]
        others = [other for other in group if other is not abdomen]
        made = trunk(abdomen, others, np.random.default_rng([1, number]))
        rows.append(written(folder, f"trunk_{number:02d}", made, is_train=is_train))
    return write_rows(folder, "Kidneys", ["CT"], {"Kidneys": 1}, rows)


def write_abdomens(folder: Path) -> Path:
    """The made-up abdomens with all their structures."""
    rows = [
        written(
            folder,
            f"abdomen_{number:02d}",
            upright(abdomen_of(number)),
            is_train=number < NUM_TRAIN,
        )
        for number in range(NUM_TRAIN + NUM_HELD_OUT)
    ]
    return write_rows(folder, "Organs", ["CT"], STRUCTURES, rows)


def abdomen_of(number: int) -> Abdomen:
    """One of the made-up scans; always the same for a number."""
    return draw_abdomen(np.random.default_rng([0, number]))


def upright(abdomen: Abdomen) -> Abdomen:
    """The same with array axes that run to the right, to the front and upwards."""
    affine = abdomen.affine.copy()
    if affine[0, 0] > 0:
        return abdomen
    ends = np.array([*abdomen.image.shape[:2], 1]) - [1, 1, 1]
    affine[:3, 3] += affine[:3, :3] @ ends
    affine[:2, :2] *= -1
    return Abdomen(abdomen.image[::-1, ::-1], abdomen.label_map[::-1, ::-1], affine)


def trunk(
    abdomen: Abdomen, others: Sequence[Abdomen], generator: np.random.Generator
) -> Abdomen:
    """An abdomen with slices of others above and below, until kidneys are few.

    Bodies do not fit together where they meet: that is a part of the background that
    a network has to learn, and the same for whoever learns it.
    """
    kidneys = is_kidney(abdomen)
    shape = abdomen.image.shape
    wanted = round(np.count_nonzero(kidneys) / KIDNEY_SHARE / (shape[0] * shape[1]))
    pieces = [(abdomen.image, kidneys)]
    for index in generator.permutation(len(others)):
        missing = wanted - sum(image.shape[2] for image, _ in pieces)
        if missing <= 0:
            break
        shown = is_kidney(others[index])
        slices = np.flatnonzero(~shown.any(axis=(0, 1)))[:missing]
        image = same_slices(others[index].image[:, :, slices], shape, AIR_HU)
        piece = (image, np.zeros(image.shape, bool))
        pieces.insert(0 if generator.random() < 0.5 else len(pieces), piece)
    return Abdomen(
        np.concatenate([image for image, _ in pieces], axis=2),
        np.concatenate([mask for _, mask in pieces], axis=2).astype(np.uint8),
        abdomen.affine,
    )


def is_kidney(abdomen: Abdomen) -> NDArray[np.bool_]:
    """Voxels of either kidney."""
    values = [STRUCTURES["LeftKidney"], STRUCTURES["RightKidney"]]
    return np.isin(abdomen.label_map, values)


def same_slices(
    image: NDArray[np.int16], shape: Sequence[int], outside: int
) -> NDArray[np.int16]:
    """Slices cut or surrounded to the width and depth of another scan."""
    result = np.full((*shape[:2], image.shape[2]), outside, image.dtype)
    taken, put = [], []
    for length, wanted in zip(image.shape[:2], shape[:2], strict=True):
        common = min(length, wanted)
        taken.append(slice((length - common) // 2, (length + common) // 2))
        put.append(slice((wanted - common) // 2, (wanted + common) // 2))
    result[tuple(put)] = image[tuple(taken)]
    return result


# --------------------------------------------------------------------- real scans


def write_headneck(folder: Path) -> Path:
    """Planning CTs as they are, of whose outlines four are kept."""
    dataset = foveal.read_dataset(data_folder("headneck_ct"))
    values = {name: dataset.label_values[name] for name in HEADNECK}
    by_name = {case.name: case for case in dataset.labelled}
    rows = []
    for name in in_hashed_order(by_name):
        case = by_name[name]
        known = [s for s in HEADNECK if case.annotated is None or s in case.annotated]
        if known and len(rows) < NUM_TRAIN + NUM_HELD_OUT:
            label_map = nib.load(case.label_map)
            labels = np.asarray(label_map.dataobj).astype(np.uint8)
            labels[~np.isin(labels, list(values.values()))] = 0
            path = folder / "label_maps" / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(labels, label_map.affine), path)
            rows.append(
                row(
                    name,
                    case.channels[0].path,
                    path,
                    # The first in an order that has nothing to do with what they show.
                    is_train=len(rows) >= NUM_HELD_OUT,
                )
                | {"annotated_labels": known}
            )
    return write_rows(folder, "HeadNeck", dataset.channel_names, values, rows)


# ------------------------------------------------------------------------- tables


def written(
    folder: Path, name: str, abdomen: Abdomen, *, is_train: bool
) -> dict[str, Any]:
    """Write a scan and its label map; the row of the table."""
    paths = []
    for part, array in (("images", abdomen.image), ("label_maps", abdomen.label_map)):
        path = folder / part / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ascontiguousarray(array), abdomen.affine), path)
        paths.append(path)
    return row(name, *paths, is_train=is_train)


def row(name: str, image: Path, label_map: Path, *, is_train: bool) -> dict[str, Any]:
    """What a table says of a case."""
    return {
        "case": name,
        "channels": [image.resolve().as_posix()],
        "label_map": label_map.resolve().as_posix(),
        "split": "train" if is_train else "validation",
    }


def write_rows(
    folder: Path,
    name: str,
    channels: Iterable[str],
    labels: Mapping[str, int],
    rows: Sequence[Mapping[str, Any]],
) -> Path:
    """The table, written last: where it is, all is."""
    table = {
        "name": name,
        "channel_names": list(channels),
        "labels": dict(labels),
        "cases": rows,
    }
    path = folder / "data.toml"
    path.write_text(tomli_w.dumps(table))
    return path


PROBLEMS = {
    "kidneys": Problem(write_trunks, (5.0, 5.0, 5.5)),
    "headneck": Problem(write_headneck, (5.0, 5.0, 5.0)),
    "organs": Problem(write_abdomens, (4.0, 4.0, 5.0)),
}
"""Sparse: kidneys, headneck; dense: organs. Grids are coarse, as minutes allow."""
