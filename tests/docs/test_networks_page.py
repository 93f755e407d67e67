"""The Python examples of the page on networks run as they stand."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/networks.md"
EXAMPLES = re.findall(
    r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example):
    exec(example, {})  # noqa: S102 - ours
