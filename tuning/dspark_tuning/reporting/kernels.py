"""Tables of ``dspark kernels``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table


def compiled(kernels: Iterable[Mapping[str, Any]]) -> Table:
    """What each compiled kernel takes of a target."""
    table = Table(title="Compiled ahead of time")
    for name in ("target", "kernel", "launched for"):
        table.add_column(name)
    for name in ("warps", "registers", "spilled B", "shared KiB", "code KiB"):
        table.add_column(name, justify="right")
    for one in kernels:
        fits = "" if one["fits"] else " (too much)"
        table.add_row(
            one["target"],
            one["kernel"],
            one["specimen"],
            str(one["warps"]),
            str(one["registers"]),
            str(one["spill_bytes"]),
            f"{one['shared_bytes'] / 1024:.1f}{fits}",
            f"{one['code_bytes'] / 1024:.0f}",
        )
    return table


def positions(found: Mapping[str, Any]) -> Table:
    """A draft position on the default target, every access and with L2 re-reads left out."""
    table = _beside(f"A draft position, {found['target']}: V 151,936, rank 256, bf16")
    for how, rows in (("sampled", found["rows"]), ("greedy", found["greedy"])):
        for requests, row in rows.items():
            minimum = f"{row['vs_minimum']:.3f} / {row['vs_minimum_l2']:.3f}"
            table.add_row(how, requests, *_bytes(row), minimum, *_ratio(row))
    return table


def rounds(found: Mapping[str, Any]) -> Table:
    """A whole round on the default target."""
    table = _beside(f"A round, {found['target']}: gamma 7, 3 drafts accepted; draft, confidence, schedule, acceptance")
    for how, name in (("sampled", "sampled"), ("eager", "sampled, no graph"), ("greedy", "greedy")):
        for requests, row in found["round"].items():
            table.add_row(name, requests, *_bytes(row[how]), "", *_ratio(row[how]))
    return table


def times(found: Mapping[str, Any]) -> Table:
    """What the bytes take at published bandwidth."""
    table = Table(title="Memory-bound time, DERIVED from published bandwidth, not measured (us, L2 re-reads left out)")
    for name in ("target", "GPU"):
        table.add_column(name)
    for name in ("R", "position", "SGLang's", "vs SGLang's, every / L2", "round", "SGLang's"):
        table.add_column(name, justify="right")
    for name, target in found["targets"].items():
        for requests, row in target["sampled"].items():
            whole = target["round"][requests]["sampled"]
            table.add_row(
                name,
                target["gpu"],
                requests,
                *(f"{1e6 * row[key]:.1f}" for key in ("derived_s", "upstream_derived_s")),
                f"{row['vs_upstream']:.3f} / {row['vs_upstream_l2']:.3f}",
                *(f"{1e6 * whole[key]:.0f}" for key in ("derived_s", "upstream_derived_s")),
            )
    return table


def _beside(title: str) -> Table:
    table = Table(title=title, caption="Two figures: every access / L2 re-reads left out.")
    table.add_column("")
    for name in ("R", "MB", "SGLang's MB", "vs minimum", "vs SGLang's", "launches"):
        table.add_column(name, justify="right")
    return table


def _bytes(row: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"{row['bytes'] / 1e6:.1f} / {row['bytes_l2'] / 1e6:.1f}",
        f"{row['upstream_bytes'] / 1e6:.1f} / {row['upstream_bytes_l2'] / 1e6:.1f}",
    )


def _ratio(row: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"{row['vs_upstream']:.3f} / {row['vs_upstream_l2']:.3f}",
        f"{row['launches']} (SGLang's {row['upstream_launches']})",
    )
