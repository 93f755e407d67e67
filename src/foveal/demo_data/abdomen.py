"""Made-up CT of the upper abdomen, drawn from scratch with its label map.

Each case is a body of its own: size, fat, organs, a smooth deformation, contrast,
noise, voxel size and orientation differ. Organs are painted in order, later ones over
earlier ones, on a grid of twice the final resolution whose averages give the partial
volume of the borders. Coordinates are millimetres, RAS+, from the middle of the body at
the level of the kidneys. Sizes and HU follow a portal venous phase.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveal.errors import DatasetError

STRUCTURES = {"LeftKidney": 1, "RightKidney": 2, "Spleen": 3, "Aorta": 4}
"""Labelled structures and their values; the liver is left unlabelled on purpose."""

NUM_TEST_CASES = 2
"""Cases without a label in the data set; their references lie in ``labelsTs``."""

Point = Sequence[float] | NDArray[Any]
"""Three coordinates, or radii, in millimetres; or three angles."""

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice, slice]

_LARGEST_SHIFT_MM = 14.0
_LOWEST_HU, _HIGHEST_HU = -1024, 1500


@dataclass(frozen=True, eq=False)
class Abdomen:
    """One made-up scan."""

    image: NDArray[np.int16]
    """``(i, j, k)`` in HU."""

    label_map: NDArray[np.uint8]
    """Values of `STRUCTURES`, 0 elsewhere."""

    affine: NDArray[np.float64]
    """Voxel index to millimetres, RAS+."""


def write_abdomens(
    folder: Path,
    num_cases: int,
    seed: int,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write a data set in the layout of the Medical Segmentation Decathlon.

    Labelled cases go to ``imagesTr`` and ``labelsTr``, `NUM_TEST_CASES` further ones to
    ``imagesTs``; the references of the latter lie in ``labelsTs``, which
    ``dataset.json`` does not mention. The folder appears only when it is complete.

    Args:
        folder: To be made; its parent may be missing too.
        num_cases: Labelled ones.
        seed: The same seed gives the same bytes.
        on_progress: Called with (cases done, cases in all, case name).

    Returns:
        ``folder``.

    Raises:
        DatasetError: ``folder`` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(
            f"{folder} already exists; give a folder that is new or empty"
        )
    names = [f"abdomen_{index:03d}" for index in range(num_cases + NUM_TEST_CASES)]
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (partial / part).mkdir(parents=True)

    for index, name in enumerate(names):
        part = "Tr" if index < num_cases else "Ts"
        abdomen = draw_abdomen(np.random.default_rng([seed, index]))
        _write_nifti(partial / f"images{part}/{name}.nii.gz", abdomen.image, abdomen)
        _write_nifti(
            partial / f"labels{part}/{name}.nii.gz", abdomen.label_map, abdomen
        )
        if on_progress is not None:
            on_progress(index + 1, len(names), name)

    description = _dataset_json(names[:num_cases], names[num_cases:], seed)
    (partial / "dataset.json").write_text(
        json.dumps(description, indent=2) + "\n", encoding="utf-8", newline="\n"
    )
    if folder.exists():
        folder.rmdir()
    return partial.rename(folder)


def draw_abdomen(generator: np.random.Generator) -> Abdomen:
    """Draw one scan; every draw comes from ``generator``."""
    canvas = _Canvas(generator)
    _paint_body(canvas)
    _paint_bowel(canvas)
    _paint_stomach(canvas)
    _paint_liver(canvas)
    _paint_spleen(canvas)
    _paint_kidneys(canvas)
    _paint_back(canvas)
    _paint_chest(canvas)
    _paint_vessels(canvas)
    return _scan(canvas)


# ------------------------------------------------------------------------- canvas


class _Canvas:
    """Fine grid that organs are painted on, and the body they must fit into."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.half_width_mm = generator.uniform(148, 172)
        self.half_depth_mm = self.half_width_mm * generator.uniform(0.66, 0.74)
        self.fat_mm = generator.uniform(10, 24)
        self.enhancement = generator.uniform(0.85, 1.15)
        """Of vessels and organs by contrast medium; a factor of their HU."""

        in_plane_mm, slice_mm = generator.uniform(3.5, 4.2), generator.uniform(4.2, 5.6)
        self.spacing_mm = np.array([in_plane_mm, in_plane_mm, slice_mm])
        margins_mm = generator.uniform(8, 20, size=2)
        low = np.array(
            [
                -self.half_width_mm - margins_mm[0],
                -self.half_depth_mm - 34,  # room for the table
                -generator.uniform(108, 122),
            ]
        )
        high = np.array(
            [
                self.half_width_mm + margins_mm[0],
                self.half_depth_mm + margins_mm[1],
                generator.uniform(96, 112),
            ]
        )
        self.low = low
        self.shape = np.ceil((high - low) / self.spacing_mm).astype(int)
        """Voxels of the final grid."""

        axes = [
            (start + step * (np.arange(2 * length) + 0.5) / 2).astype(np.float32)
            for start, step, length in zip(
                low, self.spacing_mm, self.shape, strict=True
            )
        ]
        self.axes = axes
        shift = [
            np.clip(self.smooth_noise(70.0, 3.5), -_LARGEST_SHIFT_MM, _LARGEST_SHIFT_MM)
            for _ in range(3)
        ]
        self.x = axes[0][:, None, None] + shift[0]
        self.y = axes[1][None, :, None] + shift[1]
        self.z = axes[2][None, None, :] + shift[2]
        self.texture = self.smooth_noise(9.0, 1.0)
        self.hu = np.full(self.x.shape, -1000.0, dtype=np.float32)
        self.label_map = np.zeros(self.x.shape, dtype=np.uint8)
        self.cavity = np.zeros(self.x.shape, dtype=np.bool_)
        """Inside the muscle wall."""

        self.belly = self.cavity
        """The part of the cavity below the diaphragm."""

    def smooth_noise(self, spacing_mm: float, deviation: float) -> Field:
        """Random field whose control points lie ``spacing_mm`` apart."""
        extents = [float(axis[-1] - axis[0]) for axis in self.axes]
        counts = [max(math.ceil(extent / spacing_mm), 1) + 3 for extent in extents]
        field = self.generator.normal(scale=deviation, size=counts).astype(np.float32)
        for axis, count in zip(self.axes, counts, strict=True):
            weights = _spline_weights(len(axis), count)
            # The axis in front is consumed and its fine version put last, three times.
            field = np.tensordot(field, weights, axes=([0], [1]))
        return np.ascontiguousarray(field)

    def window(self, low: NDArray[Any], high: NDArray[Any]) -> Window:
        """Voxels that a box in millimetres may reach after the deformation."""
        i, j, k = (
            slice(
                int(np.searchsorted(axis, start - _LARGEST_SHIFT_MM)),
                int(np.searchsorted(axis, stop + _LARGEST_SHIFT_MM)),
            )
            for axis, start, stop in zip(self.axes, low, high, strict=True)
        )
        return i, j, k

    def ellipsoid(
        self, centre: Point, radii: Point, turn_degrees: Point = (0, 0, 0)
    ) -> tuple[Window, Field]:
        """Window around an ellipsoid, and there the `radius`."""
        # A turned ellipsoid stays within the sphere of its longest radius.
        reach = np.full(3, max(radii)) if any(turn_degrees) else np.array(radii)
        window = self.window(np.array(centre) - reach, np.array(centre) + reach)
        return window, self.radius(window, centre, radii, turn_degrees)

    def radius(
        self,
        window: Window,
        centre: Point,
        radii: Point,
        turn_degrees: Point = (0, 0, 0),
    ) -> Field:
        """Distance from the centre of an ellipsoid, 1 on its surface."""
        x, y, z = self._from(centre, window)
        scaled_axes = _rotation(turn_degrees) / np.array(radii)[:, None]
        squared = np.zeros(x.shape, dtype=np.float32)
        for a, b, c in scaled_axes.astype(np.float32):
            squared += (a * x + b * y + c * z) ** 2
        return np.sqrt(squared)

    def capsule(
        self, start: Point, end: Point, radius_mm: float
    ) -> tuple[Window, Field]:
        """Window around a line, and there the distance from it, 1 at ``radius_mm``."""
        ends = np.array([start, end])
        window = self.window(ends.min(0) - radius_mm, ends.max(0) + radius_mm)
        x, y, z = self._from(start, window)
        u, v, w = (ends[1] - ends[0]).astype(np.float32)
        along = np.clip((u * x + v * y + w * z) / (u * u + v * v + w * w), 0, 1)
        squared = (x - along * u) ** 2 + (y - along * v) ** 2 + (z - along * w) ** 2
        return window, np.sqrt(squared) / np.float32(radius_mm)

    def _from(self, point: Point, window: Window) -> tuple[Field, Field, Field]:
        a, b, c = (np.float32(coordinate) for coordinate in point)
        return self.x[window] - a, self.y[window] - b, self.z[window] - c

    def paint(
        self,
        window: Window,
        inside: Mask,
        hu: float,
        *,
        texture_hu: float = 5.0,
        structure: str | None = None,
    ) -> None:
        """Give the voxels of a window that are ``inside`` a tissue."""
        tissue = np.float32(hu) + np.float32(texture_hu) * self.texture[window]
        np.copyto(self.hu[window], tissue, where=inside)
        label = 0 if structure is None else STRUCTURES[structure]
        self.label_map[window][inside] = label

    def tube(
        self,
        points: Sequence[Point] | NDArray[Any],
        radius_mm: float,
        hu: float,
        *,
        texture_hu: float = 3.0,
        within: Mask | None = None,
        structure: str | None = None,
    ) -> None:
        """Paint a tube of constant width along ``points``."""
        for start, end in pairwise(points):
            window, radius = self.capsule(start, end, radius_mm)
            inside = radius <= 1
            if within is not None:
                inside &= within[window]
            self.paint(window, inside, hu, texture_hu=texture_hu, structure=structure)


def _spline_weights(length: int, count: int) -> Field:
    """Cubic B-spline weights of ``count`` control points, ``(length, count)``."""
    position = np.linspace(1, count - 2, length, dtype=np.float32)
    distance = np.abs(position[:, None] - np.arange(count, dtype=np.float32))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)


def _rotation(turn_degrees: Point) -> NDArray[np.float64]:
    """Turns about x, then y, then z, as a matrix from the world to the turned axes."""
    matrix = np.eye(3)
    for axis, degrees in enumerate(turn_degrees):
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = np.eye(3)
        first, second = [other for other in range(3) if other != axis]
        turn[first, first] = turn[second, second] = cosine
        turn[first, second], turn[second, first] = sine, -sine
        matrix = turn @ matrix
    return matrix


# ------------------------------------------------------------------------- organs


def _paint_body(canvas: _Canvas) -> None:
    """Table, skin, fat, muscle wall and the fat inside it; sets the cavity."""
    everywhere = (slice(None),) * 3
    x, y, z = canvas.x, canvas.y, canvas.z
    width, depth, fat = canvas.half_width_mm, canvas.half_depth_mm, canvas.fat_mm

    flat_x, flat_y = canvas.axes[0][:, None], canvas.axes[1][None, :]
    table_depth = flat_y + depth + 12 - 0.0011 * flat_x**2
    on_table = (np.abs(flat_x) < 0.86 * width) & (table_depth < 0)
    shell = on_table & (table_depth > -4)
    canvas.hu[shell | (on_table & (table_depth < -13) & (table_depth > -17))] = -120
    canvas.hu[on_table & (table_depth <= -4) & (table_depth >= -13)] = -880

    # The waist is a little narrower, and the body less round than an ellipse.
    waist = 1 - 0.05 * np.exp(-(((z + 50) / 60) ** 2))
    skin = _outline_level(x / (width * waist), y / (depth * waist))
    canvas.paint(everywhere, skin <= 1, -20, texture_hu=10)
    canvas.paint(everywhere, skin <= 0.95, -104, texture_hu=7)

    wall_width, wall_depth = width * waist - fat, depth * waist - 0.8 * fat
    wall = _outline_level(x / wall_width, (y - 0.2 * fat) / wall_depth)
    canvas.paint(everywhere, wall <= 1, 52, texture_hu=9)
    # Fat planes between the layers of the flank.
    layers = (np.abs(wall - 0.87) < 0.015) & (np.abs(y) < 0.6 * depth) & (z < 10)
    canvas.paint(everywhere, layers, -60)
    cavity = _outline_level(x / (wall_width - 14), (y - 5) / (wall_depth - 13))
    canvas.cavity = cavity <= 1
    canvas.paint(everywhere, canvas.cavity, -98, texture_hu=10)

    dome_mm = 92 - (42 - 0.28 * y) * cavity**2 - 14 * np.exp(-((x / 28) ** 2))
    canvas.belly = canvas.cavity & (z < dome_mm)
    canvas.paint(everywhere, canvas.cavity & ~canvas.belly, 50)
    lung = canvas.cavity & (z > dome_mm + 4)
    canvas.paint(everywhere, lung, -845, texture_hu=28)


def _outline_level(x: Field, y: Field) -> Field:
    """Below 1 inside a body outline of unit size, squarer than an ellipse."""
    x, y = np.abs(x), np.abs(y)
    return x * x * np.sqrt(x) + y * y * np.sqrt(y)


def _paint_bowel(canvas: _Canvas) -> None:
    """Loops of small bowel in front, the colon as a frame around them."""
    generator = canvas.generator
    width, depth = canvas.half_width_mm / 160, canvas.half_depth_mm / 112
    for _ in range(60):
        low, high = (-84 * width, -14 * depth, -130), (84 * width, 76 * depth, 0)
        start = generator.uniform(low, high)
        end = start + generator.normal(scale=(18, 12, 12))
        radius_mm = generator.uniform(9, 14)
        _paint_loop(canvas, start, end, radius_mm, gas_probability=0.3)

    frame = np.array(
        [
            *((104, -22, -128), (108, -18, -70), (100, -8, -22), (70, 52, -20)),
            *((20, 72, -34), (-40, 66, -22), (-92, 22, 14), (-104, -26, -8)),
            *((-110, -32, -70), (-106, -30, -128)),
        ]
    ) * (width, depth, 1)
    frame += generator.normal(scale=4, size=frame.shape)
    for start, end in pairwise(frame):
        # Haustra: short segments that differ in width.
        cuts = np.linspace(start, end, 4)
        for first, second in pairwise(cuts):
            radius_mm = generator.uniform(14, 20)
            window, radius = canvas.capsule(first, second, radius_mm)
            inside = canvas.belly[window] & (radius <= 1)
            canvas.paint(window, inside, 62)
            lumen = inside & (radius <= 0.86)
            canvas.paint(window, lumen, 5, texture_hu=60)
            level_mm = (first[1] + second[1]) / 2 + radius_mm * generator.uniform(0, 1)
            canvas.paint(window, lumen & (canvas.y[window] > level_mm), -950)


def _paint_loop(
    canvas: _Canvas,
    start: Point,
    end: Point,
    radius_mm: float,
    *,
    gas_probability: float,
) -> None:
    """A loop of bowel: wall, fluid, and sometimes gas, which rises to the front."""
    generator = canvas.generator
    window, radius = canvas.capsule(start, end, radius_mm)
    inside = canvas.belly[window] & (radius <= 1)
    canvas.paint(window, inside, 88)
    lumen = inside & (radius <= 0.74)
    canvas.paint(window, lumen, generator.uniform(8, 55), texture_hu=14)
    if generator.random() < gas_probability:
        level_mm = (start[1] + end[1]) / 2 + 0.3 * radius_mm
        canvas.paint(window, lumen & (canvas.y[window] > level_mm), -930)


def _paint_stomach(canvas: _Canvas) -> None:
    """Stomach with gas above fluid, duodenum and pancreas."""
    generator = canvas.generator
    scale = canvas.half_width_mm / 160
    centre = (-50 * scale, 20 * scale, 50 + generator.uniform(-8, 8))
    radii = (40 * scale, 47 * scale, 50)
    window, radius = canvas.ellipsoid(centre, radii, (0, 25, -20))
    inside = canvas.belly[window] & (radius <= 1)
    canvas.paint(window, inside, 78)
    lumen = inside & (radius <= 0.87)
    canvas.paint(window, lumen, generator.uniform(10, 60), texture_hu=16)
    level_mm = centre[1] + radii[1] * generator.uniform(0.15, 0.6)
    canvas.paint(window, lumen & (canvas.y[window] > level_mm), -950)

    duodenum = np.array(
        [(-24, 44, 22), (8, 46, 8), (34, 30, 2), (40, 2, -12), (22, -2, -34)]
    )
    for start, end in pairwise(duodenum):
        _paint_loop(canvas, start * scale, end * scale, 13, gas_probability=0.2)
    pancreas = np.array(
        [(28, 12, -6), (12, 16, 6), (-12, 14, 14), (-42, 0, 24), (-70, -14, 34)]
    )
    radius_mm = generator.uniform(9, 12)
    canvas.tube(pancreas * scale, radius_mm, 98, texture_hu=16, within=canvas.belly)


def _paint_liver(canvas: _Canvas) -> None:
    """Right and left lobe under the diaphragm with their veins, and the gallbladder."""
    generator = canvas.generator
    scale = canvas.half_width_mm / 160
    size = generator.uniform(0.92, 1.08)
    right = np.array([70 * scale, 6 * scale, 38 + generator.uniform(-6, 6)])
    lobes: list[tuple[Point, Point, Point]] = [
        (right, (78 * scale * size, 84 * scale, 70 * size), (0, 18, 8)),
        ((6 * scale, 54 * scale, 54), (64 * scale, 32 * size, 34 * size), (0, -14, 0)),
    ]
    liver = np.zeros(canvas.hu.shape, dtype=np.bool_)
    for centre, radii, turn_degrees in lobes:
        window, radius = canvas.ellipsoid(centre, radii, turn_degrees)
        liver[window] |= canvas.belly[window] & (radius <= 1)
    # The visceral face is hollow where duodenum, kidney and colon press on it.
    hollow_centre = (8 * scale, -24 * scale, -8)
    window, radius = canvas.ellipsoid(hollow_centre, (62 * scale, 50 * scale, 62))
    liver[window] &= radius > 1
    canvas.paint((slice(None),) * 3, liver, 108 * canvas.enhancement)

    vein_hu = 158 * canvas.enhancement
    hilum = np.array([30 * scale, 24 * scale, 34])
    for _ in range(9):
        tip = right + generator.normal(scale=(34, 36, 26))
        bend = (hilum + tip) / 2 + generator.normal(scale=9, size=3)
        canvas.tube([hilum, bend], 5, vein_hu, within=liver)
        canvas.tube([bend, tip], 3.8, vein_hu, within=liver)
        canvas.tube([tip, 1.5 * tip - 0.5 * bend], 2.8, vein_hu, within=liver)

    gallbladder = (50 * scale, 44 * scale, 2)
    window, radius = canvas.ellipsoid(gallbladder, (14, 17, 23), (30, 0, 20))
    inside = canvas.belly[window] & (radius <= 1)
    canvas.paint(window, inside, 55)
    canvas.paint(window, inside & (radius <= 0.9), 8)


def _paint_spleen(canvas: _Canvas) -> None:
    """A crescent against the left back wall, hollow towards stomach and kidney."""
    generator = canvas.generator
    scale = canvas.half_width_mm / 160
    size = generator.uniform(0.88, 1.15)
    centre = np.array([-100 * scale, -26 * scale, 40 + generator.uniform(-8, 8)])
    turn_degrees = (generator.uniform(-20, 5), 12, generator.uniform(-24, -8))
    radii = np.multiply((34, 56, 52), size)
    window, radius = canvas.ellipsoid(centre, radii, turn_degrees)
    hollow_centre = centre + np.array([38 * size, 10, -2])
    hollow = canvas.radius(window, hollow_centre, (24, 36, 50), turn_degrees)
    inside = canvas.belly[window] & (radius <= 1) & (hollow > 1)
    canvas.paint(window, inside, 122 * canvas.enhancement, structure="Spleen")


def _paint_kidneys(canvas: _Canvas) -> None:
    """Two kidneys in their fat: cortex, medulla, sinus, vein and ureter."""
    generator = canvas.generator
    scale = canvas.half_width_mm / 160
    # World x runs to the right: the right kidney lies at positive x, a little lower.
    for structure, side, height_mm in (
        ("RightKidney", 1, -22),
        ("LeftKidney", -1, -8),
    ):
        size = generator.uniform(0.9, 1.12)
        centre = np.array([side * 64 * scale, -40 * scale, height_mm])
        centre += generator.uniform((-4, -4, -8), (4, 4, 8))
        radii = np.multiply((26, 30, 54), size)
        turn_degrees = (
            generator.uniform(5, 14),
            -side * generator.uniform(8, 16),
            side * generator.uniform(18, 34),
        )
        window, radius = canvas.ellipsoid(centre, radii + 5, turn_degrees)
        canvas.paint(window, canvas.belly[window] & (radius <= 1), -102)

        hilum = centre + np.array([-side * 18, 9, 0])
        sinus = canvas.radius(window, hilum, (18, 10, 24 * size), turn_degrees)
        radius = canvas.radius(window, centre, radii, turn_degrees)
        kidney = canvas.belly[window] & (radius <= 1) & (sinus > 1)
        cortex_hu = generator.uniform(165, 190) * canvas.enhancement
        canvas.paint(window, kidney, cortex_hu, structure=structure)
        pyramids = kidney & (radius < 0.76) & (canvas.texture[window] < 0.4)
        medulla_hu = cortex_hu - generator.uniform(10, 45)
        canvas.paint(window, pyramids, medulla_hu, structure=structure)

        cava = (14, -20 * scale, centre[2] + 8)
        canvas.tube([hilum, cava], 4.5, 160 * canvas.enhancement)
        canvas.tube([hilum, hilum + np.array([-side * 8, -4, -95])], 2.5, 45)


def _paint_back(canvas: _Canvas) -> None:
    """Psoas and back muscles, vertebrae, discs, spinal canal and iliac wings."""
    depth = canvas.half_depth_mm
    spine_y = -0.42 * depth
    for side in (1, -1):
        psoas = [
            (side * 26, spine_y + 2, 15),
            (side * 36, spine_y + 6, -60),
            (side * 46, spine_y + 14, -150),
        ]
        canvas.tube(psoas[:2], 13, 60, texture_hu=8)
        canvas.tube(psoas[1:], 19, 60, texture_hu=8)
        for x, radius_mm in ((18, 17), (36, 19), (50, 15)):
            back = [(side * x, 17 - depth + radius_mm, z) for z in (-170, 170)]
            canvas.tube(back, radius_mm, 55, texture_hu=12)

    window = canvas.window(np.array([-44, -depth, -170]), np.array([44, 0, 170]))
    x, y, z = canvas.x[window], canvas.y[window] - spine_y, canvas.z[window]
    phase_mm = (z + canvas.generator.uniform(0, 34)) % 34
    body = np.sqrt((x / 22) ** 2 + ((y + 1) / 17) ** 2)
    disc = phase_mm < 8
    canvas.paint(window, body <= 1, 85, texture_hu=8)
    canvas.paint(window, (body <= 1) & ~disc, 420, texture_hu=40)
    spongy = (phase_mm > 10) & (phase_mm < 32)
    canvas.paint(window, (body <= 0.9) & spongy, 200, texture_hu=45)

    arch = np.sqrt((x / 16) ** 2 + ((y + 26) / 13) ** 2)
    spinous = (np.abs(x) < 4.5) & (y < -32) & (y > -50)
    transverse = (np.abs(x) < 40) & (np.abs(y + 24 + 0.15 * np.abs(x)) < 5)
    low_half, middle = phase_mm < 20, (phase_mm > 18) & (phase_mm < 28)
    bone = (arch <= 1) | (spinous & low_half) | (transverse & middle)
    canvas.paint(window, bone & (body > 1), 380, texture_hu=60)
    canvas.paint(window, arch <= 0.62, 25)

    for side in (1, -1):
        centre = (side * 66, -0.30 * depth, -158)
        window, radius = canvas.ellipsoid(centre, (56, 62, 68), (0, 0, side * 25))
        shell = (radius > 0.88) & (radius <= 1) & (canvas.y[window] < 0.25 * depth)
        wing = shell & (side * canvas.x[window] > 38)
        canvas.paint(window, wing, 480, texture_hu=50)
        canvas.paint(window, wing & (radius > 0.91) & (radius < 0.97), 220)


def _paint_chest(canvas: _Canvas) -> None:
    """Ribs, which slope down to the front in the wall, and the heart's underside."""
    width = canvas.half_width_mm - canvas.fat_mm - 8
    depth = canvas.half_depth_mm - 0.8 * canvas.fat_mm - 8
    x, y, z = canvas.x, canvas.y, canvas.z
    level = (x / width) ** 2 + ((y - 3) / depth) ** 2
    height_mm = z + 0.42 * (y + depth)
    spacing_mm = 27
    phase_mm = (height_mm + canvas.generator.uniform(0, spacing_mm)) % spacing_mm
    in_rib = (np.abs(phase_mm - 7) < 6) & (height_mm > -8) & (np.abs(x) > 26)
    # The lowest ribs end in the flank, higher ones reach further to the front.
    in_rib &= y < np.clip(-30 + 1.3 * (height_mm + 8), -60, 75)
    rib = in_rib & (np.abs(level - 1) < 0.08)
    everywhere = (slice(None),) * 3
    canvas.paint(everywhere, rib, 430, texture_hu=60)
    marrow = rib & (np.abs(level - 1) < 0.035) & (np.abs(phase_mm - 7) < 3)
    canvas.paint(everywhere, marrow, 170, texture_hu=30)

    window, radius = canvas.ellipsoid((-22, 42, 132), (62, 46, 46), (0, 15, 20))
    heart = canvas.cavity[window] & ~canvas.belly[window] & (radius <= 1)
    canvas.paint(window, heart, 125 * canvas.enhancement)


def _paint_vessels(canvas: _Canvas) -> None:
    """Aorta down to its bifurcation, iliac arteries, vena cava and visceral vessels."""
    generator = canvas.generator
    scale = canvas.half_depth_mm / 112
    front_of_spine = -0.42 * canvas.half_depth_mm + 28
    hu = 172 * canvas.enhancement
    radius_mm = generator.uniform(10.5, 13)
    heights_mm = np.linspace(150, generator.uniform(-112, -98), 7)
    bends_mm = generator.normal(scale=3, size=(7, 2))
    aorta = [
        (-10 + bend_x, front_of_spine + 1 + bend_y - 8 * (height > 90), height)
        for height, (bend_x, bend_y) in zip(heights_mm, bends_mm, strict=True)
    ]
    canvas.tube(
        [(18, front_of_spine + 2, -110), (20, front_of_spine + 6, 20)], 11, 0.88 * hu
    )
    canvas.tube(
        [(20, front_of_spine + 6, 20), (24, front_of_spine + 22, 92)], 12, 0.88 * hu
    )
    for side in (1, -1):
        iliac = [aorta[-1], (side * 34 - 4, front_of_spine + 2, -165)]
        canvas.tube(iliac, 6.5, hu)
        vein = [(18, front_of_spine + 2, -110), (side * 40, front_of_spine - 4, -165)]
        canvas.tube(vein, 7, 0.88 * hu)
    canvas.tube(aorta, radius_mm, hu, structure="Aorta")

    superior_mesenteric = [
        (-8, front_of_spine + 14, 12),
        (-6, front_of_spine + 28, -4),
        (2, front_of_spine + 32, -70),
    ]
    canvas.tube(superior_mesenteric, 4.5, hu)
    portal = [(10, 14 * scale, -60), (10, 16 * scale, 4), (30, 24 * scale, 34)]
    canvas.tube(portal, 6.5, 0.95 * hu)
    splenic = [(10, 14 * scale, 6), (-36, 2 * scale, 22), (-82, -22 * scale, 38)]
    canvas.tube(splenic, 4.5, 0.95 * hu, within=canvas.label_map == 0)
    for _ in range(16):
        root = np.array([4, 24 * scale, generator.uniform(-80, -10)])
        tip = root + generator.normal(scale=(38, 16, 28))
        canvas.tube([root, tip], 2.4, 0.7 * hu, within=canvas.hu < -60)


# --------------------------------------------------------------------- acquisition


def _scan(canvas: _Canvas) -> Abdomen:
    """Average the fine grid, add noise, and store in an orientation drawn per case."""
    generator = canvas.generator
    image = _halved(canvas.hu)
    # The slice profile reaches a little beyond the slice.
    image = ndimage.gaussian_filter(image, (0.3, 0.3, 0.35), truncate=3)
    image += _noise(generator, image)
    image = np.clip(np.rint(image), _LOWEST_HU, _HIGHEST_HU).astype(np.int16)

    label_map = np.zeros(image.shape, dtype=np.uint8)
    for value in STRUCTURES.values():
        label_map[_halved(canvas.label_map == value) >= 0.5] = value

    affine = np.diag([*canvas.spacing_mm, 1.0])
    affine[:3, 3] = canvas.low + canvas.spacing_mm / 2
    # Scanners write LPS, research files are often RAS; both must come out alike.
    if generator.random() < 0.5:
        image, label_map = image[::-1, ::-1], label_map[::-1, ::-1]
        affine[:2, 3] += (np.array(image.shape[:2]) - 1) * canvas.spacing_mm[:2]
        affine[:2, :2] *= -1
    return Abdomen(np.ascontiguousarray(image), np.ascontiguousarray(label_map), affine)


def _halved(array: NDArray[Any]) -> Field:
    """Means of blocks of 2 x 2 x 2 voxels."""
    i, j, k = (length // 2 for length in array.shape)
    return array.reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5), dtype=np.float32)


def _noise(generator: np.random.Generator, image: Field) -> Field:
    """Grainy noise, stronger where the rays have crossed more of the body."""
    grain = generator.normal(size=image.shape).astype(np.float32)
    grain = ndimage.gaussian_filter(grain, (0.6, 0.6, 0.3), truncate=3)
    grain /= grain.std()
    density = np.clip((image + 1000) / 1000, 0, 2)
    crossed = ndimage.uniform_filter(density, (41, 31, 1), mode="constant")
    # Counts fall with what was crossed, and their relative noise is Poisson's.
    deviation_hu = generator.uniform(9, 15) * np.sqrt(0.2 + crossed)
    return grain * deviation_hu.astype(np.float32)


# --------------------------------------------------------------------------- files


def _write_nifti(path: Path, array: NDArray[Any], abdomen: Abdomen) -> None:
    image = nib.Nifti1Image(array, abdomen.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(abdomen.affine, code="scanner")
    image.set_sform(abdomen.affine, code="scanner")
    nib.save(image, path)


def _dataset_json(
    training: Sequence[str], test: Sequence[str], seed: int
) -> dict[str, Any]:
    names = {str(value): name for name, value in STRUCTURES.items()}
    return {
        "name": "MadeUpAbdomen",
        "description": f"Made-up abdominal CT from Foveal, seed {seed}; no patient",
        "licence": "Apache-2.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **names},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [
            {
                "image": f"./imagesTr/{name}.nii.gz",
                "label": f"./labelsTr/{name}.nii.gz",
            }
            for name in training
        ],
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }
