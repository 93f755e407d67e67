import pytest

from foveal.building import BUILT_IN, parts_with
from foveal.engine.run_directory import RunDirectory
from foveal.errors import PluginError, RunError, SettingsError
from foveal.plugins.files import read_plugin, read_plugins
from foveal.plugins.kept import (
    keep_plugins,
    kept_plugins,
    plugins_for_network,
    require_kept,
)
from foveal.plugins.parts import Parts

LOSS = """
def loss(logits, label_map, annotated, structures):
    return logits.mean()


def register(parts):
    parts.add_loss("{name}", loss)
"""

NETWORK = """
def register(parts):
    parts.add_network("tiny", lambda in_channels, num_classes: None)
"""


def written(folder, text, name="own.py"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_ran_is_what_is_hashed_and_nothing_is_left_beside_it(tmp_path):
    path = written(tmp_path, LOSS.format(name="one"))
    plugin = read_plugin(path)
    path.write_text(LOSS.format(name="two"))
    assert plugin.names("loss") == ("one",)
    assert plugin.content == LOSS.format(name="one").encode()
    again = read_plugin(path)
    assert again.names("loss") == ("two",)
    assert again.digest != plugin.digest
    assert [file.name for file in tmp_path.iterdir()] == ["own.py"]


def test_a_plugin_that_was_run_is_not_run_again(tmp_path):
    note = f'with open(r"{tmp_path / "runs"}", "a") as file:\n    file.write("x")\n'
    text = note + LOSS.format(name="one")
    plugins = read_plugins([written(tmp_path, text)])
    assert parts_with(plugins).plugins == plugins
    assert (tmp_path / "runs").read_text() == "x"


def test_dataclasses_and_postponed_annotations_work(tmp_path):
    text = """
from __future__ import annotations
from dataclasses import dataclass
from foveal.config import Section

class Options(Section):
    size: tuple[int, int] = (1, 2)

@dataclass
class Middle:
    structures: dict[str, tuple[int, ...]]
    size: tuple[int, int]

def register(parts):
    parts.add_sampler("middle", Middle, Options)
"""
    parts = parts_with([written(tmp_path, text)])
    part = parts.added("sampler", "middle")
    made = parts.built(part, {"size": [3, 4]}, {"ball": (1,)})
    assert (made.structures, made.size) == ({"ball": (1,)}, (3, 4))
    with pytest.raises(
        SettingsError, match=r"options are size\):\n  sampler middle.sise"
    ):
        parts.built(part, {"sise": 3}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def register(parts)\n    pass", r"own\.py, line 1: SyntaxError: expected"),
        ("x = 1\nx.y", r"own\.py, line 2: AttributeError: 'int' object has no"),
        ("import foveal.nothing", r"own\.py, line 1: ModuleNotFoundError: No module"),
        ("raise SystemExit(3)", r"own\.py, line 1: SystemExit: 3"),
        ("register = 3", r"own\.py has no function register\(parts\)"),
        ("def register(parts):\n    pass", r"own\.py adds nothing"),
        ("def register(parts):\n    parts.add_los('x')", r"line 2: AttributeError"),
        ("def register(parts):\n    parts.add_loss('a b', min)", "needs a name of"),
        ("def register(parts):\n    parts.add_loss('copy', min)", "this one is taken"),
        ("def register(parts):\n    parts.add_loss('x', 3)", 'loss "x" is 3; give a'),
        (
            "def register(parts):\n    parts.add_loss('x', lambda logits: 0)",
            r"line 2: loss \"x\" is going to be called with \(logits, label_map",
        ),
        (
            (
                "def register(parts):\n"
                "    parts.add_method('x', lambda network, losses, sampler: 0)"
            ),
            r"batch_size=…\), which it does not take",
        ),
        (
            "def register(parts):\n    parts.add_loss('x', lambda a, b, c, d: 0, dict)",
            r"give a class derived from foveal\.config\.Section",
        ),
        (
            (
                "from foveal.config import Section\n"
                "class Options(Section):\n    a: int\n"
                "def register(parts):\n"
                "    parts.add_loss('x', lambda l, m, n, s, *, a: 0, Options)"
            ),
            'loss "x": give a a default',
        ),
    ],
)
def test_a_wrong_plugin_is_told_with_file_and_line(tmp_path, text, message):
    with pytest.raises(PluginError, match=message):
        read_plugin(written(tmp_path, text))


def test_a_missing_plugin_is_named(tmp_path):
    with pytest.raises(PluginError, match=r"absent\.py cannot be read \(No such"):
        read_plugin(tmp_path / "absent.py")


def test_names_are_unique(tmp_path):
    one = written(tmp_path / "a", LOSS.format(name="mine"))
    two = written(tmp_path / "b", LOSS.format(name="mine"))
    with pytest.raises(PluginError, match=r'there is a "mine" already, in .*own\.py'):
        parts_with([one, two])
    taken = written(tmp_path, LOSS.format(name="dice"))
    with pytest.raises(PluginError, match='"dice" is built in; give your loss another'):
        parts_with([taken])


def test_an_unknown_part_is_told_with_those_there_are(tmp_path):
    parts = parts_with([written(tmp_path, NETWORK)])
    assert parts.added("network", "unet3d") is None
    with pytest.raises(SettingsError, match=r"there are unet3d, .*tiny\. Another"):
        parts.added("network", "vnet")
    with pytest.raises(SettingsError, match="comes with --plugin"):
        Parts(BUILT_IN).added("network", "tiny")


def test_a_run_asks_for_what_it_was_made_with_and_no_more(tmp_path):
    run = RunDirectory(tmp_path / "run")
    loss, network = read_plugins(
        [
            written(tmp_path, LOSS.format(name="mine"), "loss.py"),
            written(tmp_path, NETWORK, "net.py"),
        ]
    )
    keep_plugins(run, [loss, network])
    assert [kept.digest for kept in kept_plugins(run)] == [loss.digest, network.digest]
    assert (run.plugins / "loss.py").read_bytes() == loss.content
    require_kept(run, [network, loss])
    assert plugins_for_network(run, "tiny", [network]) == (network,)
    assert plugins_for_network(run, "unet3d", []) == ()
    with pytest.raises(PluginError, match=r"needs the plugin loss\.py \(blake2b"):
        require_kept(run, [network])
    with pytest.raises(PluginError, match=r"add --plugin .*plugins.net\.py"):
        plugins_for_network(run, "tiny", [loss])
    more = read_plugin(written(tmp_path, LOSS.format(name="more"), "more.py"))
    with pytest.raises(PluginError, match=r"made without plugin .*more\.py; leave"):
        require_kept(run, [loss, network, more])


def test_a_changed_plugin_is_refused_with_both_hashes(tmp_path):
    run = RunDirectory(tmp_path / "run")
    path = written(tmp_path, NETWORK)
    kept = read_plugin(path)
    keep_plugins(run, [kept])
    path.write_text(NETWORK + "\n# harmless?\n")
    changed = read_plugin(path)
    with pytest.raises(
        PluginError, match=rf"{kept.digest}.*own\.py \(blake2b {changed.digest}\) is"
    ):
        plugins_for_network(run, "tiny", [changed])
    assert plugins_for_network(run, "tiny", [read_plugin(run.plugins / "own.py")])


def test_two_files_of_one_name_cannot_be_kept_together(tmp_path):
    plugins = read_plugins(
        [
            written(tmp_path / "a", LOSS.format(name="one")),
            written(tmp_path / "b", LOSS.format(name="two")),
        ]
    )
    with pytest.raises(PluginError, match=r"two plugins are called own\.py; rename"):
        keep_plugins(RunDirectory(tmp_path / "run"), plugins)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format_version = 2\nplugins = []", "has format version 2; this Foveal reads"),
        ("format_version = ", "is damaged"),
        ("format_version = 1", "is damaged"),
        ("format_version = 1\nplugins = [3]", "is damaged"),
    ],
)
def test_damaged_records_are_told(tmp_path, text, message):
    (tmp_path / "plugins.toml").write_text(text)
    with pytest.raises(RunError, match=message):
        kept_plugins(RunDirectory(tmp_path))


def test_a_record_cannot_point_outside_the_run(tmp_path):
    (tmp_path / "plugins.toml").write_text(
        'format_version = 1\n[[plugins]]\nfile = "../../evil.py"\nblake2b = "0"\n'
    )
    (kept,) = kept_plugins(RunDirectory(tmp_path))
    assert kept.path == tmp_path / "plugins" / "evil.py"
