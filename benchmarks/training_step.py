"""Whole training steps per second beside nnU-Net's: loading, augmentation, update.

Both train the network that nnU-Net plans for the hippocampus: plain U-Net with 32, 64,
128, 256 features, instance norm, deep supervision, 9 patches of 40 x 56 x 40, the same
200 cases and number of threads. The two take turns in one run, each in a process of its
own, so that a machine that slows down slows both.

nnU-Net needs an environment of its own:

    python -m venv nnunet && nnunet/bin/pip install "nnunetv2==2.8.*"
    python benchmarks/training_step.py --nnunet-python nnunet/bin/python --out work

Without ``--nnunet-python`` only Foveal is timed.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

TASK = "Dataset004_Hippocampus"
PATCH = (40, 56, 40)
BATCH_SIZE = 9


def main() -> None:
    """Run both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nnunet-python", type=Path)
    parser.add_argument("--steps", type=int, default=6, help="timed in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--inner", choices=["foveal", "nnunet"])
    arguments = parser.parse_args()
    if arguments.inner:
        inner = time_foveal if arguments.inner == "foveal" else time_nnunet
        print("RESULT " + json.dumps(inner(arguments)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    pythons = {"foveal": Path(sys.executable)}
    if arguments.nnunet_python:
        pythons["nnunet"] = arguments.nnunet_python
        prepare_nnunet(arguments.nnunet_python, arguments.out)
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    for turn in range(arguments.turns):
        for name, python in pythons.items():
            found = run_inner(name, python, arguments)
            seconds[name].append(found["seconds_per_step"])
            print(f"turn {turn}, {name}: {found}", flush=True)
    for name, values in seconds.items():
        print(f"{name}: median {median(values):.3f} s per step")
    if "nnunet" in seconds:
        ratios = [
            theirs / ours
            for ours, theirs in zip(seconds["foveal"], seconds["nnunet"], strict=True)
        ]
        print(f"Foveal is {median(ratios):.2f} times as fast (turns: {ratios})")


def run_inner(name: str, python: Path, arguments: argparse.Namespace) -> dict:
    """Time one of the two in a fresh process."""
    answer = subprocess.run(
        [
            str(python),
            __file__,
            "--inner",
            name,
            "--out",
            str(arguments.out),
            "--steps",
            str(arguments.steps),
            "--threads",
            str(arguments.threads),
        ],
        env=environment(arguments.out),
        check=True,
        capture_output=True,
        text=True,
    )
    line = next(
        line for line in answer.stdout.splitlines() if line.startswith("RESULT ")
    )
    return json.loads(line.removeprefix("RESULT "))


def environment(out: Path) -> dict[str, str]:
    """Folders that nnU-Net asks for."""
    folders = {
        name: str((out / name).resolve())
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    # Two loaders, like Foveal's two threads on two cores.
    return {**os.environ, **folders, "nnUNet_n_proc_DA": "2"}


def data_folder() -> Path:
    """The data set, from ``FOVEAL_DATA`` or beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("FOVEAL_DATA", beside)) / "hippocampus"


def prepare_nnunet(python: Path, out: Path) -> None:
    """Copy the cases to nnU-Net's layout and preprocess them, once."""
    if (out / "nnUNet_preprocessed" / TASK / "nnUNetPlans.json").exists():
        return
    raw = out / "nnUNet_raw" / TASK
    for source, target, suffix in (
        ("imagesTr", "imagesTr", "_0000"),
        ("labelsTr", "labelsTr", ""),
    ):
        (raw / target).mkdir(parents=True, exist_ok=True)
        for path in sorted((data_folder() / source).glob("[!.]*.nii.gz")):
            name = path.name.removesuffix(".nii.gz")
            copy = raw / target / f"{name}{suffix}.nii.gz"
            copy.write_bytes(path.read_bytes())
    (raw / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "MRI"},
                "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
                "numTraining": 200,
                "file_ending": ".nii.gz",
            }
        )
    )
    command = python.parent / "nnUNetv2_plan_and_preprocess"
    subprocess.run(
        [str(command), "-d", "4", "-c", "3d_fullres", "-np", "2", "-npfp", "2"],
        env=environment(out),
        check=True,
        capture_output=True,
    )


def time_nnunet(arguments: argparse.Namespace) -> dict[str, float]:
    """Steps of nnU-Net's own trainer, with its loaders and augmentation."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(arguments.threads)
    folder = arguments.out / "nnUNet_preprocessed" / TASK
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    # With the full data set it plans 9 patches, with these 200 cases 7.
    plans["configurations"]["3d_fullres"]["batch_size"] = BATCH_SIZE
    trainer = nnUNetTrainer(
        # Its command line adds this entry.
        plans={**plans, "continue_training": False},
        configuration="3d_fullres",
        fold=0,
        dataset_json=json.loads((folder / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )
    trainer.on_train_start()
    patch = tuple(trainer.configuration_manager.patch_size)
    if patch != PATCH:
        raise SystemExit(f"nnU-Net planned patches of {patch}")
    trainer.network.train()
    trainer.train_step(next(trainer.dataloader_train))
    start = time.perf_counter()
    for _ in range(arguments.steps):
        trainer.train_step(next(trainer.dataloader_train))
    elapsed = time.perf_counter() - start
    print(
        "RESULT " + json.dumps({"seconds_per_step": elapsed / arguments.steps}),
        flush=True,
    )
    # Its loader processes would keep this one, and who reads from it, waiting.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def time_foveal(arguments: argparse.Namespace) -> dict[str, float]:
    """Steps of `foveal.train` on the same network, patch and batch."""
    import tempfile

    import foveal
    from foveal.engine.log import read_log

    warm_up = 3
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        run = Path(folder) / "run"
        foveal.train(
            data_folder(),
            run,
            steps=warm_up + arguments.steps,
            options=[
                f'store="{(arguments.out / "store").resolve().as_posix()}"',
                f"training.threads={arguments.threads}",
                f"patches.batch_size={BATCH_SIZE}",
                f"patches.size={list(PATCH)}",
                "network.features=[32,64,128,256]",
                "network.deep_supervision=true",
                # No validation: only steps are compared.
                "splits.folds=1",
            ],
        )
        rows = [r for r in read_log(run / "log.jsonl") if r["kind"] == "step"]
    timed = rows[warm_up:]
    total = sum(row["seconds"] + row["waited_seconds"] for row in timed)
    return {
        "seconds_per_step": total / len(timed),
        "waiting_fraction": sum(row["waited_seconds"] for row in timed) / total,
    }


if __name__ == "__main__":
    main()
