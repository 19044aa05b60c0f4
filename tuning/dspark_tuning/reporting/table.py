"""One table for the terminal, the HTML reports and the interactive page. Times in milliseconds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import rich.table
from rich import box
from rich.text import Text

# Columns that fit in a terminal beside intervals on one line.
WIDE = 8


class Strong(str):
    """A cell in bold."""


class Share(float):
    """A cell that holds a share of one; HTML adds a bar to the number."""


class Words(str):
    """The header of a column of text; the first column is text in any case, all others are numbers."""


Cell = str | Strong | Share


class Table(NamedTuple):
    """A titled table; the first cell of a row is its header.

    Attributes:
        title: HTML shows it as the caption.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def is_words(self, column: int) -> bool:
        """Whether the cells of a column are text."""
        return column == 0 or isinstance(self.columns[column], Words)

    def rich(self) -> rich.table.Table:
        """The table for a terminal; a wide one has intervals under their values and headers as narrow as the cells."""
        wide = len(self.columns) > WIDE
        rows = [[cell_text(cell).replace(" [", "\n[" if wide else " [") for cell in row] for row in self.rows]
        table = rich.table.Table(
            title=Text(self.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for place, name in enumerate(self.columns):
            words, no_wrap = self.is_words(place), name == "Arm"
            if wide and not words:
                parts = [*name.split(), *(line for row in rows for line in row[place].split("\n"))]
                width = max(map(len, parts))
                name = textwrap.fill(name, width)
            table.add_column(Text(name), justify="left" if words else "right", overflow="fold", no_wrap=no_wrap)
        for row, texts in zip(self.rows, rows, strict=True):
            styles = ("bold" if isinstance(cell, Strong) else "" for cell in row)
            table.add_row(*map(Text, texts, styles))
        return table


def cell_text(cell: Cell) -> str:
    """A cell as plain text."""
    return f"{cell:.2f}" if isinstance(cell, Share) else cell
