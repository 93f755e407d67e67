"""What adaptive sampling leaves in a made-up run: a log and error maps."""

import json
import shutil

import numpy as np
from made_up_run import PLAN, STRUCTURES, made_up_run

from foveal.commands.preprocess import preprocess
from foveal.commands.refreshing import error_map_folder
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.run_directory import RunDirectory
from foveal.inference.errors import CaseErrors
from foveal.settings_files import to_toml

STEPS = 9


def made_up_adaptive_run(folder, *, adaptive=True):
    """A run of `made_up_run` whose cases "a" and "b" were trained on, and "c" too.

    Step ``n`` draws a patch of "a" around (n, 2, 3) and one of "b" around (1, n, 3).
    Every case is predicted after 3 and after 6 steps; its error is 200 and then 50 of
    255 in structures, elsewhere 0.
    """
    run = made_up_run(folder, ball_sizes={"a": 6, "b": 6, "c": 4})
    # Pictures of predictions have tests of their own.
    shutil.rmtree(run / "validation")
    store = folder / "store"
    settings = Settings(
        dataset=folder / "data",
        store=store,
        sampling={"adaptive": adaptive},
        training={
            "steps": STEPS,
            "precision": "float32",
            "memory_layout": "contiguous",
        },
    )
    (run / "settings.toml").write_text(to_toml(settings), encoding="utf-8")
    cases = preprocess(folder / "data", Plan.model_validate(PLAN), store=store)
    maps = error_map_folder(RunDirectory(run), settings, {"labelled": cases})
    rows = []
    for step in range(STEPS):
        if adaptive and step in (3, 6):
            value = {3: 200, 6: 50}[step]
            for case in cases:
                labels = case.read_label_map([slice(0, n) for n in case.shape])
                error = np.where(labels > 0, value, 0).astype(np.uint8)
                found = CaseErrors(error, value / 255, dict.fromkeys(STRUCTURES, 0.5))
                maps.write(case.name, step, found)
            told = {"mean_error": 0.01, "dice": dict.fromkeys(STRUCTURES, 0.5)}
            difficulty = {"a": value / 255, "b": value / 510, "c": 0.1}
            refreshed = {
                name: {**told, "difficulty": hard} for name, hard in difficulty.items()
            }
            rows.append(
                {"kind": "refresh", "step": step, "cases": refreshed, "seconds": 2.0}
            )
        row = {
            "kind": "step",
            "step": step,
            "loss": 2.0 - step / 10,
            "terms": {"dice": 1.0},
            "learning_rate_factor": 1.0,
            "seconds": 0.5,
            "waited_seconds": 0.0,
            "patches": {"labelled": [["a", step, 2, 3], ["b", 1, step, 3]]},
        }
        if adaptive:
            row["acceptance"] = 1.0 if step < 3 else 0.25
        if adaptive and step >= 3:
            row["map_age_steps"] = step % 3
        rows.append(row)
    scores = {"Ball": 0.5, "Box <b>": 0.7}
    rows.append(
        {
            "kind": "validation",
            "step": STEPS,
            "measure": "Dice",
            "scores": scores,
            "mean": 0.6,
            "seconds": 1.0,
        }
    )
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "log.jsonl").write_text(log, encoding="utf-8")
    return run
