"""Write docs/settings.md from the docstrings of config.

python docs/make_settings.py
"""

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

HEAD = """\
# All settings

Written by `python docs/make_settings.py` from `src/foveal/config`; do not edit.

Set any of them with `--set table.name=value` (values are TOML; bare words are text), in
a settings file given to `foveal train` in place of the data set, or, for the tables of
the plan, in `plan.toml`. An unknown name is an error; all mistakes are told at once. A
[plugin](own_parts.md) adds names and tables of its own.
"""

PARTS = {
    "Plan": "The plan: what follows from the data (`plan.toml`)",
    "Settings": "Settings: what a person chooses (`settings.toml`)",
    "EnsembleConfig": "An ensemble that is trained (`ensemble.toml`)",
    "PostprocessingConfig": "After the network (`postprocessing.toml` of a run)",
}


def settings_page() -> str:
    """The page as it should be."""
    classes = {
        node.name: node
        for path in sorted(
            (ROOT / "src/foveal/config").rglob("*.py"),
            # The planner's own network first.
            key=lambda path: (path.name != "unet.py", path),
        )
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    parts = [HEAD]
    for name, title in PARTS.items():
        parts.append(f"\n## {title}\n")
        for field in fields(classes[name]):
            tables = tables_of(field, classes)
            if not tables:
                parts.append(f"\n### `{field.name}`\n\n{described(field)}\n")
            for choice, table in tables.items():
                name = f"[{field.name}]" if field.is_list else field.name
                title = f"`[{name}]`{choice}"
                parts.append(f"\n### {title}\n\n{ast.get_docstring(table)}\n")
                parts.append(rows(table, classes))
    return "".join(parts)


def tables_of(field: "Field", classes: dict[str, ast.ClassDef]) -> dict[str, Any]:
    """What a setting may be a table of: words for the choice to the section."""
    kind = field.annotation.removesuffix(" | None")
    if field.is_list:
        kind = kind.removeprefix("tuple[").removesuffix(", ...]")
    section = classes.get(kind)
    if section is not None:
        return {"": section}
    base = field.annotation.removeprefix("SerializeAsAny[").removesuffix("]")
    return {
        f" of {ast.literal_eval(fields(section)[0].default)}": section
        for section in classes.values()
        if base in [ast.unparse(each) for each in section.bases]
        and not section.keywords
        and fields(section)
    }


class Field:
    """One annotated name of a class, with the string below it."""

    def __init__(self, node: ast.AnnAssign, comment: str) -> None:
        self.name = ast.unparse(node.target)
        self.annotation = ast.unparse(node.annotation)
        self.default = "" if node.value is None else ast.unparse(node.value)
        self.comment = comment

    @property
    def is_list(self) -> bool:
        """Whether there may be several of it, one after another."""
        return re.fullmatch(r"tuple\[\w+, \.\.\.\]", self.annotation) is not None


def fields(section: ast.ClassDef) -> list[Field]:
    """Settings of a table, in order."""
    found = []
    for node, after in zip(section.body, [*section.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        # Neither what all plans share nor pydantic's own.
        if "ClassVar" in ast.unparse(node) or ast.unparse(node).startswith("__"):
            continue
        comment = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            comment = " ".join(str(after.value.value).split())
        found.append(Field(node, comment))
    return found


def rows(section: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> str:
    """A table of names, defaults and meanings; nested tables below their row."""
    if not fields(section):
        return ""
    heading = "\n| name | default | meaning |\n|---|---|---|\n"
    return heading + "".join(lines(section, classes, ""))


def lines(
    section: ast.ClassDef, classes: dict[str, ast.ClassDef], within: str
) -> list[str]:
    """Rows of a section whose names begin with ``within``."""
    found = []
    for field in fields(section):
        name = within + field.name
        words = re.findall(r"\w+", field.annotation)
        inner = next((word for word in words if word in classes), None)
        meaning = described(field)
        if inner and not meaning:
            summary = ast.get_docstring(classes[inner]) or ""
            meaning = summary.split("\n\n")[0].replace("``", "`")
        found.append(f"| `{name}` | {default(field)} | {meaning} |\n")
        if inner:
            many = "[…]" if "tuple[" in field.annotation else ""
            found += lines(classes[inner], classes, f"{name}{many}.")
    return found


def default(field: Field) -> str:
    """What holds if nothing is set."""
    if field.default == "None":
        return "unset"
    text = field.default
    if text == f"{field.annotation}()":
        return ""
    if text.startswith("Field("):
        text = text.removeprefix("Field(").removesuffix(")").split(", min_length")[0]
    return f"`{text}`" if text and "min_length" not in text else ""


def described(field: Field) -> str:
    """The comment in Markdown."""
    return field.comment.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    (ROOT / "docs/settings.md").write_text(settings_page(), encoding="utf-8")
