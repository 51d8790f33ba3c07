"""Tables in Markdown, which read well in a terminal, too."""

from __future__ import annotations

from collections.abc import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[k]) for row in [titles, *rows]) for k in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return (
        "\n".join([line(titles), line(["-" * width for width in widths]), *[line(row) for row in rows]])
        + "\n"
    )
