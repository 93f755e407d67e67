"""Sliding windows beside nnU-Net's and MONAI's, and 118 classes in 4 GB.

The same weights (a plain U-Net with 32, 64, 128, 256 and 320 features, instance norm,
strided convolutions), patch, overlap of one half, Gaussian weights, no mirroring, CPU
and number of threads; each in a process and an environment of its own, in turn, so that
a machine that slows down slows all of them. A network of the same layers in plain
PyTorch carries the weights into the other two; that it says the same is checked.

    python -m venv nnunet && nnunet/bin/pip install "nnunetv2==2.8.*"
    python -m venv monai && monai/bin/pip install "monai==1.6.*"
    python benchmarks/inference.py --out work --nnunet-python nnunet/bin/python \
        --monai-python monai/bin/python

Without the other environments only Foveal is timed. ``--classes 118`` instead predicts
118 classes on 512 x 512 x 400 voxels with a small network and ``--memory``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FEATURES = (32, 64, 128, 256, 320)
PATCH = (64, 64, 64)
SHAPE = (160, 160, 128)
NUM_CLASSES = 3
WEIGHTS = "weights.pt"
IMAGE = "image.pt"


class PlainUNet(nn.Module):
    """The layers of Foveal's U-Net, one after another, without anything of Foveal."""

    def __init__(self) -> None:
        super().__init__()
        levels = range(len(FEATURES))
        self.encoder = nn.ModuleList(
            _stage(
                FEATURES[level - 1] if level else 1, FEATURES[level], 2 if level else 1
            )
            for level in levels
        )
        upwards = list(levels)[-2::-1]
        self.upsampling = nn.ModuleList(
            nn.ConvTranspose3d(FEATURES[level + 1], FEATURES[level], 2, stride=2)
            for level in upwards
        )
        self.decoder = nn.ModuleList(
            _stage(2 * FEATURES[level], FEATURES[level], 1) for level in upwards
        )
        self.classifiers = nn.ModuleList([nn.Conv3d(FEATURES[0], NUM_CLASSES, 1)])

    def forward(self, image: Tensor) -> Tensor:
        """Logits on the image's grid."""
        skips = []
        features = image
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)
        for upsample, stage, skip in zip(
            self.upsampling, self.decoder, skips[-2::-1], strict=True
        ):
            features = stage(torch.cat([upsample(features), skip], dim=1))
        return self.classifiers[0](features)


def _stage(in_channels: int, features: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _block(in_channels, features, stride), _block(features, features, 1)
    )


def _block(in_channels: int, features: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(in_channels, features, 3, stride=stride, padding=1, bias=False),
        nn.InstanceNorm3d(features, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


def main() -> None:
    """Run all in turn and print seconds, gigabytes and agreement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nnunet-python", type=Path)
    parser.add_argument("--monai-python", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1, help="tiles at once")
    parser.add_argument(
        "--precision", default="bfloat16", help="of Foveal; the others have none"
    )
    parser.add_argument("--classes", type=int, help="predict many classes instead")
    parser.add_argument("--memory", default="4G", help="with --classes")
    parser.add_argument("--inner", choices=[*PREDICTORS])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.inner:
        print("RESULT " + json.dumps(timed(PREDICTORS[arguments.inner], arguments)))
    elif arguments.classes:
        many_classes(arguments)
    else:
        side_by_side(arguments)


def side_by_side(arguments: argparse.Namespace) -> None:
    """All predictors in turn on one image with the same weights."""
    prepare(arguments)
    pythons = {"foveal": Path(sys.executable)}
    if arguments.nnunet_python:
        pythons["nnunet"] = arguments.nnunet_python
    if arguments.monai_python:
        pythons["monai"] = arguments.monai_python
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    for turn in range(arguments.turns):
        for name, python in pythons.items():
            found[name].append(run_inner(name, python, arguments))
            print(f"turn {turn}, {name}: {found[name][-1]}", flush=True)
    fastest = min(one["seconds"] for one in found["foveal"])
    reference = decided(arguments.out / "float32.pt")
    for name, results in found.items():
        seconds = min(one["seconds"] for one in results)
        peak = min(one["peak_gb"] for one in results)
        labels = decided(arguments.out / f"{name}.pt")
        print(
            f"{name}: {seconds:.1f} s ({seconds / fastest:.2f} times Foveal's), peak "
            f"{peak:.2f} GB, {peak - results[0]['before_gb']:.2f} GB of them for the "
            f"volume, Dice with float32 {mean_dice(labels, reference):.4f}"
        )


def prepare(arguments: argparse.Namespace) -> None:
    """Weights, an image, and what the network says of it in float32, once."""
    import foveal

    torch.manual_seed(0)
    network = foveal.network(
        "unet3d",
        in_channels=1,
        num_classes=NUM_CLASSES,
        features=list(FEATURES),
        kernels=[[3, 3, 3]] * len(FEATURES),
        strides=[[2, 2, 2]] * (len(FEATURES) - 1),
    ).eval()
    torch.save(network.state_dict(), arguments.out / WEIGHTS)
    plain = PlainUNet().eval()
    plain.load_state_dict(network.state_dict())
    patch = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(patch), network(patch).logits, rtol=1e-3, atol=1e-3
        )
    coarse = torch.randn(1, 1, *(length // 8 for length in SHAPE))
    smooth = nn.functional.interpolate(coarse, SHAPE, mode="trilinear")[0]
    torch.save(smooth + 0.1 * torch.randn(1, *SHAPE), arguments.out / IMAGE)
    if not (arguments.out / "float32.pt").exists():
        exact = argparse.Namespace(**{**vars(arguments), "precision": "float32"})
        torch.set_num_threads(arguments.threads)
        save_decided(predict_with_foveal(exact), arguments.out / "float32.pt")


def run_inner(name: str, python: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one of them in a fresh process."""
    words = ["--inner", name, "--out", str(arguments.out)]
    words += ["--threads", str(arguments.threads)]
    words += ["--batch-size", str(arguments.batch_size)]
    words += ["--precision", arguments.precision]
    folders = {
        name: str(arguments.out.resolve())
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    answer = subprocess.run(
        [str(python), __file__, *words],
        env={**os.environ, **folders},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = answer.stdout.splitlines()
    found = next(line for line in lines if line.startswith("RESULT "))
    return json.loads(found.removeprefix("RESULT "))


def timed(
    predict: Callable[[argparse.Namespace], Tensor], arguments: argparse.Namespace
) -> dict[str, float]:
    """Seconds and peak memory of one prediction, its libraries loaded before."""
    torch.set_num_threads(arguments.threads)
    seconds: list[float] = []
    before: list[float] = []
    logits = predict(
        argparse.Namespace(**vars(arguments), seconds=seconds, before=before)
    )
    peak = peak_gb()
    save_decided(logits, arguments.out / f"{arguments.inner}.pt")
    return {
        "seconds": seconds[0],
        "peak_gb": peak,
        "before_gb": before[0],
    }


def peak_gb() -> float:
    """The most memory that this program has held (Linux).

    Not what `resource` tells: that begins with the memory of the program which started
    this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def begin(arguments: argparse.Namespace) -> float:
    """Note the memory taken so far, and the time."""
    if hasattr(arguments, "before"):
        arguments.before.append(peak_gb())
    return time.perf_counter()


def end(arguments: argparse.Namespace, start: float) -> None:
    """Note the seconds since."""
    if hasattr(arguments, "seconds"):
        arguments.seconds.append(time.perf_counter() - start)


def predict_with_foveal(arguments: argparse.Namespace) -> Tensor:
    """Logits by `stream_logits`, as `foveal predict` has them."""
    import foveal
    from foveal.inference.numerics import Numerics, apply_layout
    from foveal.inference.predict import patch_function, stream_logits
    from foveal.inference.tiling import OverlappingTiles

    network = foveal.network(
        "unet3d",
        in_channels=1,
        num_classes=NUM_CLASSES,
        features=list(FEATURES),
        kernels=[[3, 3, 3]] * len(FEATURES),
        strides=[[2, 2, 2]] * (len(FEATURES) - 1),
    ).eval()
    network.load_state_dict(torch.load(arguments.out / WEIGHTS, weights_only=True))
    numerics = Numerics(arguments.precision, "channels_last")
    apply_layout(network, numerics.memory_layout)
    image = torch.load(arguments.out / IMAGE, weights_only=True)
    function = patch_function(network, numerics, torch.device("cpu"))
    tiles = OverlappingTiles(PATCH, 0.5, arguments.batch_size)
    start = begin(arguments)
    logits = torch.cat(list(stream_logits(function, image, tiles, NUM_CLASSES)), dim=1)
    end(arguments, start)
    return logits


def predict_with_monai(arguments: argparse.Namespace) -> Tensor:
    """Logits by MONAI's sliding window with Gaussian weights."""
    from monai.inferers import sliding_window_inference

    network = PlainUNet().eval()
    network.load_state_dict(torch.load(arguments.out / WEIGHTS, weights_only=True))
    image = torch.load(arguments.out / IMAGE, weights_only=True)
    start = begin(arguments)
    with torch.inference_mode():
        logits = sliding_window_inference(
            image[None],
            PATCH,
            arguments.batch_size,
            network,
            overlap=0.5,
            mode="gaussian",
        )
    end(arguments, start)
    return logits[0]


def predict_with_nnunet(arguments: argparse.Namespace) -> Tensor:
    """Logits by nnU-Net's predictor, which takes one tile at a time."""
    from types import SimpleNamespace

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network = PlainUNet().eval()
    network.load_state_dict(torch.load(arguments.out / WEIGHTS, weights_only=True))
    image = torch.load(arguments.out / IMAGE, weights_only=True)
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    # What it looks at of a trained model.
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=PATCH)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=NUM_CLASSES)
    start = begin(arguments)
    logits = predictor.predict_sliding_window_return_logits(image)
    end(arguments, start)
    return torch.as_tensor(logits)


PREDICTORS = {
    "foveal": predict_with_foveal,
    "monai": predict_with_monai,
    "nnunet": predict_with_nnunet,
}


def save_decided(logits: Tensor, path: Path) -> None:
    """Keep the most probable class of every voxel."""
    torch.save(logits.float().argmax(dim=0).to(torch.uint8), path)


def decided(path: Path) -> Tensor:
    """What `save_decided` kept."""
    return torch.load(path, weights_only=True)


def mean_dice(labels: Tensor, reference: Tensor) -> float:
    """Over all classes, background too, as the weights mean nothing."""
    values = []
    for number in range(NUM_CLASSES):
        found, expected = labels == number, reference == number
        common = 2 * int((found & expected).sum())
        values.append(common / (int(found.sum()) + int(expected.sum())))
    return sum(values) / len(values)


def many_classes(arguments: argparse.Namespace) -> None:
    """Predict many classes at full size with a small network, in a stated memory."""
    from made_up_ct import write_run, write_scan
    from trainings import measured

    spacing_mm = (0.8, 0.8, 1.0)
    scan, run = arguments.out / "scan.nii.gz", arguments.out / "run"
    if not scan.exists():
        write_scan(scan, (512, 512, 400), spacing_mm, seed=0)
    write_run(
        run,
        structures=tuple(f"organ_{n}" for n in range(1, arguments.classes)),
        spacing_mm=spacing_mm,
        patch_size=(128, 128, 128),
        network={
            "features": [8, 16],
            "kernels": [[3, 3, 3]] * 2,
            "strides": [[2, 2, 2]],
        },
        precision=arguments.precision,
        memory_layout="channels_last",
    )
    predictions = arguments.out / "predictions"
    shutil.rmtree(predictions, ignore_errors=True)
    spilled = WatchedDisk(arguments.out)
    seconds, peak_gb = measured(
        [
            *("predict", run, scan, predictions),
            *("--memory", arguments.memory, "--threads", arguments.threads),
        ]
    )
    print(
        f"512 x 512 x 400 voxels, {arguments.classes} classes, {arguments.memory}: "
        f"{seconds:.0f} s, peak {peak_gb:.2f} GB, temporary files up to "
        f"{spilled.stop():.1f} GB"
    )


class WatchedDisk:
    """How much of a disk was taken at most since it is watched."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._is_over = folder, threading.Event()
        self._free = self._least = shutil.disk_usage(folder).free
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._is_over.wait(0.5):
            self._least = min(self._least, shutil.disk_usage(self._folder).free)

    def stop(self) -> float:
        """Gigabytes taken at most."""
        self._is_over.set()
        self._watcher.join()
        return (self._free - self._least) / 1e9


if __name__ == "__main__":
    main()
