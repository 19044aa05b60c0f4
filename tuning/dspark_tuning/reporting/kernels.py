"""Tables of ``dspark kernels``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dspark_tuning.reporting.table import Table, Words

BYTES = ["R", "MB", "SGLang's MB", "vs minimum", "vs SGLang's", "Launches"]
TWO = "Two values: every access / L2 re-reads left out."


def compiled(kernels: Iterable[Mapping[str, Any]]) -> Table:
    """Registers, shared memory and code size of each kernel by target."""
    rows = [
        [
            one["target"],
            one["kernel"],
            one["specimen"],
            str(one["warps"]),
            str(one["registers"]),
            str(one["spill_bytes"]),
            f"{one['shared_bytes'] / 1024:.1f}{'' if one['fits'] else ' (too much)'}",
            f"{one['code_bytes'] / 1024:.0f}",
        ]
        for one in kernels
    ]
    columns = [
        "Target", Words("Kernel"), Words("Launched for"), "Warps", "Registers", "Spilled B", "Shared KiB", "Code KiB",
    ]  # fmt: skip
    return Table("Compiled ahead of time", columns, rows)


def positions(counts: Mapping[str, Any]) -> Table:
    """Bytes of a draft position on the default target."""
    rows = [
        [mode, requests, *_bytes(row), f"{row['vs_minimum']:.3f} / {row['vs_minimum_l2']:.3f}", *_ratio(row)]
        for mode, by_requests in (("sampled", counts["rows"]), ("greedy", counts["greedy"]))
        for requests, row in by_requests.items()
    ]
    return Table(f"A draft position, {counts['target']}: V 151,936, rank 256, bf16. {TWO}", ["", *BYTES], rows)


def rounds(counts: Mapping[str, Any]) -> Table:
    """Bytes of a whole round on the default target."""
    modes = {"sampled": "sampled", "eager": "sampled, no graph", "greedy": "greedy"}
    rows = [
        [name, requests, *_bytes(row[mode]), "", *_ratio(row[mode])]
        for mode, name in modes.items()
        for requests, row in counts["round"].items()
    ]
    title = f"A round, {counts['target']}: gamma 7, 3 drafts accepted; draft, confidence, schedule, acceptance. {TWO}"
    return Table(title, ["", *BYTES], rows)


def times(counts: Mapping[str, Any]) -> Table:
    """Memory-bound times derived from the bytes and the published bandwidth."""
    rows = []
    for name, target in counts["targets"].items():
        for requests, row in target["sampled"].items():
            whole = target["round"][requests]["sampled"]
            rows.append(
                [
                    name,
                    target["gpu"],
                    requests,
                    *(f"{1e6 * row[key]:.1f}" for key in ("derived_s", "upstream_derived_s")),
                    f"{row['vs_upstream']:.3f} / {row['vs_upstream_l2']:.3f}",
                    *(f"{1e6 * whole[key]:.0f}" for key in ("derived_s", "upstream_derived_s")),
                ]
            )
    return Table(
        "Memory-bound time, DERIVED from published bandwidth, not measured (us, L2 re-reads left out)",
        ["Target", Words("GPU"), "R", "Position", "SGLang's", "vs SGLang's, every / L2", "Round", "SGLang's"],
        rows,
    )


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
