"""The page of settings says what the code says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_settings_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make", DOCS / "make_settings.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert page == make.settings_page(), "run python docs/make_settings.py"
