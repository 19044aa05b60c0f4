"""``dspark serve-check``: check whether a server can follow a policy, without starting it."""

from __future__ import annotations

from typing import Annotated

import typer

from dspark_tuning.cli.common import Json, print_json, print_text


def serve_check(
    flags: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FLAGS...", help="The server's flags, as `sglang serve` takes them.", show_default=False
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="sm_80, sm_90, H200, B200, ...: the GPU to check for. \\[default: this machine's]"),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print the table of what SGLang supports and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Check whether a server would follow a policy's verify lengths, without loading weights.

    Applies the checks of the server's own start.
    """
    from sglang_dspark.errors import InputError
    from sglang_dspark.serving import support

    if table:
        print(support.markdown())
        return
    try:
        from sglang_dspark.serving.serve_check import answer

        check = answer(flags or [], gpu)
    except ImportError as error:
        raise InputError(
            f"sglang: not installed ({error}); pip install 'sglang-dspark[serve]', or see Makefile"
        ) from error
    if as_json:
        print_json(
            {
                "verify_mode": check.choice.mode,
                "said": check.summary,
                "obstacles": [{"what": one.what, "why": one.why} for one in check.choice.obstacles],
                "attention_backend": check.attention_backend,
                "captured_tokens": list(check.captured_tokens),
            }
        )
    else:
        print_text(f"{check.choice.mode}: {check.summary}")
