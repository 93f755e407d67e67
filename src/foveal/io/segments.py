"""Segments of 3D Slicer's segmentations (``.seg.nrrd``).

The header names every segment (``Segment0_Name``), its number (``_LabelValue``) and,
where segments overlap, the component that holds it (``_Layer``). Slicer before 4.11
wrote one component per segment and neither number nor layer. The voxels may be a crop
of the image's.
https://github.com/Slicer/Slicer/blob/main/Libs/vtkSegmentationCore/README.md
"""

import re
from pathlib import Path

from foveal.case import StructureFile
from foveal.errors import CaseError, DatasetError
from foveal.io import itk
from foveal.io.volumes import read_grid

SEGMENT_NAME = re.compile(r"Segment(?P<number>\d+)_Name")


def read_segments(path: Path) -> tuple[StructureFile, ...]:
    """Read from the header where each segment of a ``.seg.nrrd`` file is, by name.

    Returns:
        In order of name. Empty if the header names no segments: a plain label map.

    Raises:
        CaseError: The file is missing or damaged.
        DatasetError: Two segments have one name, or a segment none.
    """
    num_layers = read_grid(path)[1]
    entries = itk.read_itk_entries(path)
    segments = [
        _segment(path, int(match["number"]), entries, num_layers)
        for match in map(SEGMENT_NAME.fullmatch, entries)
        if match
    ]
    names = [segment.structure for segment in segments]
    if "" in names or len(set(names)) != len(names):
        raise DatasetError(
            f"{path} has segments called {sorted(names)}; "
            "give every segment a name of its own in 3D Slicer"
        )
    return tuple(sorted(segments, key=lambda segment: segment.structure))


def chosen_segment(path: Path, structure: str) -> StructureFile:
    """The segment of a structure: the one of its name, or the only one.

    A file without segments is a mask.

    Raises:
        CaseError: The file is missing or damaged.
        DatasetError: No segment has the name of the structure.
    """
    segments = {segment.structure: segment for segment in read_segments(path)}
    if not segments:
        return StructureFile(structure, path)
    if structure not in segments and len(segments) > 1:
        raise DatasetError(
            f'{path} has no segment "{structure}", only {list(segments)}; '
            "rename the segment in 3D Slicer, or the structure"
        )
    segment = segments.get(structure, next(iter(segments.values())))
    return StructureFile(structure, path, segment.value, segment.layer)


def _segment(
    path: Path, number: int, entries: dict[str, str], num_layers: int
) -> StructureFile:
    value = entries.get(f"Segment{number}_LabelValue", "1").strip()
    layer = entries.get(f"Segment{number}_Layer", str(number)).strip()
    if not value.isdecimal() or not layer.isdecimal():
        raise CaseError(
            f'{path}: segment {number} has label value "{value}" and layer "{layer}", '
            "which must be numbers; save it again from 3D Slicer"
        )
    return StructureFile(
        entries[f"Segment{number}_Name"].strip(),
        path,
        int(value),
        int(layer) if num_layers > 1 else None,
    )
