"""Compact clusters on scikit-learn's digits: figure 6.4 and section 6.6 of the thesis.

    python benchmarks/digits_cclp.py --part limited --out results
    python benchmarks/digits_cclp.py --part all --out results
    python benchmarks/digits_cclp.py --part batches --out results
    python benchmarks/digits_cclp.py --part cost --out results
    python benchmarks/digits_cclp.py --part figure --out results

1,797 digits of 8 x 8 pixels stand in for MNIST. Per seed, 500 of them, drawn by class,
are the test; of the other 1,297, ten per class carry a label (`limited`) or all do
(`all`), and all of them are used without labels. The network is the thesis's with half
the features; nothing is augmented. Compared are supervised training and CCLP with
chains of 1, 3, 6 and 10 steps, of the same weight as the supervised loss, and with
weight 0, which leaves what batch norm gains from seeing unlabelled digits. Differences
are paired by seed. `batches` changes how many samples are in the graph, `cost` times
the loss beside the network.

Every training is a line of `digits.jsonl` in `--out`; what is there is not repeated.
`figure` trains what other parts have not. Needs scikit-learn:
`pip install foveal[benchmarks]`.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from records import kept_or_found
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from foveal.losses.compact_clusters import compact_clusters_loss
from foveal.reports.figures import INK, STRUCTURE_COLOURS, STYLE

mpl.use("Agg")

NUM_CLASSES = 10

NUM_TEST = 500

LABELLED_PER_CLASS = 10

CHAINS = (1, 3, 6, 10)

TIMED_CHAINS = (1, 3, 10)

BATCHES = {50: (20, 30), 100: (50, 50), 200: (100, 100), 400: (100, 300)}
"""Samples of the graph to labelled and unlabelled ones; there are 100 labels in all."""

TRAINING_STEPS = 400

LEARNING_RATE = 3e-3

WEIGHT_DECAY = 1e-4

NOISE = 0.3
"""Deviation of what is added to the standardised pixels, as in the thesis."""


class Digits(NamedTuple):
    """Standardised pictures and classes of one seed."""

    train: Tensor
    """``(sample, 1, 8, 8)``"""

    train_classes: Tensor
    test: Tensor
    test_classes: Tensor
    labelled: Tensor
    """Indices of the training samples that carry a label."""


class Setting(NamedTuple):
    """What decides the outcome of a training; a line's key."""

    labels: str
    """``limited`` or ``all``."""

    chain_steps: int
    """0: supervised, no unlabelled samples."""

    weight: float
    num_labelled: int
    num_unlabelled: int
    seed: int


def main() -> None:
    """Train what a part compares, or time, or draw; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    PARTS[arguments.part](arguments)


# -------------------------------------------------------------------------- parts


def chains_with_few_labels(arguments: argparse.Namespace) -> None:
    """Blue curves of figure 6.4."""
    compare(arguments, "limited")


def chains_with_all_labels(arguments: argparse.Namespace) -> None:
    """Red curves of figure 6.4: the regulariser in supervised training."""
    compare(arguments, "all")


def compare(arguments: argparse.Namespace, labels: str) -> None:
    """Train all arms on every seed and print them beside supervised training."""
    errors = errors_of(arguments, arms_of(labels))
    print_table(f"{labels} labels", errors, "supervised")
    print_table(f"{labels} labels, beside S = 1", errors, "CCLP, S = 1")


def arms_of(labels: str) -> dict[str, Setting]:
    """What figure 6.4 compares, by name; seed 0."""
    return {
        "supervised": Setting(labels, 0, 0.0, 100, 0, 0),
        "weight 0": Setting(labels, 1, 0.0, 100, 100, 0),
        **{
            f"CCLP, S = {steps}": Setting(labels, steps, 1.0, 100, 100, 0)
            for steps in CHAINS
        },
    }


def errors_of(
    arguments: argparse.Namespace, arms: Mapping[str, Setting]
) -> dict[str, list[float]]:
    """Test errors of every arm, by seed."""
    errors: dict[str, list[float]] = {name: [] for name in arms}
    # Seeds are outside, so that what is cut off leaves complete pairs.
    for seed in arguments.seeds:
        for name, arm in arms.items():
            errors[name].append(trained_error(arguments.out, arm._replace(seed=seed)))
    return errors


def sizes_of_batches(arguments: argparse.Namespace) -> None:
    """Section 6.6: fewer and more samples in the graph, at equal training steps."""
    for size, (num_labelled, num_unlabelled) in BATCHES.items():
        errors = errors_of(arguments, arms_of_size(size))
        heading = f"N = {size}: {num_labelled} labelled, {num_unlabelled} not"
        print_table(heading, errors, "supervised")


def arms_of_size(size: int) -> dict[str, Setting]:
    """Supervised training and CCLP with as many labelled samples per step; seed 0."""
    num_labelled, num_unlabelled = BATCHES[size]
    return {
        "supervised": Setting("limited", 0, 0.0, num_labelled, 0, 0),
        "CCLP, S = 3": Setting("limited", 3, 1.0, num_labelled, num_unlabelled, 0),
    }


def cost(arguments: argparse.Namespace) -> None:
    """Processor time of the loss beside that of a network's step."""
    print(
        "| N | loss, S = 1, 3, 10, ms | this network, N / 2 and N samples, ms | "
        "loss (S = 3) of that | thesis's network, N samples, ms | loss of that |"
    )
    print("|---|---|---|---|---|---|")
    for size in (100, 200, 400, 1000):
        found = kept_or_found(
            arguments.out / "cost.jsonl", {"size": size}, partial(milliseconds, size)
        )
        losses = [found[f"loss {steps}"] for steps in TIMED_CHAINS]
        loss = found["loss 3"]
        print(
            f"| {size} | {', '.join(f'{value:.1f}' for value in losses)} | "
            f"{found['half']:.1f}, {found['full']:.1f} | {loss / found['full']:.0%} | "
            f"{found['thesis']:.0f} | {loss / found['thesis']:.1%} |",
            flush=True,
        )


def milliseconds(size: int) -> dict[str, float]:
    """Of the loss and of networks, forward and backward, by name."""
    labels = F.one_hot(torch.arange(size // 2) % NUM_CLASSES, NUM_CLASSES).float()
    embeddings = torch.randn(size, 64).requires_grad_()
    small, whole = embedding_network(), embedding_network((32, 64, 128))
    actions = {
        **{
            f"loss {steps}": partial(clusters, embeddings, labels, steps)
            for steps in TIMED_CHAINS
        },
        "half": partial(pass_through, small, size // 2, 8),
        "full": partial(pass_through, small, size, 8),
        "thesis": partial(pass_through, whole, size, 28),
    }
    return {name: 1000 * least_cpu_seconds(action) for name, action in actions.items()}


def clusters(embeddings: Tensor, labels: Tensor, steps: int) -> None:
    """The loss and its gradient."""
    compact_clusters_loss(embeddings, labels, steps=steps).backward()


def pass_through(network: nn.Module, count: int, width: int) -> None:
    """A network forward and backward."""
    network(torch.randn(count, 1, width, width)).sum().backward()


def least_cpu_seconds(action: Callable[[], None]) -> float:
    """Of five turns, after one that does not count; other programs lengthen none."""
    turns = []
    for _ in range(6):
        start = time.process_time()
        action()
        turns.append(time.process_time() - start)
    return min(turns[1:])


def print_table(
    heading: str, errors: Mapping[str, Sequence[float]], reference: str
) -> None:
    """Errors of every arm, and the differences from one of them, seed by seed."""
    print(f"\n| {heading} | error, % | difference | seeds |")
    print("|---|---|---|---|")
    beside = np.array(errors[reference])
    for name, found in errors.items():
        difference = np.array(found) - beside
        row = f"| {name} | {np.mean(found):.2f} ± {np.std(found, ddof=1):.2f} |"
        if name == reference:
            print(row + " | |")
            continue
        better, worse = (difference < 0).sum(), (difference > 0).sum()
        print(
            f"{row} {difference.mean():+.2f} ± {difference.std(ddof=1):.2f} | "
            f"{better} better, {worse} worse |"
        )


def figure(arguments: argparse.Namespace) -> None:
    """Figure 6.4."""
    with mpl.rc_context(STYLE):
        drawing, panels = plt.subplots(1, 2, figsize=(7.5, 3.1), layout="constrained")
        parts = (("limited", "100 labels"), ("all", "1,297 labels"))
        for axes, (labels, title) in zip(panels, parts, strict=True):
            draw_chains(axes, errors_of(arguments, arms_of(labels)))
            axes.set_title(title, fontsize=9)
        path = arguments.out / "digits_cclp.png"
        drawing.savefig(path, dpi=110, metadata={"Software": None})


def draw_chains(axes: Axes, errors: Mapping[str, Sequence[float]]) -> None:
    """Error by the longest chain: means, their standard errors, and every seed.

    Lines without marks are training without CCLP.
    """
    found = np.array([errors[f"CCLP, S = {steps}"] for steps in CHAINS])
    colour = STRUCTURE_COLOURS[0]
    axes.errorbar(
        CHAINS,
        found.mean(axis=1),
        found.std(axis=1, ddof=1) / np.sqrt(found.shape[1]),
        color=colour,
        marker="o",
        markersize=4,
        linewidth=1.6,
        capsize=3,
        label="CCLP",
    )
    for steps, values in zip(CHAINS, found, strict=True):
        places = np.full(len(values), steps)
        axes.scatter(places, values, s=8, color=colour, alpha=0.4, linewidths=0)
    for name, style in (("supervised", "--"), ("weight 0", ":")):
        axes.axhline(np.mean(errors[name]), color=INK, ls=style, lw=1.2, label=name)
    axes.set_xticks(CHAINS)
    axes.set_xlabel("longest chain S")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("test error, %")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8)


# ----------------------------------------------------------------------- training


def trained_error(out: Path, setting: Setting) -> float:
    """Test error in percent, read from the lines or found by training."""

    def find() -> dict[str, float]:
        start = time.process_time()
        error = train(digits_of(setting.seed, setting.labels), setting)
        return {"error": error, "cpu_seconds": time.process_time() - start}

    return kept_or_found(out / "digits.jsonl", setting._asdict(), find)["error"]


def digits_of(seed: int, labels: str) -> Digits:
    """Split by seed; pixels standardised by those of the training part."""
    pictures, classes = load_digits(return_X_y=True)
    train, test, train_classes, test_classes = train_test_split(
        pictures, classes, test_size=NUM_TEST, stratify=classes, random_state=seed
    )
    mean, deviation = train.mean(), train.std()
    order = np.random.default_rng(seed).permutation(len(train))
    labelled = order
    if labels == "limited":
        firsts = [
            order[train_classes[order] == value][:LABELLED_PER_CLASS]
            for value in range(NUM_CLASSES)
        ]
        labelled = np.concatenate(firsts)

    def as_pictures(pixels: np.ndarray) -> Tensor:
        standardised = (pixels - mean) / deviation
        return torch.from_numpy(standardised).float().view(-1, 1, 8, 8)

    return Digits(
        as_pictures(train),
        torch.from_numpy(train_classes),
        as_pictures(test),
        torch.from_numpy(test_classes),
        torch.from_numpy(labelled),
    )


def train(digits: Digits, setting: Setting) -> float:
    """Test error in percent after `TRAINING_STEPS`."""
    torch.manual_seed(setting.seed)
    generator = torch.Generator().manual_seed(setting.seed)
    network, classifier = embedding_network(), nn.Linear(64, NUM_CLASSES)
    modules = nn.ModuleList([network, classifier])
    modules.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        modules.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.PolynomialLR(
        optimizer, TRAINING_STEPS, power=0.9
    )
    labelled = Balanced(digits, setting.num_labelled, generator)
    for _ in range(TRAINING_STEPS):
        chosen = labelled.draw()
        unlabelled = torch.randint(
            len(digits.train), (setting.num_unlabelled,), generator=generator
        )
        classes = digits.train_classes[chosen]
        # Labelled ones come first, as the loss expects.
        embeddings = network(digits.train[torch.cat([chosen, unlabelled])])
        logits = classifier(F.dropout(embeddings[: len(chosen)], 0.5))
        loss = F.cross_entropy(logits, classes)
        if setting.weight:
            loss = loss + setting.weight * compact_clusters_loss(
                embeddings,
                F.one_hot(classes, NUM_CLASSES).float(),
                steps=setting.chain_steps,
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    modules.eval()
    with torch.inference_mode():
        found = classifier(network(digits.test)).argmax(dim=1)
    return 100 * (found != digits.test_classes).double().mean().item()


class Balanced:
    """Labelled samples in turn, as many of every class in each batch."""

    def __init__(self, digits: Digits, size: int, generator: torch.Generator) -> None:
        self.per_class = size // NUM_CLASSES
        self.generator = generator
        classes = digits.train_classes[digits.labelled]
        self.members = [digits.labelled[classes == c] for c in range(NUM_CLASSES)]
        self.queues = [members[:0] for members in self.members]

    def draw(self) -> Tensor:
        """Indices of the training samples of the next batch."""
        for value, members in enumerate(self.members):
            while len(self.queues[value]) < self.per_class:
                order = torch.randperm(len(members), generator=self.generator)
                self.queues[value] = torch.cat([self.queues[value], members[order]])
        taken = [queue[: self.per_class] for queue in self.queues]
        self.queues = [queue[self.per_class :] for queue in self.queues]
        return torch.cat(taken)


class AddNoise(nn.Module):
    """Adds normal noise while training."""

    def forward(self, pictures: Tensor) -> Tensor:
        """The pictures, changed if training."""
        if not self.training:
            return pictures
        return pictures + NOISE * torch.randn_like(pictures)


def embedding_network(features: tuple[int, int, int] = (16, 32, 64)) -> nn.Module:
    """The thesis's network for MNIST; embeddings have the last number of features.

    Dropout is before the last convolution, never after the embeddings: there it would
    make the graph sparse.
    """
    first, second, third = features
    return nn.Sequential(
        AddNoise(),
        *convolution(1, first),
        *convolution(first, first),
        nn.MaxPool2d(2),
        *convolution(first, second),
        *convolution(second, second),
        nn.MaxPool2d(2),
        *convolution(second, third),
        nn.Dropout2d(0.1),
        *convolution(third, third),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def convolution(num_in: int, num_out: int) -> tuple[nn.Module, ...]:
    """A convolution of 3 x 3, batch norm and ELU."""
    layer = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    # PyTorch's momentum is the share of the new batch; the thesis's 0.99 is for 45,000
    # steps.
    return layer, nn.BatchNorm2d(num_out, momentum=0.05), nn.ELU()


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "limited": chains_with_few_labels,
    "all": chains_with_all_labels,
    "batches": sizes_of_batches,
    "cost": cost,
    "figure": figure,
}


if __name__ == "__main__":
    main()
