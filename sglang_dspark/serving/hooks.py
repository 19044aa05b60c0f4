"""The hook table: every place at which the plugin enters SGLang, why, and how its presence is checked.

``HookRegistry.apply_hooks`` logs a failure and continues, and a signature may change without a name changing. So each
target is listed with the parameters that it relies on, looked up before anything is patched, and checked afterwards.

Supported is the version below; a new one is added by running ``make test`` against it (``tests/live`` drives its real
server), correcting the table where a shape differs, and adding the version.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple

from sglang_dspark.errors import InputError, end
from sglang_dspark.serving import settings

SUPPORTED: Final = ("0.5.23",)

Kind = Literal["around", "after", "before", "replace"]
# A hook without its target.
Entry = tuple[Kind, Callable[..., Any], tuple[str, ...], str]

PLANNER: Final = "sglang.srt.speculative.dspark_components.dspark_planner"
DRAFT: Final = "sglang.srt.speculative.dspark_components.dspark_draft"
VERIFY: Final = "sglang.srt.speculative.dspark_components.dspark_verify"
WORKER: Final = "sglang.srt.speculative.dspark_components.dspark_worker_v2"
MANAGERS: Final = "sglang.srt.managers"
SCHEDULER: Final = "sglang.srt.managers.scheduler"


class Hook(NamedTuple):
    """One entry into SGLang.

    Attributes:
        target: Dotted path of the function or method.
        kind: How ``call`` is called; see ``sglang.srt.plugins.hook_registry.HookType``.
        parameters: Parameters of the target that ``call`` relies on.
        why: What it is needed for.
    """

    target: str
    kind: Kind
    call: Callable[..., Any]
    parameters: tuple[str, ...]
    why: str


def launch_hooks() -> tuple[Hook, ...]:
    """Hooks of every process that reads a command line."""
    return (
        Hook(
            "sglang.srt.server_args.ServerArgs.add_cli_args",
            "after",
            settings.add_flags,
            ("parser",),
            "the plugin's flags, for launch_server, `sglang serve` and --config",
        ),
    )


def scheduler_hooks() -> tuple[Hook, ...]:
    """Hooks of processes where a scheduler may start, on a server with a policy or kernels."""
    return (
        Hook(
            f"{SCHEDULER}.configure_scheduler_process",
            "before",
            start_scheduler,
            (),
            "called in every scheduler's process and in no other, before its model is loaded",
        ),
    )


def policy_hooks() -> tuple[Hook, ...]:
    """Hooks of schedulers of a server with a policy."""
    from sglang_dspark.serving import control, step_hooks

    planner, host = f"{PLANNER}.DSparkVerifyPlanner", f"{PLANNER}.HostConfidenceBudgetPlanner"
    state = f"{MANAGERS}.scheduler_components.internal_state.SchedulerInternalStateController"
    processor = f"{MANAGERS}.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor"
    return (
        Hook(
            f"{planner}.__init__",
            "after",
            step_hooks.attach,
            ("draft_model", "gamma", "model_runner", "device", "tp_rank", "tp_sync"),
            "binds the policy to the planner, before the draft graphs capture the STS temperatures",
        ),
        Hook(
            f"{planner}.prepare_verify_budget",
            "around",
            step_hooks.prepare_verify_budget,
            ("batch", "future_map"),
            "with overlap, the budget is made here: the one place that has the batch and the lagged confidences",
        ),
        Hook(
            f"{WORKER}.DSparkWorkerV2._forward_decode",
            "around",
            step_hooks.forward_decode,
            ("batch", "on_publish", "grammar_barrier", "coordination_plan"),
            "without overlap, the batch is first seen here; the step's record leaves with its result",
        ),
        Hook(
            f"{host}.compute_budget",
            "around",
            step_hooks.compute_budget,
            ("confidence", "generation", "current_generation", "req_pool_indices_cpu"),
            "the decision itself, in place of upstream's and on upstream's own lag ring",
        ),
        Hook(
            f"{planner}.resolve_verify_token_budget",
            "around",
            step_hooks.resolve_verify_token_budget,
            ("draft_input", "confidence", "prefix_lens", "req_pool_indices"),
            "upstream has no budget in a step without a draft and would verify whole blocks",
        ),
        Hook(
            f"{planner}._schedule_verify_lens",
            "around",
            step_hooks.schedule_verify_lens,
            ("req_pool_indices", "prefix_lens", "device", "confidence", "budget"),
            "lengths by the policy's scores: class weights, context price, least and longest length",
        ),
        Hook(
            f"{planner}.schedule_layout",
            "around",
            step_hooks.schedule_layout,
            ("req_pool_indices", "prefix_lens", "device", "confidence", "budget"),
            "past the captured graphs upstream drops the schedule and verifies whole blocks",
        ),
        Hook(
            f"{VERIFY}.DsparkVerifyEpilogue.begin_step",
            "around",
            step_hooks.begin_epilogue_step,
            ("verify_lens", "armed"),
            "such a step has more rows than the graph's buffers, which it does not use",
        ),
        Hook(
            f"{SCHEDULER}.Scheduler.run_batch",
            "around",
            step_hooks.run_batch,
            ("batch",),
            "prefills, and the decode steps of servers without a policy, are timed and recorded from here",
        ),
        Hook(
            f"{processor}.process_batch_result_prefill",
            "before",
            step_hooks.process_result,
            ("batch", "result"),
            "when a prefill has ended, from which the next step's time counts",
        ),
        Hook(
            f"{processor}.process_batch_result_decode",
            "before",
            step_hooks.process_result,
            ("batch", "result"),
            "verify and accepted lengths on the host, where upstream waits for them anyway",
        ),
        Hook(
            f"{DRAFT}.DraftBlockProposer.propose",
            "around",
            step_hooks.propose,
            ("batch", "draft_input", "verify_window", "bs", "device", "sampling_info", "anchor_prepared"),
            "skips the draft forward where the policy does not draft",
        ),
        Hook(
            f"{VERIFY}.accept_draft_tokens",
            "around",
            step_hooks.accept_draft_tokens,
            ("candidates", "target_logits", "draft_block", "gamma", "verify_num_draft_tokens", "cutoff_layout"),
            "a step without a draft accepts from the anchors' rows alone",
        ),
        Hook(
            f"{MANAGERS}.utils.GenerationBatchResult.copy_to_cpu",
            "before",
            step_hooks.copy_to_cpu,
            (),
            "takes the step's confidences to the host with the results, behind the same event",
        ),
        Hook(
            f"{SCHEDULER}.Scheduler.init_internal_state",
            "after",
            step_hooks.attach_scheduler,
            (),
            "the queue, for records, and the labels of SGLang's metrics",
        ),
        Hook(
            f"{state}._update_handlers",
            "after",
            control.update_handlers,
            (),
            "the kill switch and reload, behind the authorisation that /set_internal_state has",
        ),
        Hook(
            f"{state}._add_speculative",
            "after",
            control.add_state,
            ("state",),
            "the policy in force, in /get_server_info",
        ),
    )


def agreement_hooks() -> tuple[Hook, ...]:
    """Hooks of schedulers of a server with any of the plugin's flags: its ranks agree on the kernels."""
    from sglang_dspark.serving import kernels

    return (
        Hook(
            f"{DRAFT}.DraftBlockProposer.__init__",
            "after",
            kernels.install,
            ("draft_model", "draft_model_runner", "gamma", "random_seed"),
            "decides which stages are ours, before graphs are captured",
        ),
    )


def kernel_hooks() -> tuple[Hook, ...]:
    """Hooks of schedulers of a server that may use our kernels; each calls SGLang's where a stage is SGLang's."""
    from sglang_dspark.serving import kernels

    components = "sglang.srt.speculative.dspark_components"
    block: Entry = (
        "around",
        kernels.draft_markov_block,
        ("markov_head", "base_logits", "anchor_tokens", "draft_hidden", "step_temperatures", "noise", "logits_out"),
        "a draft block without materialised biases; SGLang's two callers each have the name",
    )
    accepts: Entry = (
        "around",
        kernels.accept_draft_tokens,
        ("candidates", "target_logits", "draft_block", "sampling_info", "cutoff_layout", "verify_num_draft_tokens"),
        "acceptance that computes the proposal again; SGLang's two callers each have the name",
    )
    return (
        *agreement_hooks(),
        Hook(
            f"{DRAFT}.DraftBlockProposer.propose",
            "before",
            kernels.note,
            ("batch",),
            "the requests of the batch, which name the draws",
        ),
        Hook(f"{DRAFT}.draft_markov_block", *block),
        Hook(f"{components}.dspark_draft_sampler.draft_markov_block", *block),
        Hook(f"{VERIFY}.accept_draft_tokens", *accepts),
        Hook(f"{components}.dspark_sampling_accept_graph.accept_draft_tokens", *accepts),
        Hook(
            "sglang.srt.models.dspark.DSparkConfidenceHead.predict",
            "around",
            kernels.predict,
            ("features", "anchor_tokens", "draft_tokens", "markov_head"),
            "confidence in one launch",
        ),
        Hook(
            "sglang.kernels.ops.speculative.dspark.dspark_schedule.ScheduleVerifyLensTopk.execute",
            "around",
            kernels.schedule,
            (),
            "lengths in one launch, where SGLang's own planner computes them",
        ),
    )


def cpu_hooks() -> tuple[Hook, ...]:
    """Hooks of the CPU engine, with or without a policy."""
    from sglang_dspark.cpu_engine import patches, sampling

    return (
        Hook(
            "sglang.srt.arg_groups.speculative_hook._handle_dspark",
            "around",
            patches.handle_dspark,
            ("server_args",),
            "it refuses the CPU",
        ),
        Hook(
            "torch.Tensor.record_stream",
            "around",
            patches.record_stream,
            (),
            "DSparkWorkerV2._forward_decode calls it, and PyTorch has none for the CPU",
        ),
        Hook(
            "sglang.kernels.ops.speculative.reject_sampling.chain_speculative_sampling_triton",
            "around",
            sampling.chain_speculative_sampling,
            ("predicts", "accept_index", "accept_token_num", "candidates", "retrive_index", "uniform_samples"),
            "rejection sampling at temperatures above 0 is a Triton kernel without another form",
        ),
        Hook(
            "sglang.srt.models.dspark.DSparkDraftMixin._fused_kv_write_bundle",
            "replace",
            patches.no_fused_kv_write,
            ("pool",),
            "bf16 only: the draft's KV write is one Triton kernel there",
        ),
        Hook(
            "sglang.srt.models.dflash.DFlashAttention.__init__",
            "after",
            patches.without_fused_rope,
            (),
            "bf16 only: norm and rope are one Triton kernel there",
        ),
        Hook(
            "torch.nn.functional.linear",
            "around",
            patches.linear,
            (),
            "bf16 only: slow on a CPU that has no instructions for it",
        ),
    )


def misfit(hooks: Iterable[Hook]) -> str | None:
    """The first mismatch between ``hooks`` and the installed SGLang, as a phrase; None where all fit."""
    try:
        version = importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return "sglang is not installed as a package"
    if version not in SUPPORTED:
        return f"sglang {version} is not supported"
    for hook in hooks:
        try:
            target = pkgutil.resolve_name(hook.target)
        except Exception as error:  # An import may fail in any way.
            return f"{hook.target} is not there ({error})"
        names = inspect.signature(inspect.unwrap(target)).parameters if hook.parameters else {}
        if missing := [name for name in hook.parameters if name not in names]:
            return f"{hook.target} has no parameter {missing[0]!r}"
    return None


def check(hooks: Iterable[Hook]) -> None:
    """Refuse an SGLang that the plugin does not fit.

    Raises:
        InputError: Another version, a target that is not there, or one without a parameter that is relied on.
    """
    if mismatch := misfit(hooks):
        supported = ", ".join(SUPPORTED)
        raise InputError(f"sglang: {mismatch}; install a supported version ({supported}) or start without the policy")


def enter(hooks: Iterable[Hook]) -> None:
    """Register hooks; ``load_plugins`` applies them with those of other plugins."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for hook in hooks:
        HookRegistry.register(hook.target, hook.call, HookType(hook.kind))


def install(hooks: Iterable[Hook]) -> None:
    """Patch every target and make sure that each patch took effect.

    Applies at once, around what other plugins have put on these targets so far; what they register on them later is
    not applied. Only for servers with the plugin's flags.

    Raises:
        InputError: As :func:`check`, or a patch that SGLang's registry failed to apply.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry

    hooks = tuple(hooks)
    check(hooks)
    for hook in hooks:
        if hook.target in HookRegistry._patched:  # By another plugin; the registry would pass over ours.
            HookRegistry._patched.remove(hook.target)
            HookRegistry._hooks.pop(hook.target, None)
    enter(hooks)
    HookRegistry.apply_hooks()
    if failed := [hook.target for hook in hooks if hook.target not in HookRegistry._patched]:
        raise InputError(f"sglang: {failed[0]} could not be hooked; see the log above, or start without the policy")


def start_scheduler(*arguments: Any, **keywords: Any) -> None:
    """Before ``configure_scheduler_process``, in a scheduler's process only: install the other hooks."""
    # At once: two hooks of one target must be there when it is patched.
    install_or_end(_scheduler_process_hooks)


def _scheduler_process_hooks() -> tuple[Hook, ...]:
    policy = policy_hooks() if settings.current() is not None else ()
    return policy + (agreement_hooks() if settings.kernels() == "upstream" else kernel_hooks())


def install_or_end(hooks: Callable[[], tuple[Hook, ...]]) -> None:
    """Install hooks or end the process: SGLang would log what a plugin raises and serve without the policy."""
    try:
        install(hooks())
    except Exception as error:
        end("sglang-dspark", error)
