"""Every setting of Foveal, its default, its meaning and its checks.

One namespace in two files: a *plan* holds what follows from the data (grids,
intensities, network shape, patch and batch size), the *settings* hold what a person
chooses (sampling, augmentation, loss, optimiser, length of training). A settings file
may name tables of both; ``--set table.name=value`` reaches both. Unknown names are
errors, so a misspelt one is never ignored.

Losses, networks, samplers and methods are chosen by name, and plugins add to the names.
`Plan` and `Settings` read whatever a run saved, with or without its plugins; what a
person writes is checked by `plan_model` and `settings_model`, which know all names.
"""

from foveal.config.sections import Section

__all__ = ["Section"]
