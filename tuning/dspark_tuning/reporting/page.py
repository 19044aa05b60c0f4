"""HTML parts. Whatever goes in as ``str`` is escaped; only this file writes markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import NamedTuple, NewType

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

Html = NewType("Html", str)

# The browser itself then refuses every request, whatever a script on the page asks for.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
# The buttons are named one by one, since the default ones include uploading the figure.
PLOTLY = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
}


# Plotly cannot measure what is folded away, so drawings take their width when they are unfolded.
UNFOLD = """document.addEventListener("toggle", (event) => {
  for (const drawing of event.target.querySelectorAll(".plotly-graph-div")) Plotly.Plots.resize(drawing);
}, true);"""


class Strong(str):
    """A table cell that stands out."""


class Share(float):
    """A table cell that holds a share of one, shown as a bar beside its number."""


Cell = str | Strong | Share


class Row(NamedTuple):
    """A row of a table: its header and its other cells."""

    header: Cell
    cells: Sequence[Cell]


class Section(NamedTuple):
    """A part of a page; ``key`` is its anchor."""

    key: str
    title: str
    parts: Sequence[Html]


def document(title: str, note: str, sections: Sequence[Section]) -> str:
    """A whole page: title, a note under it, contents, sections."""
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
<noscript><p class="note">The drawings need JavaScript; their figures are in the tables under them.</p></noscript>
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
    """The sentence that a section is about."""
    return Html(f'<p class="lead">{escape(text)}</p>')


def subheading(text: str) -> Html:
    return Html(f"<h3>{escape(text)}</h3>")


def code(text: str) -> Html:
    return Html(f'<pre tabindex="0"><code>{escape(text)}</code></pre>')


def details(summary: str, *parts: Html, unfolded: bool = False) -> Html:
    """Parts that are folded away until asked for."""
    state = " open" if unfolded else ""
    return Html(f"<details{state}><summary>{escape(summary)}</summary>{''.join(parts)}</details>")


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    items = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in pairs)
    return Html(f"<dl>{items}</dl>")


def table(caption: str, header: Sequence[str], rows: Iterable[Row], *, words: bool = False) -> Html:
    """A table that scrolls sideways where it does not fit; with ``words`` its cells are text, not numbers."""
    columns = "".join(f'<th scope="col">{escape(column)}</th>' for column in header)
    body = "\n".join(
        f'<tr><th scope="row">{_cell(row.header)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in row.cells)}</tr>'
        for row in rows
    )
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table{' class=words' if words else ''}>"
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(key: str, drawing: go.Figure, caption: str, *same: Html) -> Html:
    """A drawing with its caption.

    Args:
        key: Names the drawing in the page.
        same: The figures again as tables, for readers who cannot see or run the drawing.
    """
    drawn = drawing.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, div_id=key, config=PLOTLY)
    return Html(
        f'<figure aria-labelledby="{key}-caption"><figcaption id="{key}-caption">{escape(caption)}</figcaption>'
        f'<div role="img" aria-labelledby="{key}-caption">{drawn}</div>'
        f"{details('The same figures as a table', *same)}</figure>"
    )


def _section(section: Section) -> str:
    parts = "\n".join(section.parts)
    heading = f'<h2 id="{section.key}-title">{escape(section.title)}</h2>'
    return f'<section id="{section.key}" aria-labelledby="{section.key}-title">\n{heading}\n{parts}\n</section>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, Share):
        return f'{cell:.2f} <meter min="0" max="1" value="{cell:.4f}">{cell:.0%}</meter>'
    text = escape(cell)
    return f"<strong>{text}</strong>" if isinstance(cell, Strong) else text
