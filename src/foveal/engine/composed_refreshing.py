"""Several things refreshed in one training, each as if it were alone."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from foveal.engine.refreshing import Refreshing
from foveal.networks.interface import Network


class ComposedRefreshing:
    """Refreshes one part after another.

    Args:
        parts: By the names that their states are kept under.
    """

    def __init__(self, parts: Mapping[str, Refreshing]) -> None:
        self._parts = dict(parts)

    def next_pause(self, step: int) -> int | None:
        """The first that any part asks for."""
        pauses = [part.next_pause(step) for part in self._parts.values()]
        return min((pause for pause in pauses if pause is not None), default=None)

    def at_pause(
        self, step: int, predictor: Callable[[], Network]
    ) -> dict[str, Any] | None:
        """One row of what the parts log, their seconds added."""
        rows = [part.at_pause(step, predictor) for part in self._parts.values()]
        done = [row for row in rows if row is not None]
        if not done:
            return None
        together: dict[str, Any] = {}
        for row in done:
            together |= row
        return together | {"seconds": sum(row["seconds"] for row in done)}

    def after_step(
        self, step: int, predictor: Callable[[], Network]
    ) -> Sequence[dict[str, Any]]:
        """Rows of all parts."""
        return [
            row
            for part in self._parts.values()
            for row in part.after_step(step, predictor)
        ]

    def state(self) -> dict[str, Any]:
        """Name of each part to its state."""
        return {name: part.state() for name, part in self._parts.items()}

    def saved(self, state: Mapping[str, Any]) -> None:
        """Tell each of its own."""
        for name, part in self._parts.items():
            part.saved(state[name])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Give each its own."""
        for name, part in self._parts.items():
            part.restore(state[name])

    def close(self) -> None:
        """Close all, also if one fails to."""
        with ExitStack() as stack:
            for part in self._parts.values():
                stack.callback(part.close)
