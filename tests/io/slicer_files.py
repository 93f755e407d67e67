"""Segmentations as 3D Slicer writes them, header and all."""

import numpy as np


def write_segmentation(path, array, affine, segments, *, old=False):
    """Write a ``.seg.nrrd`` of one layer ``(i, j, k)`` or several ``(layer, i, j, k)``.

    Args:
        path: Of the file.
        array: Segment numbers.
        affine: Voxel index to millimetres, RAS+.
        segments: Name, label value and layer of each.
        old: As Slicer before 4.11: neither values nor layers are named.
    """
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    axes = [f"({','.join(str(x) for x in matrix[:3, axis])})" for axis in range(3)]
    layered = array.ndim == 4
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        "type: unsigned char",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {'none ' if layered else ''}{' '.join(axes)}",
        f"kinds: {'list ' if layered else ''}domain domain domain",
        "encoding: raw",
        f"space origin: ({','.join(str(x) for x in matrix[:3, 3])})",
    ]
    for number, (name, value, layer) in enumerate(segments):
        lines += [
            f"Segment{number}_Color:=0.5 0.7 0.3",
            f"Segment{number}_ID:=Segment_{number + 1}",
            f"Segment{number}_Name:={name}",
            f"Segment{number}_Tags:=Segmentation.Status:inprogress|",
        ]
        if not old:
            lines += [
                f"Segment{number}_LabelValue:={value}",
                f"Segment{number}_Layer:={layer}",
            ]
    lines += ["Segmentation_MasterRepresentation:=Binary labelmap", "", ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        "\n".join(lines).encode() + array.astype(np.uint8).tobytes(order="F")
    )
    return path
