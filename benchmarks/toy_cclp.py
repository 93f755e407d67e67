"""Compact clusters of points that move freely: figures 6.2 and 6.3 of the thesis.

    python benchmarks/toy_cclp.py --out results

Two circles and two moons of 100 points per class, one of which is labelled. The points
are embeddings themselves, in two dimensions, and so show what the regulariser does to
them, apart from any network. A linear classifier learns from the two labelled points.
Printed are how well labels propagate at the start by the scale of the graph, and, for
chains of S = 1, 3 and 10 steps and for entropy regularisation (Grandvalet and Bengio
2005), what became of the points. Figures are written to `--out`.

Adam with a rate of 0.01, 400 steps, equal weights, similarity exp(-d^2 / sigma^2).
Every run is a line of `toy.jsonl` in `--out`; what is there is not repeated. Needs
scikit-learn: `pip install foveal[benchmarks]`.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from records import kept_or_found
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from sklearn.datasets import make_circles, make_moons
from torch import Tensor, nn

from foveal.losses.compact_clusters import (
    compact_clusters_loss,
    propagated,
    similarities,
    transition_matrix,
)
from foveal.reports.figures import FAINT, INK, STYLE

mpl.use("Agg")

POINTS_PER_CLASS = 100

LABELS = torch.eye(2, dtype=torch.float64)
"""Of the two first points."""

STEPS = 400

LEARNING_RATE = 0.01

STEPS_PER_GAP = 10
"""Between two measurements of the gaps."""

SIGMA = 0.15
"""Scale of the graph, in the middle of those at which labels propagate well."""

SIGMAS = (0.05, 0.08, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4)

METHODS = {"CCLP, S = 1": 1, "CCLP, S = 3": 3, "CCLP, S = 10": 10, "entropy": 0}
"""To the longest chain; 0: no CCLP."""

PROBABILITY_COLOURS = LinearSegmentedColormap.from_list(
    "classes", ["#0072b2", "#d5dbe1", "#dc267f"]
)

SUPERVISION_COLOUR = "#ffb000"


class Problem(NamedTuple):
    """An arrangement of points."""

    shape: str
    noise: float


PROBLEMS = {
    "circles": Problem("circles", 0.03),
    "moons": Problem("moons", 0.05),
    "noisy moons": Problem("moons", 0.1),
}


class Points(NamedTuple):
    """Where the points of a problem are at first; the labelled ones lead."""

    places: Tensor
    classes: Tensor


class Moment(NamedTuple):
    """What is drawn of a step: before it is made."""

    step: int
    places: np.ndarray
    colours: np.ndarray
    """Probability of the second class."""

    supervised: np.ndarray
    """Where the loss of the labelled points pulls each point: minus its gradient."""

    regularised: np.ndarray
    boundary: tuple[np.ndarray, float]
    """Normal and offset of the line on which the classifier is undecided."""


class End(NamedTuple):
    """Result of a run."""

    places: Tensor
    logits: Tensor
    regulariser: float
    widest_gap: float
    """Of a class, in sigma, at any time."""

    moments: tuple[Moment, ...]


def main() -> None:
    """Print both tables, draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print_scales(arguments.seeds)
    print_results(arguments.out, arguments.seeds)
    draw_circles(arguments.out / "cclp_circles.png")
    draw_moons(arguments.out / "cclp_moons.png")


# ------------------------------------------------------------------------- tables


def print_scales(seeds: Sequence[int]) -> None:
    """How well labels propagate before anything moves, by sigma."""
    print("| sigma | " + " | ".join(map(str, SIGMAS)) + " |")
    print("|---" * (len(SIGMAS) + 1) + "|")
    for name, problem in PROBLEMS.items():
        words = []
        for sigma in SIGMAS:
            found = [
                accuracy(propagation(points.places, sigma), points.classes)
                for points in (points_of(problem, seed) for seed in seeds)
            ]
            words.append(", ".join(f"{value:.3f}" for value in found))
        print(f"| {name} | " + " | ".join(words) + " |", flush=True)


def print_results(out: Path, seeds: Sequence[int]) -> None:
    """What became of the points, as means over the seeds."""
    print(
        "\n| problem | method | propagated at the start | at the end | classifier "
        "(each seed) | widest gap, sigma | within / between | final loss - log m |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in PROBLEMS:
        for method in METHODS:
            rows = [result(out, name, method, seed) for seed in seeds]
            mean = {key: np.mean([row[key] for row in rows]) for key in MEASURES}
            each = ", ".join(f"{row['classifier']:.3f}" for row in rows)
            above = mean["loss"] - np.log(POINTS_PER_CLASS)
            print(
                f"| {name} | {method} | {mean['start']:.3f} | {mean['end']:.3f} | "
                f"{mean['classifier']:.3f} ({each}) | {mean['gap']:.1f} | "
                f"{mean['spread']:.3f} | "
                + ("|" if METHODS[method] == 0 else f"{above:.3f} |"),
                flush=True,
            )


MEASURES = ("start", "end", "classifier", "gap", "spread", "loss")


def result(out: Path, name: str, method: str, seed: int) -> dict[str, float]:
    """Measures of a run, read or found."""

    def find() -> dict[str, float]:
        points = points_of(PROBLEMS[name], seed)
        end = run(points, METHODS[method], seed)
        return {
            "start": accuracy(propagation(points.places, SIGMA), points.classes),
            "end": accuracy(propagation(end.places, SIGMA), points.classes),
            "classifier": accuracy(end.logits, points.classes),
            "gap": end.widest_gap,
            "spread": spread(end.places, points.classes),
            "loss": end.regulariser,
        }

    key = {"problem": name, "method": method, "sigma": SIGMA, "seed": seed}
    return kept_or_found(out / "toy.jsonl", key, find)


def accuracy(scores: Tensor, classes: Tensor) -> float:
    """Share of the unlabelled points whose class has the greatest score."""
    right = scores[len(LABELS) :].argmax(dim=1) == classes[len(LABELS) :]
    return right.double().mean().item()


def spread(places: Tensor, classes: Tensor) -> float:
    """Mean distance from the own class's centre, by that of the two centres."""
    centres = torch.stack([places[classes == c].mean(dim=0) for c in (0, 1)])
    within = (places - centres[classes]).norm(dim=1).mean()
    return (within / (centres[0] - centres[1]).norm()).item()


def widest_gap(places: Tensor, classes: Tensor) -> float:
    """How far apart the parts of a class are at most, in sigma.

    The longest edge of the shortest tree that joins its points: large where a cluster
    has fallen to pieces.
    """
    of_classes = [places[classes == c].detach().numpy() for c in (0, 1)]
    trees = [minimum_spanning_tree(squareform(pdist(own))) for own in of_classes]
    return max(tree.max() for tree in trees) / SIGMA


# --------------------------------------------------------------------------- runs


def points_of(problem: Problem, seed: int) -> Points:
    """Drawn with noise; one point of each class, by chance, is the labelled one."""
    num_points = 2 * POINTS_PER_CLASS
    if problem.shape == "moons":
        drawn = make_moons(num_points, noise=problem.noise, random_state=seed)
    else:
        drawn = make_circles(
            num_points, factor=0.4, noise=problem.noise, random_state=seed
        )
    places, classes = map(torch.from_numpy, drawn)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(num_points))
    first = [int(order[classes[order] == c][0]) for c in (0, 1)]
    others = order[~torch.isin(order, torch.tensor(first))]
    order = torch.cat([torch.tensor(first), others])
    return Points(places[order], classes[order])


def propagation(places: Tensor, sigma: float) -> Tensor:
    """Class probabilities of the points once labels have spread."""
    edges = similarities(places, "euclidean", sigma**2)
    return propagated(transition_matrix(edges), LABELS)


def run(
    points: Points, chain_steps: int, seed: int, drawn: Collection[int] = ()
) -> End:
    """Move the points and the classifier.

    Args:
        points: At the start.
        chain_steps: S; 0: entropy regularisation.
        seed: Of the classifier.
        drawn: Steps to keep for a figure.
    """
    torch.manual_seed(seed)
    classifier = nn.Linear(2, 2, dtype=torch.float64)
    places = points.places.clone().requires_grad_()
    optimizer = torch.optim.Adam([places, *classifier.parameters()], LEARNING_RATE)
    moments, gap = [], 0.0
    for step in range(STEPS + 1):
        logits = classifier(places)
        supervised = F.cross_entropy(
            logits[: len(LABELS)], points.classes[: len(LABELS)]
        )
        regulariser = (
            compact_clusters_loss(
                places,
                LABELS,
                steps=chain_steps,
                similarity="euclidean",
                temperature=SIGMA**2,
            )
            if chain_steps
            else mean_entropy(logits[len(LABELS) :])
        )
        if step in drawn:
            # Each regulariser beside the probabilities that it is made of.
            probabilities = (
                propagation(places, SIGMA) if chain_steps else logits.softmax(dim=1)
            )
            moments.append(
                Moment(
                    step,
                    places.detach().numpy().copy(),
                    probabilities.detach().numpy()[:, 1],
                    pull(supervised, places),
                    pull(regulariser, places),
                    boundary_of(classifier),
                )
            )
        if step % STEPS_PER_GAP == 0:
            gap = max(gap, widest_gap(places, points.classes))
        # What the last step led to is measured, but not followed.
        if step < STEPS:
            optimizer.zero_grad()
            (supervised + regulariser).backward()
            optimizer.step()
    return End(
        places.detach(), logits.detach(), regulariser.item(), gap, tuple(moments)
    )


def mean_entropy(logits: Tensor) -> Tensor:
    """Of the probabilities of each point, in nats."""
    surprises = -logits.log_softmax(dim=1)
    return (logits.softmax(dim=1) * surprises).sum(dim=1).mean()


def pull(loss: Tensor, places: Tensor) -> np.ndarray:
    """Minus the gradient of a loss, at every point."""
    return -torch.autograd.grad(loss, places, retain_graph=True)[0].numpy()


def boundary_of(classifier: nn.Linear) -> tuple[np.ndarray, float]:
    """Normal and offset of the line of equal logits."""
    weight, bias = classifier.weight.detach().numpy(), classifier.bias.detach().numpy()
    return weight[1] - weight[0], float(bias[1] - bias[0])


# ------------------------------------------------------------------------ figures


def draw_circles(path: Path) -> None:
    """Figure 6.2: from the start until nothing moves; entropy regularisation below."""
    points = points_of(PROBLEMS["circles"], 0)
    draw_rows(
        path,
        {
            "CCLP, S = 10": run(points, 10, 0, (0, 30, 80, 150, STEPS)).moments,
            "entropy": run(points, 0, 0, (0, 30, 80, 150, STEPS)).moments,
        },
    )


def draw_moons(path: Path) -> None:
    """Figure 6.3: short chains above, long ones below."""
    points = points_of(PROBLEMS["moons"], 0)
    draw_rows(
        path,
        {
            "CCLP, S = 1": run(points, 1, 0, (0, 30, 60, 100, STEPS)).moments,
            "CCLP, S = 10": run(points, 10, 0, (0, 30, 60, 100, STEPS)).moments,
        },
    )


def draw_rows(path: Path, rows: Mapping[str, Sequence[Moment]]) -> None:
    """One row per method, a panel with the labels alone before each."""
    columns = 1 + len(next(iter(rows.values())))
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(rows),
            columns,
            figsize=(1.75 * columns, 1.75 * len(rows) + 0.7),
            layout="constrained",
            squeeze=False,
        )
        for (name, moments), row in zip(rows.items(), panels, strict=True):
            draw_labels(row[0], moments[0])
            row[0].set_ylabel(name)
            for moment, axes in zip(moments, row[1:], strict=True):
                draw_moment(axes, moment)
        figure.legend(
            handles=legend_handles(), loc="outside lower center", ncols=5, fontsize=8
        )
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def legend_handles() -> list[Line2D]:
    """What points, arrows and lines stand for."""

    def arrow(name: str, colour: str, width: float) -> Line2D:
        return Line2D([], [], color=colour, lw=width, label=name)

    labelled = {"ls": "", "marker": "o", "ms": 6, "mec": INK, "mew": 1.2}
    return [
        Line2D(
            [],
            [],
            color=PROBABILITY_COLOURS(0.0),
            label="labelled, first class",
            **labelled,
        ),
        Line2D(
            [],
            [],
            color=PROBABILITY_COLOURS(1.0),
            label="labelled, second class",
            **labelled,
        ),
        arrow("pull of the regulariser", INK, 1.0),
        arrow("pull of supervision", SUPERVISION_COLOUR, 3.0),
        Line2D([], [], color=FAINT, ls="--", lw=0.8, label="classifier undecided"),
    ]


def draw_labels(axes: Axes, moment: Moment) -> None:
    """Where the points are, and which are labelled."""
    axes.scatter(*moment.places[len(LABELS) :].T, s=6, color=FAINT, linewidths=0)
    draw_labelled(axes, moment)
    axes.set_title("labels", fontsize=9)
    close(axes)


def draw_moment(axes: Axes, moment: Moment) -> None:
    """Points by class, with the pulls of both losses."""
    axes.scatter(
        *moment.places[len(LABELS) :].T,
        c=moment.colours[len(LABELS) :],
        cmap=PROBABILITY_COLOURS,
        vmin=0,
        vmax=1,
        s=8,
        linewidths=0,
    )
    draw_labelled(axes, moment)
    close(axes)
    axes.set_title(f"step {moment.step}", fontsize=9)
    draw_arrows(axes, moment.places, moment.regularised, INK, width=0.004)
    draw_arrows(
        axes,
        moment.places[: len(LABELS)],
        moment.supervised[: len(LABELS)],
        SUPERVISION_COLOUR,
        width=0.018,
    )
    normal, offset = moment.boundary
    foot = -offset * normal / (normal @ normal)
    along = np.array([-normal[1], normal[0]])
    axes.axline(foot, foot + along, color=FAINT, ls="--", lw=0.8)


def draw_arrows(
    axes: Axes, places: np.ndarray, pulls: np.ndarray, colour: str, *, width: float
) -> None:
    """Pulls on points; lengths are square roots, so that weak ones are seen."""
    lengths = np.linalg.norm(pulls, axis=1, keepdims=True)
    # A single strong pull would leave nothing of the others.
    drawn = np.sqrt(lengths / max(np.quantile(lengths, 0.9), 1e-300)).clip(max=1.2)
    longest = 0.11 * np.ptp(axes.get_xlim())
    arrows = longest * drawn * pulls / lengths.clip(min=1e-300)
    axes.quiver(
        *places.T,
        *arrows.T,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=width,
        color=colour,
        zorder=2 if colour == INK else 4,
    )


def draw_labelled(axes: Axes, moment: Moment) -> None:
    """The two labelled points, larger and framed."""
    axes.scatter(
        *moment.places[: len(LABELS)].T,
        c=[0.0, 1.0],
        cmap=PROBABILITY_COLOURS,
        s=42,
        edgecolors=INK,
        linewidths=1.2,
        zorder=5,
    )


def close(axes: Axes) -> None:
    """A square frame around the points, without numbers: units mean nothing."""
    low = np.array([axes.dataLim.x0, axes.dataLim.y0])
    high = np.array([axes.dataLim.x1, axes.dataLim.y1])
    centre, half = (low + high) / 2, 0.62 * (high - low).max()
    axes.set_xlim(centre[0] - half, centre[0] + half)
    axes.set_ylim(centre[1] - half, centre[1] + half)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(True)


if __name__ == "__main__":
    main()
