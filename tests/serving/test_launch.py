"""The launch check: refusals, warnings, and how the flags reach the scheduler."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.policy import NoDraft
from sglang_dspark.policy.artifact import dumps
from sglang_dspark.serving import draft_checkpoint, hooks, launch, settings, support
from sglang_dspark.serving.evidence import offline
from sglang_dspark.serving.hooks import Hook
from sglang_dspark.serving.settings import FLAGS, Settings
from sglang_dspark.serving.support import Choice
from tests.serving import flags

pytestmark = pytest.mark.usefixtures("environment")


def write(folder: Path, content: str = '{"dspark_config": {"enable_confidence_head": true}}') -> None:
    """A DSpark draft's configuration with these fields beside those that each has."""
    own = {"markov_rank": 32, "markov_head_type": "vanilla", "mask_token_id": 1}
    (folder / "config.json").write_text(json.dumps(own | json.loads(content)))


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def check(
    draft: Path | None, made: Any = None, asked: Settings | None = None, mode: str | None = None, **changed: Any
) -> Choice:
    """What the launch check answers for a server with this draft."""
    here = {"speculative_draft_model_path": draft and str(draft)} | changed
    return launch.check(asked or ASKED, made or offline.artifact(), flags.server(**here), mode)


ASKED = Settings(policy="/a/policy.json")


def test_what_fits_is_accepted_without_a_word(draft: Path, caplog) -> None:
    for more in ({}, {"max_running_requests": 1024}, {"max_running_requests": None}):
        assert check(draft, **more) == Choice("compact")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"speculative_algorithm": "EAGLE"}, ("EAGLE", "--speculative-algorithm DSPARK")),
        ({"speculative_algorithm": None}, ("--speculative-algorithm DSPARK",)),
        ({"speculative_dspark_sps_table_path": "t"}, ("--speculative-dspark-sps-table-path", "cost_belief")),
        ({"speculative_dspark_confidence_sts_path": "t"}, ("--speculative-dspark-confidence-sts-path", "sts_temp")),
        (
            {"speculative_dspark_align_verify_tokens_to_graph_tier": True},
            ("--speculative-dspark-align-verify-tokens-to-graph-tier", "fill"),
        ),
        ({"speculative_num_draft_tokens": 6}, ("/a/policy.json: gamma: 7", "block-size 7", "tune for 5")),
        ({"max_running_requests": 1025}, ("--max-running-requests: 1025", "1024")),
    ],
)
def test_refusals_name_both_sides(draft: Path, changed: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refused:
        check(draft, **changed)
    assert all(word in str(refused.value) for word in named), str(refused.value)
    assert "policy" in str(refused.value)


def test_refusals_by_environment(draft: Path) -> None:
    os.environ["SGLANG_DSPARK_STS_COLLECT_PATH"] = "/tmp/x"
    with pytest.raises(InputError, match=f"^SGLANG_DSPARK_STS_COLLECT_PATH: .*{launch.POLICY}"):
        check(draft)


@pytest.mark.parametrize("value", ["3.5", "2", "0.5", "inf", "nan"])
def test_simulated_acceptance_is_refused_where_a_policy_steers(draft: Path, value: str) -> None:
    os.environ[launch.SIMULATE] = value
    for mode in (None, "compact", "cap-accept"):
        with pytest.raises(InputError, match=f"^{launch.SIMULATE}: {value} .*{launch.POLICY}"):
            check(draft, mode=mode)
    assert check(draft, mode="static").mode == "static"
    assert check(draft, enable_lora=True).mode == "static"


def test_simulated_acceptance_of_the_policy_is_named_as_its_own(draft: Path) -> None:
    artifact = offline.artifact(environment={launch.SIMULATE: "3"})
    launch._set_environment(artifact)
    with pytest.raises(InputError, match=f"^{launch.POLICY}: environment: {launch.SIMULATE}: 3"):
        check(draft, artifact)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SGLANG_SIMULATE_ACC_LEN", "abc"),
        ("SGLANG_DSPARK_CONFIDENCE_RELAY_LAG_STEPS", "2.5"),
        ("SGLANG_OPT_USE_ONLINE_COMPRESS", "maybe"),
        ("SGLANG_RAGGED_VERIFY_MODE", "often"),
        ("SGLANG_RAGGED_VERIFY_MODE", "COMPACT"),
    ],
)
def test_a_variable_that_sglang_would_not_understand_is_refused(name: str, value: str) -> None:
    os.environ[name] = value
    with pytest.raises(InputError, match=f"^{name}: '{value}' is not valid"):
        launch.check_variables()
    del os.environ[name]
    launch._set_environment(offline.artifact(environment={name: value}))
    if name == support.VARIABLE:
        launch.check_variables()  # A policy does not say how a server verifies.
    else:
        with pytest.raises(InputError, match=f"^{launch.POLICY}: environment: {name}: '{value}' is not valid"):
            launch.check_variables()


def test_variables_without_a_value_and_those_of_others_are_left(caplog) -> None:
    os.environ["SGLANG_SIMULATE_ACC_LEN"] = ""
    os.environ["SGLANG_OF_ANOTHER_PACKAGE"] = "abc"
    os.environ["SGLANG_DSPARK_STS_COLLECT_PATH"] = "None"
    launch.check_variables()


@pytest.mark.parametrize("value", ["1", "1.0", "-1", "0", ""])
def test_simulated_acceptance_within_every_budget_is_allowed(draft: Path, value: str) -> None:
    os.environ[launch.SIMULATE] = value
    assert check(draft).mode == "compact"


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"enable_confidence_head": null}',
        '{"dspark_block_size": 5, "dspark_markov_rank": 32}',
        '{"dflash_config": {"enable_confidence_head": true}}',
        '{"dspark_config": [1], "dflash_config": "x"}',
    ],
)
def test_a_draft_that_does_not_speak_of_its_confidence_head_has_one(draft: Path, content: str) -> None:
    write(draft, content)
    assert check(draft) == Choice("compact")


def weights(folder: Path, *names: str) -> None:
    """A checkpoint of one file with these tensors and no data."""
    head = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)


def index(folder: Path, *names: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "a")}))


@pytest.mark.parametrize("made", [weights, index])
def test_a_draft_whose_weights_lack_the_head_has_none(draft: Path, made: Any) -> None:
    write(draft, "{}")
    made(draft, "mtp.0.norm.weight", "mtp.2.confidence_head.proj.weight")
    assert check(draft) == Choice("compact")
    made(draft, "mtp.0.norm.weight")
    choice = check(draft)
    assert choice.mode == "static" and choice.obstacles[0].what == str(draft)


@pytest.mark.parametrize(
    "content", ['{"enable_confidence_head": false}', '{"dspark_config": {"enable_confidence_head": false}}']
)
def test_a_draft_without_confidences_leaves_whole_blocks(draft: Path, content: str) -> None:
    write(draft, content)
    choice = check(draft)
    assert choice.mode == "static"
    assert f"{draft / 'config.json'}: enable_confidence_head" in launch.summary(choice)
    for mode in ("compact", "cap-accept"):
        with pytest.raises(InputError, match="enable_confidence_head"):
            check(draft, mode=mode)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_draft_that_cannot_be_read_is_refused(draft: Path, content: str) -> None:
    (draft / "config.json").write_text(content)
    with pytest.raises(InputError) as refused:
        check(draft)
    assert str(draft / "config.json") in str(refused.value) and "DSpark checkpoint" in str(refused.value)


@pytest.mark.parametrize("path", ["someone/on-a-hub", "/not/here/at/all", None])
def test_a_draft_whose_configuration_is_not_here_is_left_to_upstream(path: str | None) -> None:
    assert check(None, speculative_draft_model_path=path) == Choice("compact")


def keep(folder: Path, content: str) -> None:
    """A draft's configuration as a hub's files are kept."""
    repository = folder / "models--someone--draft"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    write(repository / "snapshots" / "abc", content)


HUB = {"speculative_draft_model_path": "someone/draft", "speculative_draft_model_revision": "main"}
WITHOUT, WITH = '{"enable_confidence_head": false}', '{"enable_confidence_head": true}'


@pytest.mark.parametrize(
    ("download", "hub", "mode"),
    [(WITHOUT, None, "static"), (None, WITHOUT, "static"), (WITHOUT, WITH, "static"), (WITH, WITHOUT, "compact")],
)
def test_a_draft_in_the_hubs_cache_is_read_like_a_folder(
    tmp_path: Path, monkeypatch, download: str | None, hub: str | None, mode: str
) -> None:
    """The download folder first, then where the hub keeps files."""
    for name, content in (("download", download), ("hub", hub)):
        if content is not None:
            keep(tmp_path / name, content)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert check(None, download_dir=str(tmp_path / "download"), **HUB).mode == mode
    if download is None:
        assert check(None, **HUB).mode == mode


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"markov_rank": 0}', "markov_rank"),
        ('{"markov_rank": null}', "markov_rank"),
        ('{"mask_token_id": null}', "mask_token_id"),
        ('{"markov_head_type": "other"}', "markov_head_type"),
        ('{"markov_rank": "many"}', "many"),
    ],
)
def test_a_draft_that_is_none_of_dsparks_is_refused(draft: Path, content: str, named: str) -> None:
    write(draft, content)
    with pytest.raises(InputError, match=f"^{draft / 'config.json'}: .*{named}.*; give a DSpark checkpoint$"):
        check(draft)


@pytest.mark.parametrize("path", ["/no/such/folder", "./draft", "a/b/c", "dspark_qwen3_8b_block7/"])
def test_a_checkpoint_that_is_nowhere_is_named_with_its_flag(path: str) -> None:
    for field in ("model_path", "speculative_draft_model_path"):
        with pytest.raises(InputError, match=f"^--{field.replace('_', '-')}: {path} is not here; give a folder"):
            draft_checkpoint.check_path(SimpleNamespace(**{field: path}), field)


@pytest.mark.parametrize("path", [None, "someone/on-a-hub", "gpt2", "s3://bucket/draft", "some/one/draft.gguf"])
def test_a_checkpoint_that_may_be_on_a_hub_is_left_to_sglang(path: str | None, tmp_path: Path) -> None:
    for given in (path, str(tmp_path)):
        draft_checkpoint.check_path(SimpleNamespace(speculative_draft_model_path=given))


def test_a_missing_key_file_is_refused_before_weights_load(draft: Path) -> None:
    asked = Settings(policy="p", class_keys="/no/keys")
    with pytest.raises(InputError, match="--speculative-dspark-class-keys: /no/keys"):
        check(draft, asked=asked)


def test_other_flags_than_tuned_are_warned_of_with_those_to_use(draft: Path, caplog) -> None:
    tuned = {"--max-running-requests": "64", "--pp-size": "1", "--of-another-version": "3"}
    check(draft, offline.artifact(server_flags=tuned))
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "now --max-running-requests 48)" in message
    assert message.endswith("use: " + " ".join(f"{flag} {value}" for flag, value in tuned.items()))


def test_lists_and_flags_that_are_not_set_are_compared(draft: Path, caplog) -> None:
    tuned = {"--cuda-graph-bs-decode": "1 2 4", "--min-free-slots-delay": "1", "--max-queued-requests": "8"}
    same = {"cuda_graph_bs_decode": [1, 2, 4], "min_free_slots_delay": 1, "max_queued_requests": 8}
    check(draft, offline.artifact(server_flags=tuned), **same)
    assert caplog.records == []
    other = {"cuda_graph_bs_decode": [1, 2], "min_free_slots_delay": None, "max_queued_requests": 8}
    check(draft, offline.artifact(server_flags=tuned), **other)
    assert "(now --cuda-graph-bs-decode 1 2, --min-free-slots-delay not set)" in caplog.text


def test_advice_to_serve_plainly_is_passed_on(draft: Path, caplog) -> None:
    for mode in (None, "static"):
        caplog.clear()
        check(draft, offline.artifact(NoDraft(), serve="plain", advice="Do not draft."), mode=mode)
        assert [record.getMessage() for record in caplog.records] == ["/a/policy.json: Do not draft."]


def test_environment_of_the_policy_yields_to_the_operators(caplog) -> None:
    os.environ["SGLANG_A"] = "mine"
    told = {"SGLANG_A": "theirs", "SGLANG_B": "2", support.VARIABLE: "cap-accept"}
    launch._set_environment(offline.artifact(environment=told))
    assert (os.environ["SGLANG_A"], os.environ["SGLANG_B"]) == ("mine", "2")
    # How the server verifies is what the table says, whatever the policy was tuned on.
    assert support.VARIABLE not in os.environ
    assert len(caplog.records) == 1 and "SGLANG_A=theirs" in caplog.text and "mine" in caplog.text


@pytest.mark.parametrize(
    "variables",
    [{"LD_PRELOAD": "/x.so"}, {"PYTHONPATH": "/x"}, {"SGLANG_A": "\0"}, {"SGLANG_=": "1"}, {"": "1"}],
    ids=str,
)
def test_a_policy_cannot_set_other_variables(variables: dict[str, str]) -> None:
    before = dict(os.environ)
    with pytest.raises(InputError, match="environment: "):
        launch._set_environment(offline.artifact(environment=variables))
    assert dict(os.environ) == before


def parser() -> argparse.ArgumentParser:
    from sglang.srt.server_args import ServerArgs

    made = argparse.ArgumentParser(prog="sglang serve")
    ServerArgs.add_cli_args(made)
    settings.add_flags(None, made)
    return made


def parse(arguments: list[str]) -> argparse.Namespace:
    """As ``prepare_server_args`` does."""
    from sglang.srt.utils.server_args_config_parser import ConfigArgumentMerger

    made = parser()
    if "--config" in arguments:
        arguments = ConfigArgumentMerger(made).merge_config_with_args(arguments)
    return made.parse_args(arguments)


VALUES = {
    "--speculative-dspark-policy": "p.json",
    "--speculative-dspark-policy-mode": "shadow",
    "--speculative-dspark-fallback-margin": "0.25",
    "--speculative-dspark-class-keys": "keys",
    "--speculative-dspark-kernels": "ours",
    "--speculative-dspark-record": "records",
}
MEANT = Settings(
    policy=str(Path("p.json").absolute()), mode="shadow", fallback_margin=0.25, class_keys="keys", record="records"
)


def test_flags_reach_the_children_and_not_server_args() -> None:
    from sglang.srt.server_args import ServerArgs

    assert set(VALUES) == {flag.option for flag in FLAGS}
    raw = parse(["--model-path", "m", *(word for pair in VALUES.items() for word in pair)])
    assert ServerArgs.from_cli_args(raw).model_path == "m"
    assert settings.current() == MEANT and settings.kernels() == "ours"


def test_flags_in_a_configuration_file(tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("model-path: m\n" + "".join(f"{k.removeprefix('--')}: {v}\n" for k, v in VALUES.items()))
    parse(["--config", str(config)])
    assert settings.current() == MEANT
    parse(["--config", str(config), "--speculative-dspark-policy-mode", "off"])
    assert settings.current().mode == "off"


@pytest.mark.parametrize("mode", ["on", "off", "shadow"])
def test_on_and_off_in_yaml_are_modes_though_yaml_calls_them_booleans(tmp_path: Path, mode: str) -> None:
    config = tmp_path / "server.yaml"
    config.write_text(f"model-path: m\nspeculative-dspark-policy: p.json\nspeculative-dspark-policy-mode: {mode}\n")
    parse(["--config", str(config)])
    assert settings.current().mode == mode


def test_flags_share_no_name_with_sglangs() -> None:
    from sglang.srt.server_args import ServerArgs

    alone = argparse.ArgumentParser()
    ServerArgs.add_cli_args(alone)
    ours = {flag.field for flag in FLAGS}
    assert not ours & {action.dest for action in alone._actions}
    assert not ours & set(ServerArgs.__struct_fields__)


def test_no_flag_is_no_setting() -> None:
    parse(["--model-path", "m"])
    assert settings.current() is None and settings.VARIABLE not in os.environ


def test_engine_takes_the_flags_as_keywords_and_forgets_them() -> None:
    from sglang.srt.server_args import ServerArgs

    engine = SimpleNamespace(server_args_class=ServerArgs)
    launch.accept_engine_keywords(engine)
    keywords = {flag.keyword: getattr(MEANT, flag.field, "ours") for flag in FLAGS}
    made = engine.server_args_class(model_path="m", **keywords)
    assert isinstance(made, ServerArgs) and made.model_path == "m"
    assert settings.current() == MEANT and settings.kernels() == "ours"
    engine.server_args_class(model_path="m")
    assert settings.current() is None and settings.kernels() is None


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"record": "x"}, ("--speculative-dspark-record", "--speculative-dspark-policy")),
        ({"policy": "p", "mode": "maybe"}, ("--speculative-dspark-policy-mode", "maybe")),
        ({"policy": "p", "fallback_margin": -1}, ("--speculative-dspark-fallback-margin", "-1")),
        ({"policy": "p", "fallback_margin": "half"}, ("--speculative-dspark-fallback-margin", "half")),
        ({"policy": "p", "fallback_margin": float("nan")}, ("--speculative-dspark-fallback-margin", "nan")),
        ({"policy": 3}, ("--speculative-dspark-policy", "3")),
        ({"policy": "p", "unknown": 1}, ("unknown",)),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_flag(raw: dict[str, Any], named: tuple[str, ...]) -> None:
    for field, value in raw.items():
        settings.put(field, value)
    with pytest.raises(InputError) as refused:
        settings.current()
    assert all(word in str(refused.value) for word in named), str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_variable_is_refused(text: str) -> None:
    os.environ[settings.VARIABLE] = text
    with pytest.raises(InputError, match=f"^{settings.VARIABLE}: "):
        settings.current()


@pytest.mark.parametrize("raises", [False, True], ids=["command line", "sglang.Engine"])
def test_a_refusal_ends_a_command_line_in_one_line_and_raises_in_an_engine(
    tmp_path: Path, draft: Path, capsys, monkeypatch, raises: bool
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(dumps(offline.artifact()).replace('"gamma": 7', '"gamma": 0'))
    settings.put("policy", str(path))
    called = []
    described = flags.server(speculative_draft_model_path=str(draft))
    monkeypatch.setattr(support, "describe", lambda args: described)
    args = SimpleNamespace(speculative_algorithm="DSPARK", _dspark_raises=raises)
    with pytest.raises(InputError if raises else SystemExit) as ended:
        launch.resolve(args, called.append)
    assert called == []  # Before SGLang does anything, let alone loads weights.
    if not raises:
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{path}: gamma: 0" in error
    path.write_text(dumps(offline.artifact()))
    launch.resolve(args, called.append)
    assert called == [args] and os.environ[support.VARIABLE] == "compact"


def test_what_is_set_for_one_engine_is_not_the_next_ones(tmp_path: Path, monkeypatch) -> None:
    described = flags.server()
    monkeypatch.setattr(support, "describe", lambda args: described)
    path = tmp_path / "policy.json"
    path.write_text(dumps(offline.artifact(environment={"SGLANG_OF_THE_POLICY": "1"})))
    args = SimpleNamespace(speculative_algorithm="DSPARK", _dspark_raises=True)
    seen = []

    def previous(args: Any) -> None:
        seen.append((os.environ.get(support.VARIABLE), os.environ.get("SGLANG_OF_THE_POLICY")))

    settings.put("policy", str(path))
    launch.resolve(args, previous)
    settings.clear()
    launch.resolve(args, previous)
    assert seen == [("compact", "1"), (None, None)]


def test_a_draft_that_turns_out_to_have_no_head_is_not_served_compact(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, WITHOUT)
    described = flags.server()
    monkeypatch.setattr(support, "describe", lambda args: described)
    path = tmp_path / "policy.json"
    path.write_text(dumps(offline.artifact()))
    settings.put("policy", str(path))

    def previous(args: Any) -> None:
        """As SGLang resolves the draft's path, which the operator need not give."""
        described.cfg.speculative_draft_model_path = str(tmp_path)

    launch.resolve(SimpleNamespace(speculative_algorithm="DSPARK", _dspark_raises=True), previous)
    assert support.VARIABLE not in os.environ


def test_an_unsupported_version_is_named_with_the_supported(monkeypatch) -> None:
    monkeypatch.setattr(hooks, "SUPPORTED", ("9.9.9", "9.9.8"))
    with pytest.raises(InputError, match=r"sglang 0\.5\.\d+ is not supported; .*9\.9\.9, 9\.9\.8"):
        hooks.check(())


def nothing(*arguments: Any, **keywords: Any) -> None: ...


PLANNER = f"{hooks.PLANNER}.DSparkVerifyPlanner"


@pytest.mark.parametrize(
    ("target", "parameters", "named"),
    [
        (f"{PLANNER}.schedule", (), "schedule is not there"),
        (f"{hooks.PLANNER}.Renamed.schedule_layout", (), "Renamed.schedule_layout is not there"),
        ("sglang.srt.moved.module.function", (), "moved.module.function is not there"),
        (f"{PLANNER}.schedule_layout", ("budget", "queue"), "no parameter 'queue'"),
    ],
)
def test_a_target_that_changed_is_named(target: str, parameters: tuple[str, ...], named: str) -> None:
    with pytest.raises(InputError) as refused:
        hooks.check((Hook(target, "around", nothing, parameters, "test"),))
    assert target in str(refused.value) and named in str(refused.value) and hooks.SUPPORTED[0] in str(refused.value)


def test_all_our_targets_fit_the_installed_version() -> None:
    assert hooks.misfit((*hooks.launch_hooks(), *hooks.policy_hooks(), *hooks.cpu_hooks())) is None


def test_a_patch_that_did_not_take_is_an_error(monkeypatch) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry

    monkeypatch.setattr(HookRegistry, "_hooks", HookRegistry._hooks.copy())
    monkeypatch.setattr(HookRegistry, "_patched", set())

    def broken(target: str, hooks: list[Any]) -> None:
        raise RuntimeError("cannot patch")

    monkeypatch.setattr(HookRegistry, "_apply_target", staticmethod(broken))
    logging.getLogger("sglang.srt.plugins.hook_registry").setLevel(logging.CRITICAL)
    with pytest.raises(InputError, match=rf"{PLANNER}\.schedule_layout could not be hooked"):
        hooks.install((Hook(f"{PLANNER}.schedule_layout", "around", nothing, (), "test"),))
