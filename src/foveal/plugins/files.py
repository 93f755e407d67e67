"""Run a plugin file that a user named; no saved file is ever run by itself."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import SourceLoader
from pathlib import Path

from foveal.errors import PluginError
from foveal.plugins.blame import blaming
from foveal.plugins.registration import OwnParts, Plugin, content_digest


def read_plugins(plugins: Sequence[Path | str | Plugin]) -> tuple[Plugin, ...]:
    """Run plugin files; those that were run already are left as they are.

    Raises:
        PluginError: See `read_plugin`.
    """
    return tuple(
        plugin if isinstance(plugin, Plugin) else read_plugin(plugin)
        for plugin in plugins
    )


def read_plugin(path: Path | str) -> Plugin:
    """Run a plugin file and ask it for its parts.

    Args:
        path: Python file with a function ``register(parts)``.

    Raises:
        PluginError: Names the file, the line and what is wrong.
    """
    path = Path(path).absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PluginError(
            f"plugin {path} cannot be read ({error.strerror}); give a Python file"
        ) from error
    name = f"foveal_plugin_{content_digest(content)}"
    spec = importlib.util.spec_from_file_location(
        name, path, loader=_FileOnce(path, content)
    )
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the names in their annotations.
    sys.modules[name] = module
    with blaming([path]):
        spec.loader.exec_module(module)
    parts = OwnParts()
    register = getattr(module, "register", None)
    if not callable(register):
        raise PluginError(
            f"plugin {path} has no function register(parts); write one that calls "
            "parts.add_loss, add_network, add_sampler or add_method"
        )
    with blaming([path]):
        register(parts)
    if not parts.added:
        raise PluginError(
            f"plugin {path} adds nothing; let register(parts) call parts.add_loss, "
            "add_network, add_sampler or add_method"
        )
    return Plugin(path, content, tuple(parts.added))


class _FileOnce(SourceLoader):
    """Runs the bytes that were hashed, and leaves no compiled file behind."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        return self._content
