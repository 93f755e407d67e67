"""Made-up CT scans and a run that was never trained, to time prediction with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from foveal import building
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.checkpoints import save_checkpoint
from foveal.settings_files import to_toml


def write_scan(
    path: Path, shape: Sequence[int], spacing_mm: Sequence[float], seed: int
) -> None:
    """Noise with some structure, in HU.

    Args:
        path: NIfTI file.
        shape: Voxels per axis, multiples of 8.
        spacing_mm: Of the voxels.
        seed: Of the noise.
    """
    generator = np.random.default_rng(seed)
    coarse = generator.normal(0, 300, [length // 8 for length in shape])
    image = np.kron(coarse, np.ones((8, 8, 8))).astype(np.int16)
    image += generator.integers(-20, 20, shape, dtype=np.int16)
    nib.save(nib.Nifti1Image(image, np.diag([*spacing_mm, 1.0])), path)


def write_run(
    run: Path,
    *,
    structures: Sequence[str],
    spacing_mm: Sequence[float],
    patch_size: Sequence[int],
    network: Mapping[str, Any],
    precision: str,
    memory_layout: str,
) -> None:
    """A run with fresh weights, as training would leave it.

    Args:
        run: Folder, made if absent.
        structures: Valued 1, 2, … in order.
        spacing_mm: Of the plan.
        patch_size: In voxels.
        network: Options of the U-Net; empty: the defaults.
        precision: Of the prediction.
        memory_layout: Likewise.
    """
    plan = Plan.model_validate(
        {
            "dataset_name": "made up",
            "labels": {"names": structures, "values": range(1, len(structures) + 1)},
            "preprocessing": {
                "spacing_mm": spacing_mm,
                "channels": [
                    {
                        "name": "CT",
                        "normalisation": "ct",
                        "clip": (-1000, 1000),
                        "mean": 0,
                        "deviation": 300,
                    }
                ],
            },
            "patches": {"size": patch_size, "batch_size": 2},
            "network": network,
        }
    )
    settings = Settings.model_validate(
        {"training": {"precision": precision, "memory_layout": memory_layout}}
    )
    run.mkdir(parents=True, exist_ok=True)
    (run / "plan.toml").write_text(to_toml(plan))
    (run / "settings.toml").write_text(to_toml(settings))
    torch.manual_seed(0)
    weights = building.planned_network(plan).state_dict()
    save_checkpoint(
        run / "checkpoints",
        "best",
        {f"predictor.{name}": tensor for name, tensor in weights.items()},
        {"step": 0},
    )
