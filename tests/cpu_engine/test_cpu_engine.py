"""The parts of the CPU engine against slow references: attention, the sampler, the stand-ins."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sglang_dspark.cpu_engine import early, patches, sampling, torchvision_stand_in

if importlib.util.find_spec("sglang") is None:
    pytest.skip("sglang is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[2]
HEADS, KV_HEADS, DIM = 4, 2, 8


# --- Attention ---


@pytest.fixture(scope="module")
def attention() -> Iterator[ModuleType]:
    """The backend's module. SGLang looks at its device when it is first imported, so the CPU is asked for before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(early.VARIABLE, "1")
        early.prepare([])
        yield importlib.import_module("sglang_dspark.cpu_engine.attention")


class Pool:
    """A cache of keys and values [slots, KV_HEADS, DIM], full of noise wherever nothing was written."""

    def __init__(self, slots: int, generator: torch.Generator) -> None:
        self.keys = torch.randn(slots, KV_HEADS, DIM, generator=generator)
        self.values = torch.randn(slots, KV_HEADS, DIM, generator=generator)

    def set_kv_buffer(self, layer: object, where: Any, k: torch.Tensor, v: torch.Tensor) -> None:
        self.keys[where.loc] = k.view(-1, KV_HEADS, DIM)
        self.values[where.loc] = v.view(-1, KV_HEADS, DIM)

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        return self.keys

    def get_value_buffer(self, layer_id: int) -> torch.Tensor:
        return self.values


class Step:
    """A step of requests with ``before[r]`` cached tokens and ``new[r]`` new ones, scattered over the cache."""

    def __init__(self, module: ModuleType, before: list[int], new: list[int], padding: int = 0) -> None:
        self.before, self.new, self.module = before, new, module
        self.generator = torch.Generator().manual_seed(7)
        requests, longest = len(before), max(b + n for b, n in zip(before, new, strict=True))
        slots = torch.randperm(requests * longest + 40, generator=self.generator)
        self.table = slots[: requests * longest].view(requests, longest).to(torch.int32).flip(0)
        self.pool = Pool(len(slots), self.generator)
        runner = SimpleNamespace(
            device="cpu", req_to_token_pool=SimpleNamespace(req_to_token=self.table), token_to_kv_pool=self.pool
        )
        self.backend = module.VerifyBackend(runner)
        tokens = sum(new) + padding
        self.q = torch.randn(tokens, HEADS * DIM, generator=self.generator)
        self.k = torch.randn(tokens, KV_HEADS * DIM, generator=self.generator)
        self.v = torch.randn(tokens, KV_HEADS * DIM, generator=self.generator)
        # Rows beyond the last request are written to a slot that no request has.
        locations = [self.table[r, before[r] : before[r] + new[r]].long() for r in range(requests)]
        self.locations = torch.cat([*locations, slots[-1].repeat(padding)])

    def batch(self, mode: str, spec_info: object = None) -> SimpleNamespace:
        from sglang.srt.model_executor.forward_batch_info import ForwardMode

        return SimpleNamespace(
            forward_mode=ForwardMode[mode],
            req_pool_indices=torch.arange(len(self.before)),
            seq_lens=torch.tensor(self.before if mode == "TARGET_VERIFY" else np.add(self.before, self.new).tolist()),
            extend_prefix_lens=torch.tensor(self.before),
            extend_seq_lens=torch.tensor(self.new),
            spec_info=spec_info,
            out_cache_loc=self.locations,
            encoder_lens=None,
        )

    def layer(self, bidirectional: bool = False, window: int = -1) -> SimpleNamespace:
        from sglang.srt.layers.radix_attention import AttentionType

        return SimpleNamespace(
            layer_id=0,
            tp_q_head_num=HEADS,
            tp_k_head_num=KV_HEADS,
            qk_head_dim=DIM,
            v_head_dim=DIM,
            scaling=DIM**-0.5,
            attn_type=AttentionType.ENCODER_ONLY if bidirectional else AttentionType.DECODER,
            sliding_window_size=window,
            is_cross_attention=False,
        )

    def run(self, batch: SimpleNamespace, layer: SimpleNamespace) -> torch.Tensor:
        self.backend.init_forward_metadata(batch)
        forward = self.backend.forward_decode if batch.forward_mode.is_decode() else self.backend.forward_extend
        out: torch.Tensor = forward(self.q, self.k, self.v, layer, batch)
        return out

    def expected(self, bidirectional: bool = False, window: int = -1) -> torch.Tensor:
        """One query, one head, one key at a time, after the step has written its keys and values."""
        out = torch.zeros(len(self.q), HEADS, DIM, dtype=torch.float64)
        row = 0
        for request, (before, new) in enumerate(zip(self.before, self.new, strict=True)):
            for i in range(before, before + new):
                for head in range(HEADS):
                    query = self.q[row, head * DIM : (head + 1) * DIM].double()
                    weights, values = [], []
                    for j in range(before + new):
                        if not bidirectional and (j > i or (window >= 0 and j < i - window)):
                            continue
                        slot = int(self.table[request, j])
                        key = self.pool.keys[slot, head * KV_HEADS // HEADS].double()
                        weights.append(math.exp(float(query @ key) * DIM**-0.5))
                        values.append(self.pool.values[slot, head * KV_HEADS // HEADS].double())
                    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
                    out[row, head] = (shares[:, None] * torch.stack(values)).sum(0)
                row += 1
        return out.view(len(self.q), -1)


BEFORE = [5, 1, 17, 30]


def _close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("window", [-1, 0, 3])
def test_uniform_verification(attention: ModuleType, window: int) -> None:
    step = Step(attention, BEFORE, [4] * 4)
    spec = SimpleNamespace(draft_token_num=4, ragged_verify_layout=None)
    _close(step.run(step.batch("TARGET_VERIFY", spec), step.layer(window=window)), step.expected(window=window))


@pytest.mark.parametrize("window", [-1, 2])
def test_ragged_verification_with_rows_of_padding(attention: ModuleType, window: int) -> None:
    from sglang.srt.speculative.ragged_verify import RaggedVerifyLayout

    step = Step(attention, BEFORE, [1, 4, 2, 3], padding=6)
    layout = RaggedVerifyLayout.from_verify_lens(
        verify_lens_cpu=[1, 4, 2, 3], device=torch.device("cpu"), grid=[8, 16, 32]
    )
    assert layout.graph_num_tokens == len(step.q)
    spec = SimpleNamespace(draft_token_num=4, ragged_verify_layout=layout)
    out = step.run(step.batch("TARGET_VERIFY", spec), step.layer(window=window))
    _close(out, step.expected(window=window))
    assert not out[-6:].any()


def test_draft_block_sees_itself_in_both_directions(attention: ModuleType) -> None:
    step = Step(attention, BEFORE, [3] * 4)
    spec = SimpleNamespace(draft_token_num=3, ragged_verify_layout=None)
    out = step.run(step.batch("TARGET_VERIFY", spec), step.layer(bidirectional=True))
    _close(out, step.expected(bidirectional=True))


@pytest.mark.parametrize("window", [-1, 4])
def test_prefill_after_cached_prefixes(attention: ModuleType, window: int) -> None:
    step = Step(attention, [0, 9, 0, 2], [12, 5, 1, 7])
    _close(step.run(step.batch("EXTEND"), step.layer(window=window)), step.expected(window=window))


@pytest.mark.parametrize("window", [-1, 4])
def test_decode(attention: ModuleType, window: int) -> None:
    step = Step(attention, BEFORE, [1] * 4)
    _close(step.run(step.batch("DECODE"), step.layer(window=window)), step.expected(window=window))


def test_layers_of_both_kinds_in_one_step(attention: ModuleType) -> None:
    step = Step(attention, BEFORE, [4] * 4)
    batch = step.batch("TARGET_VERIFY", SimpleNamespace(draft_token_num=4, ragged_verify_layout=None))
    for window in (-1, 3, -1):
        _close(step.run(batch, step.layer(window=window)), step.expected(window=window))


def test_what_attention_does_not_do_is_refused(attention: ModuleType) -> None:
    step = Step(attention, BEFORE, [3] * 4)
    batch = step.batch("TARGET_VERIFY", SimpleNamespace(draft_token_num=3, ragged_verify_layout=None))
    with pytest.raises(NotImplementedError, match="sliding window"):
        step.run(batch, step.layer(bidirectional=True, window=2))


# --- Products in bfloat16 ---


@pytest.mark.parametrize("biased", [False, True])
def test_products_in_bfloat16_are_exact_up_to_one_rounding(biased: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    x, weight, bias = (torch.randn(shape, generator=generator).bfloat16() for shape in ((3, 5, 64), (16, 64), (16,)))
    made = patches.linear(torch.nn.functional.linear, x, weight, bias if biased else None)
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0.0)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), exact, rtol=2**-8, atol=1e-5)


def test_products_of_other_precisions_are_pytorchs() -> None:
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert patches.linear(lambda *arguments: arguments, x, weight) == (x, weight, None)


# --- Sampling ---


class Draws:
    """Inputs of the chain sampler for ``requests`` rows, and its three outputs as SGLang allocates them."""

    def __init__(self, requests: int, gamma: int, vocabulary: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.gamma = gamma
        self.target = torch.rand(requests, gamma + 1, vocabulary, generator=generator).pow(2)
        self.target /= self.target.sum(-1, keepdim=True)
        self.draft = torch.rand(requests, gamma, vocabulary, generator=generator).pow(2)
        self.draft /= self.draft.sum(-1, keepdim=True)
        self.coins = torch.rand(requests, gamma, generator=generator)
        self.last_coins = torch.rand(requests, generator=generator)
        drafts = torch.multinomial(self.draft.view(-1, vocabulary), 1, generator=generator).view(requests, gamma)
        self.candidates = torch.cat([torch.full((requests, 1), 2), drafts], dim=1)
        # Slots in another order than the rows', as nothing says that they are in theirs.
        self.slots = torch.randperm(requests * (gamma + 1), generator=generator).view(requests, gamma + 1)

    def spoil(self) -> None:
        """Draft distributions that are none, in every place where the kernel guards against them."""
        rows = torch.arange(len(self.candidates))
        for start, value in enumerate((math.nan, math.inf, -math.inf, -0.5, 3.0, 0.0)):
            some = rows[start::11]
            self.draft[some, 1, self.candidates[some, 2]] = value
            self.draft[some, 0, (self.candidates[some, 1] + 1) % self.draft.shape[2]] = value

    def run(self, sampler: Callable[..., None]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(predicts, accept_index, accept_token_num)"""
        requests, slots = self.candidates.shape
        predicts = torch.full((requests * slots,), -7, dtype=torch.int32)
        accept_index = torch.full((requests, slots), -1, dtype=torch.int32)
        accepted = torch.full((requests,), -3, dtype=torch.int32)
        sampler(
            predicts=predicts,
            accept_index=accept_index,
            accept_token_num=accepted,
            candidates=self.candidates,
            retrive_index=self.slots,
            retrive_next_token=None,
            retrive_next_sibling=None,
            uniform_samples=self.coins,
            uniform_samples_for_final_sampling=self.last_coins,
            target_probs=self.target,
            draft_probs=self.draft,
            threshold_single=1.0,
            threshold_acc=1.0,
            deterministic=True,
        )
        return predicts, accept_index, accepted


def _ours(**arguments: Any) -> None:
    def original(*_: object, **__: object) -> None:
        raise AssertionError("the Triton kernel was called for tensors of the CPU")

    sampling.chain_speculative_sampling(original, **arguments)


def _token_by_token(draws: Draws, row: int) -> tuple[list[int], int]:
    """(accepted drafts, token drawn after them) of one request."""
    accepted: list[int] = []
    for k in range(draws.gamma):
        token = int(draws.candidates[row, k + 1])
        p, q = draws.target[row, k, token], draws.draft[row, k, token]
        if not (0 < q <= 1 and draws.coins[row, k] * q < p):
            break
        accepted.append(token)
    weights = [float(p) for p in draws.target[row, len(accepted)]]
    if len(accepted) < draws.gamma:
        proposed = [float(q) if 0 <= q <= 1 else 0.0 for q in draws.draft[row, len(accepted)]]
        weights = [max(p - q, 0.0) for p, q in zip(weights, proposed, strict=True)]
    total = 0.0
    for token, weight in enumerate(weights):
        total += weight
        if total > float(draws.last_coins[row]) * sum(weights):
            return accepted, token
    return accepted, len(weights) - 1


@pytest.mark.parametrize("spoiled", [False, True])
def test_sampler_token_by_token(spoiled: bool) -> None:
    draws = Draws(requests=600, gamma=4, vocabulary=9, seed=1)
    if spoiled:
        draws.spoil()
    predicts, accept_index, accepted = draws.run(_ours)
    for row, slots in enumerate(draws.slots.tolist()):
        tokens, drawn = _token_by_token(draws, row)
        assert int(accepted[row]) == len(tokens)
        assert accept_index[row].tolist() == slots[: len(tokens) + 1] + [-1] * (draws.gamma - len(tokens))
        assert predicts[slots[: len(tokens) + 1]].tolist() == [*tokens, drawn]
        assert (predicts[slots[len(tokens) + 1 :]] == -7).all()
    assert set(accepted.tolist()) == set(range(draws.gamma + 1))


def test_sampler_where_the_draft_is_the_target() -> None:
    draws = Draws(requests=8, gamma=3, vocabulary=5, seed=2)
    draws.draft = draws.target[:, :3].clone()
    draws.coins.fill_(0.999)
    assert draws.run(_ours)[2].tolist() == [3] * 8


def test_sampler_equals_sglangs_kernel_in_tritons_interpreter() -> None:
    # Triton reads the variable when it is imported.
    start = f"from {__name__} import compare_with_kernel; compare_with_kernel()"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]


def compare_with_kernel() -> None:
    """In a process of its own: both samplers on the same draws."""
    package = importlib.util.find_spec("sglang")
    assert package is not None and package.origin is not None
    # Read as a file: importing it by name would import all of SGLang.
    path = Path(package.origin).parent / "kernels/ops/speculative/reject_sampling.py"
    spec = importlib.util.spec_from_file_location("reject_sampling", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for spoiled in (False, True):
        draws = Draws(requests=40, gamma=3, vocabulary=11, seed=3)
        if spoiled:
            draws.spoil()
        for ours, kernels in zip(draws.run(_ours), draws.run(module.chain_speculative_sampling_triton), strict=True):
            torch.testing.assert_close(ours, kernels, rtol=0, atol=0)


def test_sampler_draws_from_the_target() -> None:
    """Whatever the draft: the first token is distributed as the target's first row, the second as its second."""
    requests = 40_000
    draws = Draws(requests, gamma=2, vocabulary=6, seed=4)
    draws.target[:] = draws.target[0]
    draws.draft[:] = draws.draft[0]
    drafts = torch.multinomial(draws.draft[0], requests, replacement=True, generator=torch.Generator().manual_seed(5))
    draws.candidates[:, 1:] = drafts.T
    predicts, _, accepted = draws.run(_ours)
    emitted = predicts[draws.slots]
    for position in range(3):
        reached = emitted[accepted >= position, position]
        counts = torch.bincount(reached.long(), minlength=6).numpy()
        wanted = draws.target[0, position].double().numpy()
        assert stats.chisquare(counts, wanted / wanted.sum() * counts.sum()).pvalue > 1e-3
    share = torch.minimum(draws.target[0, 0], draws.draft[0, 0]).sum()
    assert float((accepted >= 1).float().mean()) == pytest.approx(float(share), abs=0.01)


def test_block_verification_is_refused() -> None:
    draws = Draws(requests=1, gamma=2, vocabulary=4, seed=6)
    with pytest.raises(NotImplementedError, match="--speculative-use-block-verification"):
        draws.run(lambda **arguments: _ours(**arguments, block_verification=True))


# --- The stand-ins, and when they are used ---


@pytest.fixture
def stand_in() -> ModuleType:
    """The stand-in ``sgl_kernel`` under another name."""
    spec = importlib.util.spec_from_file_location("stand_in", Path(early.STAND_IN, "sgl_kernel/__init__.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stand_in_names_what_it_does_not_have(stand_in: ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"sgl_kernel\.rmsnorm_cpu has no stand-in"):
        _ = stand_in.rmsnorm_cpu
    with pytest.raises(NotImplementedError, match=r"sgl_kernel\.verify_tree_greedy_cpu has no stand-in"):
        stand_in.verify_tree_greedy_cpu(torch.zeros(1))


@pytest.mark.parametrize(
    "file",
    [
        "srt/mem_cache/allocation.py",
        "kernels/ops/kvcache/cache_move.py",
        *(f"kernels/ops/speculative/{name}.py" for name in ("cache_locs", "eagle", "multi_layer_eagle", "spec_tree")),
    ],
)
def test_stand_in_has_what_dsparks_modules_import(stand_in: ModuleType, file: str) -> None:
    package = importlib.util.find_spec("sglang")
    assert package is not None and package.origin is not None
    tree = ast.parse((Path(package.origin).parent / file).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "sgl_kernel"]
    names = [alias.name for node in imports for alias in node.names if alias.name.endswith("_cpu")]
    assert names
    assert [name for name in names if not hasattr(stand_in, name)] == []


def test_stand_in_moves_slots_and_rows(stand_in: ModuleType) -> None:
    table = torch.zeros(4, 10, dtype=torch.int32)
    rows, start, end = torch.tensor([3, 1]), torch.tensor([2, 0]), torch.tensor([5, 2])
    stand_in.assign_req_to_token_pool_cpu(rows, table, start, end, torch.arange(11, 16), 10)
    assert table[3].tolist() == [0, 0, 11, 12, 13, 0, 0, 0, 0, 0]
    assert table[1].tolist() == [14, 15, 0, 0, 0, 0, 0, 0, 0, 0]
    read = torch.zeros(5, dtype=torch.int64)
    stand_in.assign_extend_cache_locs_cpu(rows, table, start, end, read, 10)
    assert read.tolist() == [11, 12, 13, 14, 15]

    caches = [torch.arange(24, dtype=torch.float32).view(6, 4), torch.arange(12, dtype=torch.int16).view(6, 2)]
    wanted = [cache[[0, 0, 1, 3, 4, 5]] for cache in caches]
    pointers = torch.tensor([cache.data_ptr() for cache in caches], dtype=torch.uint64)
    strides = torch.tensor([16, 4])
    # Row 1 is read before it is written.
    stand_in.copy_all_layer_kv_cache_cpu(pointers, strides, torch.tensor([1, 2]), torch.tensor([0, 1]))
    for cache, want in zip(caches, wanted, strict=True):
        torch.testing.assert_close(cache, want)


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ("--model-path m --device cpu --port 1", "cpu"),
        ("--model-path m --device=cpu", "cpu"),
        ("--device cpu --device cuda", "cuda"),
        ("serve m --device cpu", "cpu"),
        ("--model-path cpu --tp 2", None),
        ("--device", None),
        ("--config {folder}/cpu.yaml", "cpu"),
        ("--config {folder}/cpu.yaml --device cuda", "cuda"),
        ("--config {folder}/other.yaml", None),
        ("--config {folder}/broken.yaml", None),
        ("--config {folder}/absent.yaml", None),
    ],
)
def test_device_of_a_command_line(words: str, device: str | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text("model-path: m\ndevice: cpu\n")
    (tmp_path / "other.yaml").write_text("model-path: m\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    assert early.requested_device(words.format(folder=tmp_path).split()) == device


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that nothing was done to, of which nothing is kept."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != early.STAND_IN])
    monkeypatch.delitem(sys.modules, "sgl_kernel", raising=False)
    # Deleting what is not there would leave behind what the test sets.
    monkeypatch.setenv(early.VARIABLE, "0")
    monkeypatch.setattr(torchvision_stand_in, "install", lambda: None)
    return monkeypatch


def _kernels(folder: Path, *files: str) -> str:
    """An installed ``sgl_kernel`` with ``files``, none of which may be read."""
    for name in ("__init__.py", *files):
        path = folder / "sgl_kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise AssertionError('imported')")
    return str(folder)


def test_nothing_asked_is_nothing_done(process: pytest.MonkeyPatch, tmp_path: Path) -> None:
    process.syspath_prepend(_kernels(tmp_path, "sm90/common_ops.abi3.so"))
    before = list(sys.path)
    # Without a GPU too: there is none here.
    assert not torch.cuda.is_available()
    for words in ([], ["--model-path", "m"], ["--device", "cuda"]):
        early.prepare(words)
        assert sys.path == before
        assert os.environ[early.VARIABLE] == "0"
        assert not early.in_use()


def test_a_device_on_the_command_line_beats_the_variable(process: pytest.MonkeyPatch) -> None:
    process.setenv(early.VARIABLE, "1")
    before = list(sys.path)
    early.prepare(["--device", "cuda"])
    assert sys.path == before and not early.in_use()


@pytest.mark.parametrize("inherited", [False, True])
def test_asked_for_the_stand_in_comes_first(process: pytest.MonkeyPatch, tmp_path: Path, inherited: bool) -> None:
    process.syspath_prepend(_kernels(tmp_path, "sm90/common_ops.abi3.so", "sm100/common_ops.abi3.so"))
    if inherited:
        process.setenv(early.VARIABLE, "1")
    for _ in range(2):
        early.prepare([] if inherited else ["--device", "cpu"])
        assert sys.path.count(early.STAND_IN) == 1 and sys.path[0] == early.STAND_IN
        assert os.environ[early.VARIABLE] == "1"
        assert early.in_use()


def test_a_real_cpu_build_is_left_alone(process: pytest.MonkeyPatch, tmp_path: Path) -> None:
    process.syspath_prepend(_kernels(tmp_path, "common_ops.abi3.so"))
    early.prepare(["--device", "cpu"])
    assert early.STAND_IN not in sys.path
    assert not early.in_use()


@pytest.mark.parametrize(("words", "cpu"), [("--device cpu", True), ("", False)])
def test_sglang_itself_takes_the_cpu_only_where_asked(words: str, cpu: bool) -> None:
    """Through the installed entry point, at the import of sglang."""
    code = f"import sys; sys.argv = ['serve', *{words.split()!r}]\n"
    code += "from sglang.srt.utils import common\nfrom sglang_dspark.cpu_engine import early\n"
    code += "print('answer', common.is_cpu(), early.in_use(), 'torchvision' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != early.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert f"answer {cpu} {cpu} {cpu}" in done.stdout, done.stdout + done.stderr[-2000:]
