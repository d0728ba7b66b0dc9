from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import File, Folder, echo_json, json_option, verbosity_options


@click.command("report")
@click.argument("bundle", type=Folder())
@click.argument("other", type=Folder(), required=False)
@click.option("--open", "show", is_flag=True, help="Open it in the web browser.")
@click.option("--output", "-o", type=File(), help="Write it as one self-contained web page.")
@json_option
@verbosity_options
def command(bundle: Path, other: Path | None, output: Path | None, *, show: bool, as_json: bool) -> None:
    """Show a bundle's report, or what changed between two.

    A refused build has a report as well. With OTHER: what changed from BUNDLE to OTHER in verdicts, accuracy, speed,
    size, passes and versions.
    """
    from enginery.pipeline.bundle import must_be_outside
    from enginery.pipeline.report import read_report

    for folder in (bundle, other):
        if output is not None and folder is not None:
            must_be_outside(output, folder)
    report = read_report(bundle)
    if other is None:
        from enginery.pipeline.report.html import render_html
        from enginery.pipeline.report.markdown import render_markdown

        document, text = report.model_dump(mode="json"), render_markdown(report)
        page = render_html(report) if show or output else ""
    else:
        from enginery.pipeline.report.compare import compare_reports, render_comparison_html, render_comparison_text

        changes = compare_reports(report, read_report(other))
        document, text = [change.to_json() for change in changes], render_comparison_text(changes)
        page = render_comparison_html(changes, str(bundle), str(other)) if show or output else ""
    if output is not None:
        output.write_text(page, encoding="utf-8")
    if show:
        _open(output, page)
    if as_json:
        echo_json(document)
    elif output is not None:
        click.echo(f"wrote {output}")
    elif not show:
        click.echo(text, nl=False)


def _open(output: Path | None, page: str) -> None:
    """Open the page; without --output it goes to a temporary file, which the browser needs after we are gone."""
    import tempfile
    import webbrowser

    from enginery.errors import EngineryError

    if output is None:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="enginery-report-", suffix=".html", delete=False
        ) as file:
            file.write(page)
        output = Path(file.name)
    if not webbrowser.open(output.absolute().as_uri()):
        raise EngineryError(f"No web browser could be opened. The page is {output}; open it with your own.")
