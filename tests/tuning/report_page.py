"""A parser of HTML reports, and checks that every report passes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

VOID = {"meta", "br", "img", "link", "input", "hr", "base"}


class Page(HTMLParser):
    """The elements of a page with their attributes, tables by caption, text of scripts and code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, dict[str, list[str]]] = {}
        self.all_tables: list[tuple[str, dict[str, list[str]]]] = []
        self.scripts: list[str] = []
        self.codes: list[str] = []
        self.strong: list[str] = []
        self.text = ""
        self._row: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("th", "td"):
            self._row.append("")
        for kind, texts in (("script", self.scripts), ("code", self.codes)):
            if tag == kind:
                texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "caption":
            self.tables[self._caption] = {}
            self.all_tables.append((self._caption, self.tables[self._caption]))
        if tag == "tr":
            self.tables[self._caption][self._row[0]] = self._row[1:]
            self._row = []
        if tag == "table":
            self._caption = ""

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif "code" in self.open:
            self.codes[-1] += data
        elif "caption" in self.open:
            self._caption += data
        elif "th" in self.open or "td" in self.open:
            self._row[-1] += data
            if self.open[-1] == "strong":
                self.strong.append(data)
        elif self.open[-1:] != ["style"]:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, caption: str) -> dict[str, list[str]]:
        (found,) = [table for text, table in self.tables.items() if text.startswith(caption)]
        return found

    def drawing(self, key: str) -> list[dict[str, Any]]:
        """The Plotly traces of a chart."""
        call = re.compile(rf'Plotly\.newPlot\(\s*"{key}",\s*')
        (script,) = [script[found.end() :] for script in self.scripts if (found := call.search(script))]
        traces: list[dict[str, Any]] = json.JSONDecoder().raw_decode(script)[0]
        return traces


def check_nothing_is_loaded(text: str, report: Page) -> None:
    """No element, style or tool bar loads anything, and the content policy refuses requests of scripts."""
    loading = {"link", "img", "iframe", "object", "embed", "base", "video", "audio", "form"}
    assert not {tag for tag, _ in report.elements} & loading
    for tag, attributes in report.elements:
        assert not {"src", "srcset", "poster", "data", "action", "background"} & attributes.keys(), tag
        assert attributes.get("href", "#").startswith("#")
    policies = [meta["content"] for meta in report.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies and policies[0].startswith("default-src 'none';") and "http" not in policies[0]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    drawings = [script for script in report.scripts if "Plotly.newPlot(" in script[:400]]
    # Plotly's default tool bar has a button that uploads.
    assert len(drawings) == len(report.of("figure")) and all('"modeBarButtons"' in script for script in drawings)


def check_readable(report: Page) -> None:
    """Accessible by keyboard and screen reader: headings in order, named regions, captions, texts of charts."""
    headings = [int(tag[1]) for tag, _ in report.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert all(cell.get("scope") in ("row", "col") for cell in report.of("th"))
    assert len(report.of("table")) == len(report.of("caption")) == len(report.all_tables)
    assert all(
        region["tabindex"] == "0" and region["aria-label"]
        for region in report.of("div")
        if "scroll" in region.get("class", "")
    )
    # The first link skips the contents.
    assert report.of("a")[0] == {"class": "skip", "href": "#content"} and report.of("main")[0]["id"] == "content"
    drawings = [div for div in report.of("div") if div.get("role") == "img"]
    assert len(drawings) == len(report.of("figure")) == len(report.of("figcaption"))
    assert [div["aria-labelledby"] for div in drawings] == [text["id"] for text in report.of("figcaption")]
    ids = [attributes["id"] for _, attributes in report.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in report.of("a")} <= set(ids)
    assert {figure["aria-labelledby"] for figure in report.of("figure")} <= set(ids)
    assert report.of("html") == [{"lang": "en"}]
