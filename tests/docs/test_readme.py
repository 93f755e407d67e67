"""The README's Python example runs as it stands, but for the time it trains."""

import re
import shutil
from pathlib import Path

from phantoms import write_ball_and_box_dataset

README = Path(__file__).resolve().parents[2] / "README.md"


def test_python_example_runs(tmp_path, monkeypatch):
    (example,) = re.findall(
        r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    folder = write_ball_and_box_dataset(tmp_path / "my_scans")
    (tmp_path / "new_scans").mkdir()
    (tmp_path / "references").mkdir()
    for name in ("case_0.nii.gz", "case_1.nii.gz"):
        shutil.copy(folder / "imagesTr" / name, tmp_path / "new_scans" / name)
        shutil.copy(folder / "labelsTr" / name, tmp_path / "references" / name)
    shutil.copy(folder / "imagesTr" / "case_0.nii.gz", tmp_path / "new_scan.nii.gz")
    assert "budget_seconds=600" in example
    names = {}
    exec(example.replace("budget_seconds=600", "steps=2"), names)  # noqa: S102 - ours
    assert names["label_map"].shape == (22, 20, 18)
    assert 0 <= names["result"].mean("liver", "dice") <= 1
    assert (tmp_path / "segmentations" / "case_1.nii.gz").exists()
