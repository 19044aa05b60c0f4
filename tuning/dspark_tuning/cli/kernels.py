"""``dspark kernels``: resources and memory traffic of the GPU kernels, without a GPU."""

from __future__ import annotations

import os
import warnings
from typing import Annotated, Any

import typer

from dspark_tuning.cli.common import Json, print_json, print_text

app = typer.Typer(help="Compile the GPU kernels and count their bytes, without a GPU.", no_args_is_help=True)


@app.command()
def check(
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="sm_80 to sm_120 or gfx942; all by default. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile every kernel ahead of time for real targets; exit code 1 if one does not fit or spills over 40 bytes."""
    os.environ["TRITON_INTERPRET"] = "0"
    from sglang_dspark.errors import InputError

    try:
        from dspark_kernels.launch_configs import TARGETS
        from dspark_kernels.startup.compile_check import ALLOWED_SPILL, compile_all
    except ImportError as error:
        raise _missing(error) from error
    if unknown := [name for name in target or () if name not in TARGETS]:
        raise InputError(f"--target: {unknown[0]!r} is not one; use {', '.join(TARGETS)}")
    compiled: list[dict[str, Any]] = []
    for name in target or TARGETS:
        compiled += [
            one._asdict() | {"fits": one.shared_bytes <= TARGETS[name].shared_bytes} for one in compile_all(name)
        ]
    failed = [one for one in compiled if one["spill_bytes"] > ALLOWED_SPILL or not one["fits"]]
    if as_json:
        print_json({"kernels": compiled, "failed": len(failed)})
    else:
        from dspark_tuning.reporting import kernels

        print_text(
            kernels.compiled(compiled),
            f"{len(compiled)} kernels, {len(failed)} of them spill more than {ALLOWED_SPILL} bytes a thread or do not "
            "fit.",
        )
    raise typer.Exit(1 if failed else 0)


@app.command("bytes")
def moved(as_json: Json = False) -> None:
    """Count the global-memory bytes of our kernels and SGLang's under the interpreter, on scaled shapes, by formula."""
    os.environ["TRITON_INTERPRET"] = "1"
    # These kernels use infinities, and SGLang's imports warn about missing GPU features.
    warnings.simplefilter("ignore")
    try:
        from sglang_dspark import cpu_engine

        # Kernels are interpreted, so SGLang needs no GPU.
        cpu_engine.prepare(("--device", "cpu"))
        from sglang_dspark.serving.evidence import kernel_bytes
    except ImportError as error:
        raise _missing(error) from error
    counts = kernel_bytes.run()
    if as_json:
        print_json(counts)
    else:
        from dspark_tuning.reporting import kernels

        print_text(
            kernels.positions(counts),
            kernels.rounds(counts),
            kernels.times(counts),
            f"Formulas equal the counts on {len(counts['counted'])} scaled shapes. No time here was measured.",
        )


def _missing(error: ImportError) -> Exception:
    from sglang_dspark.errors import InputError

    return InputError(f"kernels: not installed ({error}); pip install 'sglang-dspark[serve]', or see Makefile")
