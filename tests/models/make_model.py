"""Make the stored model of the present format version, from made-up data.

    python tests/models/make_model.py

To be run once when `foveal.ensembles.model_file.FORMAT_VERSION` is raised; the files of
earlier versions are never made again, as they stand for what users have kept.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import foveal
from foveal.case import Case
from foveal.ensembles.model_file import FORMAT_VERSION
from foveal.geometry import Grid

HERE = Path(__file__).resolve().parent
SHAPE = (18, 16, 14)


def main() -> None:
    """Train for some seconds, export, and keep what the model says of one case."""
    sys.path.insert(0, str(HERE.parent))
    from phantoms import ball_and_box, write_ball_and_box_dataset

    path = HERE / f"format_{FORMAT_VERSION}.foveal"
    if path.exists():
        raise SystemExit(f"{path} exists; a stored model is never replaced")
    with tempfile.TemporaryDirectory() as folder:
        run = foveal.train(
            write_ball_and_box_dataset(Path(folder) / "data", values=(7, 300)),
            Path(folder) / "run",
            steps=80,
            options=[
                "network.features=[4,8]",
                "network.kernels=[[3,3,3],[3,3,3]]",
                "network.strides=[[2,2,2]]",
                "patches.size=[16,16,16]",
                "patches.batch_size=2",
                "optimiser.learning_rate=1e-2",
                "training.precision=float32",
                "training.memory_layout=contiguous",
                "training.threads=1",
                "splits.folds=3",
                f"store={Path(folder) / 'store'}",
            ],
        )
        # What follows the network goes into the file too.
        (run / "postprocessing.toml").write_text(
            "[temperature]\nvalue = 1.25\n"
            '[[components]]\nstructures = ["ball"]\nsmallest_voxels = 20\n'
        )
        foveal.export(run, path)
    image, _ = ball_and_box(11, SHAPE)
    affine = np.diag([-1.5, 1.5, 2.0, 1.0])
    model = foveal.load_model(path, device="cpu")
    case = Case("stored", image[None].astype(np.float32), Grid(SHAPE, affine))
    rows = torch.cat(list(model.probabilities(case)), dim=1)
    np.savez_compressed(
        path.with_suffix(".npz"),
        image=case.image,
        affine=affine,
        probabilities=rows.numpy().astype(np.float16),
        label_map=model.predict(case),
    )


if __name__ == "__main__":
    main()
