"""HTML pages and their parts. Every ``str`` argument is escaped; only this file writes markup.

A report is ``document(title, note, sections)``; a section is a heading over parts: tables, and :data:`Html` made by the
functions here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import NamedTuple, NewType

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dspark_tuning.reporting.table import Cell, Share, Strong, Table, cell_text

Html = NewType("Html", str)
Part = Html | Table

# With this policy the browser itself refuses every request of a script on the page.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
# Buttons are listed one by one, since Plotly's defaults include uploading the figure.
PLOTLY = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
}

# Plotly cannot measure a folded chart, so charts take their width when they unfold.
UNFOLD = """document.addEventListener("toggle", (event) => {
  for (const drawing of event.target.querySelectorAll(".plotly-graph-div")) Plotly.Plots.resize(drawing);
}, true);"""


class Section(NamedTuple):
    """A heading over its parts; ``key`` is the anchor, unique in a page (``content`` is taken)."""

    key: str
    title: str
    parts: Sequence[Part]


def document(title: str, note: str, sections: Sequence[Section]) -> str:
    """An HTML page: title, a note under it, contents, sections."""
    contents = "".join(f'<li><a href="#{section.key}">{escape(section.title)}</a></li>' for section in sections)
    body = "\n".join(_section(section) for section in sections)
    css = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{css}</style>
<script>{get_plotlyjs()}</script>
<script>{UNFOLD}</script>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{escape(title)}</h1>
<p class="note">{escape(note)}</p>
<noscript><p class="note">The charts need JavaScript; their values are in the tables under them.</p></noscript>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
</header>
<main id="content" tabindex="-1">
{body}
</main>
</body>
</html>
"""


def paragraph(text: str) -> Html:
    return Html(f"<p>{escape(text)}</p>")


def lead(text: str) -> Html:
    """The main sentence of a section."""
    return Html(f'<p class="lead">{escape(text)}</p>')


def subheading(text: str) -> Html:
    return Html(f"<h3>{escape(text)}</h3>")


def code(text: str) -> Html:
    return Html(f'<pre tabindex="0"><code>{escape(text)}</code></pre>')


def details(summary: str, *parts: Part, unfolded: bool = False) -> Html:
    """Parts that unfold with a click."""
    state = " open" if unfolded else ""
    return Html(f"<details{state}><summary>{escape(summary)}</summary>{''.join(map(_markup, parts))}</details>")


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    items = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in pairs)
    return Html(f"<dl>{items}</dl>")


def figure(key: str, drawing: go.Figure, caption: str, *same: Table) -> Html:
    """A chart with its caption.

    Args:
        key: Element id of the chart, unique in a page.
        same: The same values as tables, for readers who cannot see or run the chart.
    """
    drawn = drawing.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, div_id=key, config=PLOTLY)
    return Html(
        f'<figure aria-labelledby="{key}-caption"><figcaption id="{key}-caption">{escape(caption)}</figcaption>'
        f'<div role="img" aria-labelledby="{key}-caption">{drawn}</div>'
        f"{details('The same values as a table', *same)}</figure>"
    )


def _section(section: Section) -> str:
    parts = "\n".join(map(_markup, section.parts))
    heading = f'<h2 id="{section.key}-title">{escape(section.title)}</h2>'
    return f'<section id="{section.key}" aria-labelledby="{section.key}-title">\n{heading}\n{parts}\n</section>'


def _markup(part: Part) -> str:
    return _table(part) if isinstance(part, Table) else part


def _table(table: Table) -> str:
    """A table that scrolls sideways where it does not fit."""
    title = escape(table.title)
    marks = [" class=words" if table.is_words(place) else "" for place in range(len(table.columns))]
    columns = "".join(
        f'<th scope="col"{mark}>{escape(name)}</th>' for name, mark in zip(table.columns, marks, strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row">{_cell(header)}</th>'
        + "".join(f"<td{mark}>{_cell(cell)}</td>" for cell, mark in zip(cells, marks[1:], strict=True))
        + "</tr>"
        for header, *cells in table.rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}"><table>'
        f"<caption><span>{title}</span></caption><thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    text = escape(cell_text(cell))
    if isinstance(cell, Share):
        return f'{text} <meter min="0" max="1" value="{cell:.4f}">{cell:.0%}</meter>'
    return f"<strong>{text}</strong>" if isinstance(cell, Strong) else text
