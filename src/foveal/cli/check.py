"""``foveal check``: what is wrong or odd about a data set, and what to do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console, errors_for_people, print_json, progress

if TYPE_CHECKING:
    from foveal.planning.audit import Audit
    from foveal.planning.findings import Finding

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}

NAMES_SHOWN = 6
"""Of the cases that share a finding; ``--json`` lists all."""


def check(
    dataset: Annotated[
        Path, typer.Argument(help="Folder or table of the data set.", metavar="DATASET")
    ],
    *,
    picture: Annotated[
        Path | None,
        typer.Option(help="PNG for pictures of the oddest cases; none if unset."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Where preprocessed cases would go; see foveal preprocess."),
    ] = None,
    resample_channels: Annotated[
        bool,
        typer.Option(
            "--resample-channels", help="Bring all channels onto the grid of the first."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON.")
    ] = False,
) -> None:
    """Read every file of a data set; exit 1 if something must be mended first."""
    with errors_for_people():
        from foveal.commands import check as command

        with progress("reading the cases") as on_progress:
            audit = command.check(
                dataset,
                on_progress,
                store=store,
                picture=picture,
                resample_channels=resample_channels,
            )
        if as_json:
            print_json(audit.as_table())
        else:
            _print_summary(audit)
            _print_findings(audit)
            _print_picture(audit, picture)
        if audit.num_errors:
            raise typer.Exit(1)


def _print_summary(audit: "Audit") -> None:
    from foveal.planning.resources import in_gb

    found = audit.dataset
    unlabelled = ""
    if found.unlabelled:
        unlabelled = f", {len(found.unlabelled)} unlabelled ones to train on"
    console.print(
        f"[bold]{escape(found.name)}[/]: {len(found.cases)} cases, "
        f"{len(found.labelled)} with a label map{unlabelled}; "
        f"channels: {escape(', '.join(found.channel_names))}",
        highlight=False,
    )
    for domain in found.domains:
        name = "no domain" if domain.name is None else f"domain {escape(domain.name)}"
        console.print(
            f"{name}: {domain.labelled_cases} labelled and "
            f"{domain.unlabelled_cases} unlabelled cases",
            highlight=False,
        )
    table = Table("structure", "value", "annotated in", "present in")
    for name, values in found.structures.items():
        counts = audit.annotated_cases[name], audit.present_cases[name]
        where = "own mask" if found.has_structure_files else ", ".join(map(str, values))
        table.add_row(escape(name), where, *(f"{count} cases" for count in counts))
    console.print(table)
    for case in found.excluded:
        console.print(
            f"left out: {escape(case.name)} ({escape(case.reason)})", highlight=False
        )
    if found.ignore_value is not None:
        console.print(f"voxels with the value {found.ignore_value} are ignored")
    needs = audit.resources
    if needs.largest_case is None:
        return
    console.print(
        f"Preprocessed, the cases take about {in_gb(needs.store_bytes)} on disk "
        f"({in_gb(needs.free_disk_bytes)} free); the largest, "
        f"{escape(needs.largest_case)}, about {in_gb(needs.memory_bytes)} of memory "
        f"({in_gb(needs.available_memory_bytes)} available).",
        highlight=False,
    )


def _print_findings(audit: "Audit") -> None:
    if not audit.findings:
        console.print("[bold green]Nothing wrong was found.[/]")
        return
    # One column for all that is said, so that it can be read on 80 columns too.
    table = Table("case", "", "what it is, why it matters, what to do", show_lines=True)
    for finding in audit.findings:
        table.add_row(
            escape(finding.case or "data set"),
            f"[{STYLES[finding.severity]}]{finding.severity}[/]",
            _words(finding),
        )
    console.print(table)
    console.print(
        f"{audit.num_errors} error(s), {audit.count('warning')} warning(s), "
        f"{audit.count('note')} note(s)"
    )
    if audit.num_errors:
        console.print(
            "[bold red]Mend the errors first:[/] training would fail, or its test be "
            "worthless."
        )


def _words(finding: "Finding") -> str:
    lines = [
        f"[bold]{escape(finding.what)}[/]",
        f"[dim]why:[/] {escape(finding.why)}",
        f"[dim]do:[/] {escape(finding.remedy)}",
    ]
    if len(finding.cases) > 1:
        shown = ", ".join(finding.cases[:NAMES_SHOWN])
        more = len(finding.cases) - NAMES_SHOWN
        lines.append(
            f"[dim]cases:[/] {escape(shown)}"
            + (f" and {more} more (--json lists all)" if more > 0 else "")
        )
    return "\n".join(lines)


def _print_picture(audit: "Audit", picture: Path | None) -> None:
    if picture is None:
        return
    words = (
        f"Picture of the oddest cases: {picture}"
        if audit.case_findings
        else f"No case is odd, so {picture} was not written."
    )
    console.print(words, markup=False, highlight=False, soft_wrap=True)
