"""Training data: reading, splitting, answering and tokenizing prompts, and refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.nn import functional  # noqa: E402

from sglang_dspark.drafter import grouped_attention  # noqa: E402
from sglang_dspark.drafter.data import datasets  # noqa: E402
from sglang_dspark.drafter.data.conversations import Message, read  # noqa: E402
from sglang_dspark.drafter.data.in_process import TargetAnswers  # noqa: E402
from sglang_dspark.drafter.data.passages import passages  # noqa: E402
from sglang_dspark.drafter.data.prompts import split  # noqa: E402
from sglang_dspark.drafter.data.regenerate import Sampling, regenerate  # noqa: E402
from sglang_dspark.drafter.data.server import ServerAnswers  # noqa: E402
from sglang_dspark.drafter.target import Target, load_tokenizer  # noqa: E402
from sglang_dspark.errors import InputError  # noqa: E402


def write(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_every_form_of_a_line(tmp_path: Path) -> None:
    lines = [
        {"turns": ["a", "b"]},
        {"prompt": "a"},
        {"prompt": ["a", "b"], "answers": 1},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "x"}]},
        "",
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]},
    ]
    found = read(write(tmp_path / "p.jsonl", lines))
    assert [conversation.turns for conversation in found] == [["a", "b"], ["a"], ["a", "b"], ["a"], ["a"]]
    assert found[3].messages[1] == {"role": "assistant", "content": "x"}
    assert found[4].source.endswith("p.jsonl:6")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"p\.jsonl:2: is not JSON"),
        ([1], r"p\.jsonl:2: is a list"),
        ({"text": "a"}, r"p\.jsonl:2: holds no turn of a user"),
        ({"turns": [""]}, r"p\.jsonl:2: turns: '' is no text"),
        ({"turns": [3]}, r"p\.jsonl:2: turns: 3 is no text"),
        ({"conversations": [{"role": "tool", "content": "a"}]}, r"p\.jsonl:2: conversations: a turn needs a role"),
        ({"conversations": "a"}, r"p\.jsonl:2: conversations: a turn needs a role"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(write(tmp_path / "p.jsonl", [{"prompt": "a"}, line]))
    assert "\n" not in str(error.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.jsonl: cannot be read"):
        read(tmp_path / "p.jsonl")
    with pytest.raises(InputError, match=r"p\.jsonl: holds no line"):
        read(write(tmp_path / "p.jsonl", [""]))
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"p\.jsonl: is not UTF-8"):
        read(tmp_path / "p.jsonl")


def test_prompts_are_split_once_and_for_all(tmp_path: Path) -> None:
    source = write(tmp_path / "s.jsonl", [{"turns": [f"q{n % 90}", "more"]} for n in range(100)])
    found = split([source], tmp_path / "t.jsonl", tmp_path / "h.jsonl", 0.3)
    train, held = ([c.turns[0] for c in read(tmp_path / name)] for name in ("t.jsonl", "h.jsonl"))
    assert (len(train), len(held), found.repeated) == (found.train, found.held_out, 10)
    assert sorted(train + held) == sorted({f"q{n}" for n in range(90)})
    assert 15 <= len(held) <= 39
    # Other lines move no prompt from one side to the other.
    write(source, [{"turns": [f"q{n}", "more"]} for n in range(40, 130)])
    split([source], tmp_path / "t2.jsonl", tmp_path / "h2.jsonl", 0.3)
    again = {c.turns[0] for c in read(tmp_path / "h2.jsonl")}
    assert again & {f"q{n}" for n in range(40, 90)} == set(held) & {f"q{n}" for n in range(40, 90)}


def test_passages_are_what_a_server_had_before_each_answer(tmp_path: Path) -> None:
    turns = [
        ("user", "def f(x):\n"),
        ("assistant", "    return x\n"),
        ("user", "def g(y):\n"),
        ("assistant", "    é\n"),
    ]
    line = {"conversations": [{"role": role, "content": text} for role, text in turns]}
    tokenizer = load_tokenizer("demo")
    found = passages([write(tmp_path / "a.jsonl", [line])], tokenizer, 100)
    assert len(found) == 2
    for passage, end in zip(found, (2, 4), strict=True):
        before = "".join(text for _, text in turns[: end - 1])
        given = tokenizer(before).input_ids
        assert passage.tokens[: len(given)].tolist() == given and not passage.answer[: len(given)].any()
        assert tokenizer.decode(passage.tokens) == before + turns[end - 1][1]
        assert tokenizer.decode(passage.tokens[passage.answer]) == turns[end - 1][1]
    cut = passages([tmp_path / "a.jsonl"], tokenizer, 9)
    assert len(cut) == 1 and len(cut[0].tokens) == 9
    with pytest.raises(InputError, match="holds no answer of two tokens"):
        passages([write(tmp_path / "b.jsonl", [{"prompt": "x"}])], tokenizer, 100)


class Thinking:
    """A tokenizer whose template, as Qwen3's, opens an answer otherwise than it tells of one later."""

    eos_token = "$"

    def apply_chat_template(self, messages: list[Message], tokenize: bool, add_generation_prompt: bool = False) -> str:
        if messages[-1]["role"] == "assistant" and len(messages) % 2:
            raise RuntimeError("roles must alternate")
        return "".join(f"<{m['content']}>" for m in messages) + ("[" if add_generation_prompt else "")

    def __call__(self, text: str, **options: object) -> dict[str, Any]:
        return {"input_ids": [ord(c) for c in text], "offset_mapping": [(n, n + 1) for n in range(len(text))]}


def test_templates_that_tell_of_answers_otherwise(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cde"}]
    file = write(tmp_path / "a.jsonl", [{"messages": messages}])
    passage = passages([file], Thinking(), 100)[0]
    assert "".join(map(chr, passage.tokens)) == "<ab>[cde$"
    assert "".join(map(chr, passage.tokens[passage.answer])) == "cde$"
    write(file, [{"messages": [messages[0], messages[0], messages[1]]}])
    with pytest.raises(InputError, match=r"a\.jsonl:1: the target's chat template refuses it \(roles must alternate\)"):
        passages([file], Thinking(), 100)


def test_answers_in_process_are_the_targets(tmp_path: Path) -> None:
    target, tokenizer = Target.load("demo"), load_tokenizer("demo")
    texts = ["import os\nimport ", "class A:\n    def __init__(self", "x"]
    prompts = write(tmp_path / "p.jsonl", [{"prompt": text} for text in texts])
    answerer = TargetAnswers("demo", target)
    regenerate(prompts, tmp_path / "a.jsonl", answerer, Sampling(0.0, max_tokens=12))
    for text, conversation in zip(texts, read(tmp_path / "a.jsonl"), strict=True):
        ids = tokenizer(text).input_ids
        whole: list[int] = []
        while len(whole) < 12:
            last = target.hidden_states(torch.tensor([ids + whole]), ()).last[0, -1]
            whole.append(int(target.logits(last).argmax()))
        ended = whole[: whole.index(0)] if 0 in whole else whole
        assert conversation.messages[1]["content"] == tokenizer.decode(ended)
    sampled = [Sampling(1.0, max_tokens=12, seed=seed) for seed in (0, 0, 1)]
    for n, sampling in enumerate(sampled):
        regenerate(prompts, tmp_path / f"s{n}.jsonl", answerer, sampling)
    written = [(tmp_path / f"s{n}.jsonl").read_text() for n in range(3)]
    assert written[0] == written[1] != written[2]


def test_grouped_attention_is_sdpa() -> None:
    target = Target.load("demo")
    asked = torch.randint(1, 1000, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(asked)
    mask[1, :3] = mask[2, :7] = 0
    shapes: list[tuple[int, ...]] = []

    def decode() -> Any:
        return target.model.generate(
            asked, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip

    def contiguous(_: object, given: tuple[torch.Tensor]) -> None:
        shapes.append(tuple(given[0].shape))
        assert given[0].is_contiguous()

    theirs = decode()
    grouped_attention.use(target.model)
    target.model.get_output_embeddings().register_forward_pre_hook(contiguous)
    calls = 0
    plain = functional.scaled_dot_product_attention

    def counted(query: torch.Tensor, key: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        nonlocal calls
        calls += query.shape[1] == key.shape[1] == 2
        return plain(query, key, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", counted)
        ours = decode()
    # Keys of 2 groups, 4 heads: every layer of the 11 steps after the prefill left them alone.
    assert calls == 11 * len(target.layers)
    assert torch.equal(ours.sequences, theirs.sequences)
    for a, b in zip(ours.logits, theirs.logits, strict=True):
        torch.testing.assert_close(a, b)
    # The prefill hands its last tokens to the head as one matrix.
    assert shapes[0] == (4, 1, target.embedding.shape[1])


class Echo:
    """Answers with the prompt and its seed, and fails after ``patience`` answers."""

    name = "echo"

    def __init__(self, patience: int = 10**9) -> None:
        self.patience = patience

    def answers(
        self, conversations: Sequence[list[Message]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, str]]:
        for place in reversed(range(len(conversations))):
            self.patience -= 1
            if self.patience < 0:
                raise InputError("gives up")
            yield place, f"{len(conversations[place])} {conversations[place][-1]['content']} {seeds[place]}"


def test_interrupted_answers_are_gone_on_with(tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"turns": [f"q{n}", f"r{n}"][: 1 + n % 2]} for n in range(7)])
    sampling = Sampling()
    regenerate(prompts, tmp_path / "whole.jsonl", Echo(), sampling, together=2)
    out = tmp_path / "parts.jsonl"
    with pytest.raises(InputError, match="gives up"):
        regenerate(prompts, out, Echo(patience=7), sampling, together=2)
    # Killed while a line was written.
    out.write_text(out.read_text() + '{"id": "4-')
    seen = []
    found = regenerate(prompts, out, Echo(), sampling, together=2, progress=lambda done, of: seen.append((done, of)))
    assert found == (3, 4) and seen == [(6, 7), (7, 7)]
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert regenerate(prompts, out, Echo(), sampling) == (0, 7)
    messages = read(out)[3].messages
    assert [m["content"] for m in messages] == ["q3", "1 q3 303", "r3", "3 r3 304"]
    with pytest.raises(InputError, match="holds answers of another model or sampling"):
        regenerate(prompts, out, Echo(), Sampling(temperature=0.5))
    out.write_text("nonsense\n")
    with pytest.raises(InputError, match=r"parts\.jsonl:1: is no answer of an earlier run"):
        regenerate(prompts, out, Echo(), sampling)


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(content)
            text = content["messages"][-1]["content"]
            bad = text == "bad"
            answer = {"choices": [{"message": {"content": f"to {text}"}}]} if not bad else {"error": "too\nlong"}
            body = json.dumps(answer).encode()
            self.send_response(400 if bad else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}", asked
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_answers_of_a_server(tmp_path: Path, server: tuple[str, list[dict[str, Any]]]) -> None:
    url, asked = server
    prompts = write(tmp_path / "p.jsonl", [{"prompt": f"q{n}"} for n in range(5)])
    answerer = ServerAnswers(url + "/", "m", {"enable_thinking": False})
    regenerate(prompts, tmp_path / "a.jsonl", answerer, Sampling(0.7, 0.8, 99, 3), together=3)
    assert [c.messages[1]["content"] for c in read(tmp_path / "a.jsonl")] == [f"to q{n}" for n in range(5)]
    assert len({content["seed"] for content in asked}) == 5
    first = next(content for content in asked if content["messages"][0]["content"] == "q0")
    assert first | {"seed": 0} == {
        "model": "m",
        "messages": [{"role": "user", "content": "q0"}],
        "temperature": 0.7,
        "top_p": 0.8,
        "max_tokens": 99,
        "seed": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    write(prompts, [{"prompt": "bad"}])
    with pytest.raises(InputError, match="refused a prompt") as error:
        regenerate(prompts, tmp_path / "b.jsonl", answerer, Sampling())
    assert "400" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="does not answer"):
        regenerate(prompts, tmp_path / "b.jsonl", ServerAnswers("http://127.0.0.1:9", "m"), Sampling())


def test_named_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, dict[str, Any]] = {
        "gsm8k": {"question": "Q"},
        "math500": {"problem": "Q"},
        "aime25": {"problem": "Q"},
        "humaneval": {"prompt": "Q"},
        "mbpp": {"prompt": "Q"},
        "mt-bench": {"prompt": np.array(["Q", "R"])},
        "alpaca": {"instruction": "Q", "input": "R"},
    }
    assert set(rows) == set(datasets.HUB)
    for name, row in rows.items():
        turns = datasets.HUB[name].turns(row)
        assert "Q" in turns[0] and all(isinstance(turn, str) for turn in turns)
        assert len(turns) == (2 if name == "mt-bench" else 1)
    assert datasets.HUB["alpaca"].turns({"instruction": "Q", "input": ""}) == ["Q"]
    write(tmp_path / "gsm8k.jsonl", [{"turns": ["local"]}])
    assert datasets.prompts("gsm8k", tmp_path) == ("gsm8k", [["local"]])
    assert datasets.prompts(str(tmp_path / "gsm8k.jsonl"), Path("nowhere")) == ("gsm8k", [["local"]])
    with pytest.raises(InputError, match="data: 'gsm9k' is no file"):
        datasets.prompts("gsm9k", tmp_path)
    import huggingface_hub

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(folder))
    with pytest.raises(InputError, match=r"has no test\.jsonl; put math500\.jsonl into "):
        datasets.prompts("math500", tmp_path)
    write(folder / "test.jsonl", [{"problem": "1+1", "id": 3}])
    assert datasets.prompts("math500", tmp_path)[1][0][0].startswith("1+1\n")

    def offline(*arguments: object, **named: object) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"cannot be fetched \(no network\); put mbpp\.jsonl into "):
        datasets.prompts("mbpp", tmp_path)
