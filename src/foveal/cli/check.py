"""``foveal check``: what is wrong or odd about a data set, and what to do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console, errors_for_people, print_json, progress

if TYPE_CHECKING:
    from foveal.planning.audit import Audit


def check(
    dataset: Annotated[
        Path, typer.Argument(help="Folder or table of the data set.", metavar="DATASET")
    ],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON.")
    ] = False,
) -> None:
    """Read every file of a data set; exit 1 if training would fail."""
    with errors_for_people():
        from foveal.commands import check as command

        with progress("reading the cases") as on_progress:
            audit = command.check(dataset, on_progress)
        if as_json:
            print_json(audit.as_table())
        else:
            _print_summary(audit)
            _print_findings(audit)
        if audit.num_errors:
            raise typer.Exit(1)


def _print_summary(audit: "Audit") -> None:
    found = audit.dataset
    console.print(
        f"[bold]{escape(found.name)}[/]: {len(found.cases)} cases, "
        f"{len(found.labelled)} with a label map; "
        f"channels: {escape(', '.join(found.channel_names))}",
        highlight=False,
    )
    table = Table("structure", "value", "annotated in", "present in")
    for name, value in found.label_values.items():
        counts = audit.annotated_cases[name], audit.present_cases[name]
        table.add_row(escape(name), str(value), *(f"{count} cases" for count in counts))
    console.print(table)
    if found.ignore_value is not None:
        console.print(f"voxels with the value {found.ignore_value} are ignored")


def _print_findings(audit: "Audit") -> None:
    if not audit.findings:
        console.print("[bold green]Nothing wrong was found.[/]")
        return
    styles = {"error": "bold red", "warning": "yellow"}
    table = Table("case", "", "what", "why it matters", "what to do", show_lines=True)
    for finding in audit.findings:
        texts = finding.what, finding.why, finding.remedy
        table.add_row(
            escape(finding.case or "data set"),
            f"[{styles[finding.severity]}]{finding.severity}[/]",
            *(escape(text) for text in texts),
        )
    console.print(table)
    num_warnings = len(audit.findings) - audit.num_errors
    console.print(f"{audit.num_errors} error(s), {num_warnings} warning(s)")
    if audit.num_errors:
        console.print("[bold red]Training would fail:[/] mend the errors first.")
