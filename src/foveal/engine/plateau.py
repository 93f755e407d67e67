"""A learning rate that drops when validation gets no better."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PlateauRule:
    """When the learning rate drops, and how far."""

    patience: int
    """Validations in a row without a new best score until it drops."""

    drop_factor: float
    """What the learning rate is multiplied by at a drop."""


class Plateau:
    """Counts validations without a new best score; part of every checkpoint."""

    def __init__(self, rule: PlateauRule) -> None:
        self._rule = rule
        self.best: float | None = None
        self.waited = 0
        """Validations since the best, or since the last drop."""

        self.drops = 0

    @property
    def factor(self) -> float:
        """Of the learning rate."""
        return self._rule.drop_factor**self.drops

    def add(self, score: float) -> None:
        """Take in the score of a validation."""
        if self.best is None or score > self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited == self._rule.patience:
            self.drops, self.waited = self.drops + 1, 0

    def state(self) -> dict[str, float | None]:
        """What `load` needs."""
        return {"best": self.best, "waited": self.waited, "drops": self.drops}

    def load(self, state: Mapping[str, float | None]) -> None:
        """Continue from what `state` gave."""
        self.best = state["best"]
        self.waited, self.drops = int(state["waited"] or 0), int(state["drops"] or 0)
