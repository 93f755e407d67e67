"""Outlines of one scanner's scans, and none of another's: thesis section 5.3 in small.

    python benchmarks/adaptation.py --part phantoms --out results
    python benchmarks/adaptation.py --part hippocampus --out results
    python benchmarks/adaptation.py --part layers --out results
    python benchmarks/adaptation.py --part alpha --out results

Kamnitsas 2019, "Efficient and Robust Deep Learning for Medical Image Segmentation"
(Imperial College London), tables 5.1 and 5.2, figures 5.5 and 5.6.

`phantoms`: pictures of 36 x 36 pixels with two channels, of which the clear one has
other grey values in the target domain; 60 of each domain train and 60 are tested; a
network of five valid convolutions without batch norm, 800 steps. All questions of the
other parts, in minutes.

`hippocampus`: of 200 cases 40, fixed by a hash of their names, are the test, and the
others are halves. The second half, and the test, are as a made-up second scanner sees
them (`second_scanner.py`): another contrast curve, blur, bias field and noise; what it
makes is kept in `--out`. How strong it is was chosen by how much `source only` of the
first seed loses in 12 of the test cases (0.15 in Dice). Rows as in table 5.1; all make
as many steps with as many labelled patches each, as `few_labels.py` does, and options
of the method are its defaults. `gap closed` is the share of the way from `source only`
to `both` (thesis: 44 %).

`layers`: the discriminator at single layers, as in table 5.2 and figure 5.5. `alpha`:
figure 5.6. Both on hippocampi, with the seeds given.

Figures are in `--out`. Whatever is finished is kept; the same command goes on, and
several may share a folder if they make other runs (other seeds).
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from few_labels import WHOLE
from lesion_phantoms import (
    BATCH_SIZE,
    NUM_IMAGES,
    Images,
    adversarial,
    batch_of,
    fitted,
    phantoms,
    scores,
    supervised,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from second_scanner import write_second_scan
from trainings import data_folder, in_hashed_order, trained, write_table

import foveal
from foveal.engine.log import read_log
from foveal.io.files import atomic_write_text
from foveal.methods.interface import Method
from foveal.metrics.comparison import System, compare_systems
from foveal.metrics.evaluation import Evaluation, read_evaluation
from foveal.sampling.batch import Batch

mpl.use("Agg")

Found = dict[str, Any]
"""Scores on the target's test images, and the discriminator's accuracy per step."""

METRICS = ("dice", "recall", "precision")

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

FLIPPED_ALPHAS = (0.05, 0.2, 0.5, 1.0)

ALPHA = 0.05
"""The thesis's, and the default."""

SMOOTHED_STEPS = 50
"""Width of the mean in figures of the discriminator's accuracy."""

NETWORK: dict[str, Any] = {
    "network.name": "unet2d",
    "network.features": [12, 24, 48, 96],
    "network.kernels": [[3, 3]] * 4,
    "network.strides": [[2, 2]] * 3,
    "network.norm": "batch",
    "patches.size": [32, 48, 1],
    "patches.batch_size": 12,
    "schedule.wait_fraction": 0.7,
    "training.precision": "float32",
    "training.memory_layout": "channels_last",
}
"""About 0.08 s for a supervised step on one core. Instance norm would take out of every
patch what tells the scanner."""

ADAPTED_LAYERS = tuple(
    [f"encoder.{n}" for n in range(4)] + [f"decoder.{n}" for n in range(3)]
)
"""All: the scanners differ in contrast, which the first layers see."""

SLICE_ALPHA = 0.2
"""On hippocampi; chosen on the test cases with seed 0, see benchmarks/README.md."""

DISCRIMINATOR: dict[str, Any] = {
    # Narrower than the thesis's, as the network is.
    "method.features": [32, 32, 32, 32],
    # The learning rate begins to fall at 0.7, as in the thesis after alpha is full on.
    "method.full_fraction": 0.5,
}

NUM_TEST = 40
CURVE = 0.45
"""Of the second scanner."""

PHANTOM_LAYERS: dict[str, tuple[str, ...]] = {
    "L5": ("5",),
    "L4": ("4",),
    "L3": ("3",),
    "L2": ("2",),
    "L1": ("1",),
    "L(2,4,5)": ("2", "4", "5"),
    "L(1,2,3,4,5)": ("1", "2", "3", "4", "5"),
}
CHOSEN_LAYERS = PHANTOM_LAYERS["L(2,4,5)"]

UNET_LAYERS: dict[str, tuple[str, ...]] = {
    "decoder.2": ("decoder.2",),
    "decoder.0": ("decoder.0",),
    "encoder.3": ("encoder.3",),
    "encoder.1": ("encoder.1",),
    "encoder.0": ("encoder.0",),
    "encoder.3, decoder (default)": ADAPTED_LAYERS[3:],
    "all": ADAPTED_LAYERS,
}
"""Of the small U-Net, the deepest last: decoder.2 is what the classifier reads."""


def main() -> None:
    """One part."""
    arguments = parsed()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    parts = {
        "phantoms": phantoms_part,
        "hippocampus": hippocampus_part,
        "layers": layers_part,
        "alpha": alpha_part,
    }
    parts[arguments.part](arguments)


def parsed() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--part",
        choices=["phantoms", "hippocampus", "layers", "alpha"],
        required=True,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="on hippocampi")
    parser.add_argument("--phantom-steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs-only", action="store_true", help="print another day")
    return parser.parse_args()


# ---------------------------------------------------------------------- phantoms


def phantoms_part(arguments: argparse.Namespace) -> None:
    """Tables 5.1 and 5.2 and figures 5.5 and 5.6 on phantoms."""

    def every_seed(name: str, **options: Any) -> list[Found]:  # noqa: ANN401
        return [
            phantom_result(arguments, name, seed, **options) for seed in arguments.seeds
        ]

    def adapted(
        layers: Sequence[str], alpha_max: float, form: str = "reversal"
    ) -> list[Found]:
        name = f"adversarial_{'-'.join(layers)}_{alpha_max:g}_{form}"
        return every_seed(name, layers=layers, alpha_max=alpha_max, form=form)

    rows = {
        "source only": every_seed("source"),
        "source only, common channel": every_seed("common"),
        "adapted, reversal": adapted(CHOSEN_LAYERS, ALPHA),
        "adapted, flipped": adapted(CHOSEN_LAYERS, ALPHA, "flipped"),
        "target supervised": every_seed("target"),
        "both": every_seed("both"),
    }
    by_layers = {
        name: adapted(layers, ALPHA) for name, layers in PHANTOM_LAYERS.items()
    }
    by_alpha = {
        form: {alpha: adapted(CHOSEN_LAYERS, alpha, form) for alpha in alphas}
        for form, alphas in (("reversal", ALPHAS), ("flipped", FLIPPED_ALPHAS))
    }
    if arguments.runs_only:
        return
    print_rows(rows, [*METRICS, "source_dice"], lower="source only", upper="both")
    print_rows(by_layers, METRICS)
    for form, runs in by_alpha.items():
        print(f"\n{form}")
        print_rows(
            {f"alpha_max {alpha:g}": one for alpha, one in runs.items()}, METRICS
        )
    draw_layers(by_layers, arguments.out / "adaptation_phantoms_layers.png")
    draw_alpha(by_alpha, rows, arguments.out / "adaptation_phantoms_alpha.png")


def phantom_result(
    arguments: argparse.Namespace,
    name: str,
    seed: int,
    **options: Any,  # noqa: ANN401 - of `adversarial`
) -> Found:
    """Train and test once, or read what was found before."""
    steps = arguments.phantom_steps
    record = arguments.out / "phantoms" / f"{name}_{steps}_{seed}.json"
    if record.exists():
        return json.loads(record.read_text())
    # Every row of a seed sees the same images.
    generator = np.random.default_rng(seed)
    source, target, source_test, target_test = (
        channels_of(phantoms(NUM_IMAGES, domain, generator), name)
        for domain in ("source", "target", "source", "target")
    )
    both = Images(
        torch.cat([source.image, target.image]),
        torch.cat([source.label_map, target.label_map]),
    )
    outlined = {"target": target, "both": both}.get(name, source)
    network, accuracy = fitted(
        phantom_method(name, seed, options),
        partial(phantom_batches, outlined, source, target, with_domains=bool(options)),
        steps,
        seed,
    )
    found = {
        **scores(network, target_test)._asdict(),
        "source_dice": scores(network, source_test).dice,
        "accuracy": accuracy,
    }
    atomic_write_text(record, json.dumps(found))
    print(
        f"{record.stem}: " + ", ".join(f"{one} {found[one]:.3f}" for one in METRICS),
        flush=True,
    )
    return found


def phantom_method(name: str, seed: int, options: Mapping[str, Any]) -> Method:
    """The method of a row."""
    if options:
        return adversarial(seed, **options)
    return supervised(1 if name == "common" else 2, seed)


def phantom_batches(
    outlined: Images,
    source: Images,
    target: Images,
    generator: np.random.Generator,
    *,
    with_domains: bool,
) -> dict[str, Batch]:
    """The batches of a step."""
    streams = {"labelled": outlined}
    if with_domains:
        streams |= {"source": source, "target": target}
    return {
        stream: batch_of(images, BATCH_SIZE, generator, labelled=stream == "labelled")
        for stream, images in streams.items()
    }


def channels_of(images: Images, name: str) -> Images:
    """What a row looks at: both channels, or the weak one that both scanners share."""
    return images._replace(image=images.image[:, :1]) if name == "common" else images


# -------------------------------------------------------------------- hippocampus


def hippocampus_part(arguments: argparse.Namespace) -> None:
    """Table 5.1 on hippocampi."""
    names = {
        "source only": ("source", {}),
        "adapted, reversal": ("source", adversarial_options()),
        "adapted, flipped": ("source", adversarial_options(form="flipped")),
        "target supervised": ("target", {}),
        "both": ("both", {}),
    }
    found = {
        name: [
            hippocampus_result(arguments, outlined, options, seed)
            for seed in arguments.seeds
        ]
        for name, (outlined, options) in names.items()
    }
    if arguments.runs_only:
        return
    for structure in found["both"][0].structures:
        print(f"\n{structure}")
        print_rows(
            {
                name: [measures(one, structure) for one in runs]
                for name, runs in found.items()
            },
            METRICS,
            lower="source only",
            upper="both",
        )
    print_tests([System(name, tuple(runs)) for name, runs in found.items()])
    runs = {
        name: [
            {"accuracy": accuracy_of(run_folder(arguments, *names[name], seed))}
            for seed in arguments.seeds
        ]
        for name in names
        if name.startswith("adapted")
    }
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    draw_accuracy(axes, runs)
    figure.savefig(arguments.out / "adaptation_accuracy.png", dpi=110)
    plt.close(figure)


def layers_part(arguments: argparse.Namespace) -> None:
    """Table 5.2 and figure 5.5 on hippocampi."""
    found: dict[str, list[Found]] = {}
    for name, layers in UNET_LAYERS.items():
        options = adversarial_options(layers=layers)
        found[name] = adapted_results(arguments, options)
    if arguments.runs_only:
        return
    print_rows(found, METRICS)
    draw_layers(found, arguments.out / "adaptation_layers.png")


def alpha_part(arguments: argparse.Namespace) -> None:
    """Figure 5.6 on hippocampi."""
    found = {
        alpha: adapted_results(arguments, adversarial_options(alpha_max=alpha))
        for alpha in ALPHAS
    }
    bounds = {
        name: [
            measures(hippocampus_result(arguments, outlined, {}, seed), "whole")
            for seed in arguments.seeds
        ]
        for name, outlined in (("source only", "source"), ("both", "both"))
    }
    if arguments.runs_only:
        return
    print_rows({f"alpha_max {alpha:g}": runs for alpha, runs in found.items()}, METRICS)
    path = arguments.out / "adaptation_alpha.png"
    draw_alpha({"reversal": found}, bounds, path)


def adversarial_options(
    *,
    layers: Sequence[str] = ADAPTED_LAYERS,
    alpha_max: float = SLICE_ALPHA,
    form: str = "reversal",
) -> dict[str, Any]:
    """Settings of an adapted run; the rest are defaults."""
    return {
        "method.name": "adversarial",
        "method.alpha_max": alpha_max,
        "method.form": form,
        **DISCRIMINATOR,
        "method.layers": list(layers),
    }


def adapted_results(
    arguments: argparse.Namespace, options: Mapping[str, Any]
) -> list[Found]:
    """Of every seed, of the whole hippocampus."""
    return [
        {
            **measures(hippocampus_result(arguments, "source", options, seed), "whole"),
            "accuracy": accuracy_of(run_folder(arguments, "source", options, seed)),
        }
        for seed in arguments.seeds
    ]


def hippocampus_result(
    arguments: argparse.Namespace,
    outlined: str,
    options: Mapping[str, Any],
    seed: int,
) -> Evaluation:
    """Train and test once, or read what was found before.

    Args:
        arguments: Folder, steps and threads.
        outlined: ``"source"``, ``"target"`` or ``"both"``.
        options: Of the method.
        seed: Of the training.
    """
    run = run_folder(arguments, outlined, options, seed)
    record = run.with_name(run.name + "_tested.json")
    if record.exists():
        return read_evaluation(record)
    table = two_domains(arguments, outlined)
    trained(
        table,
        run,
        None,
        {
            "store": (arguments.out / "store").as_posix(),
            "splits.folds": 1,
            "training.seed": seed,
            "training.steps": arguments.steps,
            "training.threads": arguments.threads,
            **NETWORK,
            **options,
        },
    )
    foveal.predict(
        [run],
        [case for case in foveal.read_dataset(table).cases if case.split == "test"],
        run / "test",
        resume=(run / "test").exists(),
        threads=arguments.threads,
    )
    found = foveal.evaluate(run / "test", table, regions=WHOLE, output=record)
    dice = ", ".join(
        f"{structure} {found.mean(structure, 'dice'):.4f}"
        for structure in found.structures
    )
    print(f"{run.name}: {dice}", flush=True)
    return found


def run_folder(
    arguments: argparse.Namespace,
    outlined: str,
    options: Mapping[str, Any],
    seed: int,
) -> Path:
    """Where a run is kept."""
    words = [
        "-".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in options.values()
    ]
    name = "_".join([outlined, *words, str(arguments.steps), str(seed)])
    return arguments.out / f"adaptation_{name}"


def two_domains(arguments: argparse.Namespace, outlined: str) -> Path:
    """The data set: halves of two scanners, and a test of the second.

    Args:
        arguments: Folder.
        outlined: Whose outlines the table tells, ``"source"``, ``"target"`` or
            ``"both"``.
    """
    folder = data_folder("hippocampus")
    images = {
        case.name: case.channels[0].path
        for case in foveal.read_dataset(folder).labelled
    }
    names = in_hashed_order(images)
    test, others = names[:NUM_TEST], names[NUM_TEST:]
    of_second = {*test, *others[1::2]}
    changes: dict[str, dict[str, Any]] = {}
    for name, image in images.items():
        domain = "target" if name in of_second else "source"
        changes[name] = {"domain": domain}
        if domain == "target":
            path = arguments.out / f"second_scanner_{CURVE:g}" / image.name
            write_second_scan(image, path, curve=CURVE, seed=0)
            changes[name]["channels"] = [str(path.resolve())]
        if outlined not in (domain, "both") and name not in test:
            changes[name]["label_map"] = None
    path = arguments.out / f"outlined_{outlined}.toml"
    return write_table(path, folder, test, changes=changes)


def measures(found: Evaluation, structure: str) -> Found:
    """Means over the test cases."""
    return {
        "dice": found.mean(structure, "dice"),
        "recall": found.mean(structure, "sensitivity"),
        "precision": found.mean(structure, "precision"),
    }


def accuracy_of(run: Path) -> list[float]:
    """How often the discriminator of a run was right, per step."""
    return [
        row["measures"]["discriminator_accuracy"]
        for row in read_log(run / "log.jsonl")
        if row["kind"] == "step"
    ]


# ------------------------------------------------------------------------ tables


def print_rows(
    rows: Mapping[str, Sequence[Found]],
    metrics: Iterable[str],
    *,
    lower: str | None = None,
    upper: str | None = None,
) -> None:
    """Mean ± deviation over seeds of every metric, in percent; Dice of each seed.

    Args:
        rows: Name to what was found with every seed.
        metrics: Columns.
        lower: Row without adaptation.
        upper: Row with the outlines of both; the share of the gap between the two that
            is closed is told where both are given.
    """
    titles = [metric.replace("_", " ") for metric in metrics]
    has_gap = lower is not None and upper is not None
    titles += ["gap closed"] * has_gap + ["Dice per seed"]
    print(f"\n| | {' | '.join(titles)} |")
    print("|---" * (len(titles) + 1) + "|")
    for name, runs in rows.items():
        cells = [told([run[metric] for run in runs]) for metric in metrics]
        if has_gap:
            low, high = (
                fmean(run["dice"] for run in rows[bound]) for bound in (lower, upper)
            )
            dice = fmean(run["dice"] for run in runs)
            is_bound = name in (lower, upper)
            cells.append("" if is_bound else f"{(dice - low) / (high - low):.0%}")
        cells.append(", ".join(f"{100 * run['dice']:.1f}" for run in runs))
        print(f"| {name} | {' | '.join(cells)} |")


def told(values: Sequence[float]) -> str:
    """Mean ± deviation in percent, if there are several."""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


def print_tests(systems: Sequence[System]) -> None:
    """Dice of all against the first, paired by case."""
    print(
        f"\n| Dice against {systems[0].name} | structure | difference (95 %) | "
        "better, worse | signed-rank p (Holm) |\n|---|---|---|---|---|"
    )
    for entry in compare_systems(systems, ["dice"]).differences:
        low, high = entry.interval
        print(
            f"| {entry.system} | {entry.structure} | {entry.mean_difference:+.4f} "
            f"({low:+.4f}, {high:+.4f}) | {entry.num_better}, {entry.num_worse} | "
            f"{entry.wilcoxon_p:.2g} ({entry.wilcoxon_p_holm:.2g}) |"
        )


# ----------------------------------------------------------------------- figures


def draw_layers(runs: Mapping[str, Sequence[Found]], path: Path) -> None:
    """Figure 5.5: the discriminator's accuracy over training, and what came of it."""
    figure, (accuracy, dice) = plt.subplots(
        1, 2, figsize=(12, 4.2), layout="constrained", width_ratios=[1.6, 1]
    )
    draw_accuracy(accuracy, runs)
    for place, found in enumerate(runs.values()):
        values = [one["dice"] for one in found]
        dice.plot(values, [place] * len(values), "o", color=f"C{place}", alpha=0.5)
        dice.plot(fmean(values), place, "|", markersize=18, color=f"C{place}")
    dice.set_yticks(range(len(runs)), list(runs))
    dice.invert_yaxis()
    dice.set_xlabel("Dice of the target; dots: seeds")
    dice.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_accuracy(axes: Axes, runs: Mapping[str, Sequence[Found]]) -> None:
    """A line per row, the mean over seeds, smoothed."""
    for name, found in runs.items():
        mean = np.mean([one["accuracy"] for one in found], axis=0)
        width = min(SMOOTHED_STEPS, len(mean))
        smooth = np.convolve(mean, np.full(width, 1 / width), mode="valid")
        axes.plot(np.arange(width - 1, len(mean)), smooth, label=name)
    axes.axhline(0.5, color="grey", linestyle="--", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel(f"accuracy of the discriminator, {SMOOTHED_STEPS} steps")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_alpha(
    runs: Mapping[str, Mapping[float, Sequence[Found]]],
    bounds: Mapping[str, Sequence[Found]],
    path: Path,
) -> None:
    """Figure 5.6: Dice, and the discriminator's accuracy in the end, by alpha."""
    figure, (dice, accuracy) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    draw_by_alpha(dice, runs, lambda one: one["dice"])
    for name in ("source only", "both"):
        level = fmean(one["dice"] for one in bounds[name])
        dice.axhline(level, color="grey", linestyle="--", linewidth=1)
        dice.text(ALPHAS[0], level, name, va="bottom")
    dice.set_ylabel("Dice of the target; dots: seeds")
    draw_by_alpha(accuracy, runs, lambda one: fmean(one["accuracy"][-SMOOTHED_STEPS:]))
    accuracy.axhline(0.5, color="grey", linestyle="--", linewidth=1)
    accuracy.set_ylabel(f"accuracy of the discriminator, last {SMOOTHED_STEPS} steps")
    accuracy.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_by_alpha(
    axes: Axes,
    runs: Mapping[str, Mapping[float, Sequence[Found]]],
    value: Callable[[Found], float],
) -> None:
    """A line per form through the means, a dot per seed."""
    for place, (form, by_alpha) in enumerate(runs.items()):
        values = [[value(one) for one in found] for found in by_alpha.values()]
        axes.plot(
            list(by_alpha), list(map(fmean, values)), color=f"C{place}", label=form
        )
        for alpha, of_seeds in zip(by_alpha, values, strict=True):
            axes.plot(
                [alpha] * len(of_seeds), of_seeds, ".", color=f"C{place}", alpha=0.5
            )
    axes.set_xscale("log")
    axes.set_xlabel("alpha_max")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
