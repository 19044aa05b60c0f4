"""The policy file is reloaded when it changes, refused when it is invalid, and the watching thread survives."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.serving import background, policy_file_watcher
from sglang_dspark.serving.policy_file_watcher import Watcher

DEADLINE_S = 300.0


class Live:
    def __init__(self, path: Path) -> None:
        self.settings, self.in_force = SimpleNamespace(policy=str(path)), SimpleNamespace(version=4, text=b"zero")
        self.offers: list[bytes] = []

    def offer(self, text: bytes) -> None:
        if text == b"bad":
            raise InputError(f"{self.settings.policy}: bad")
        self.offers.append(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "policy.json"
    made.write_bytes(b"one")
    return made


def test_a_change_is_offered_once(path: Path) -> None:
    live = Live(path)
    watcher = Watcher(live)
    watcher.look()
    assert live.offers == []
    path.write_bytes(b"two!")
    for _ in range(3):
        watcher.look()
    assert live.offers == [b"two!"] and (watcher.reloads, watcher.refusals) == (1, 0)


def test_a_replacement_of_equal_size_and_time_is_seen(path: Path) -> None:
    live = Live(path)
    watcher, before = Watcher(live), path.stat()
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    watcher.look()
    assert live.offers == [b"two"]


def test_a_wrong_or_missing_file_is_refused_with_the_version_that_stays(path: Path, caplog) -> None:
    live = Live(path)
    watcher = Watcher(live)
    path.write_bytes(b"bad")
    with caplog.at_level(logging.ERROR):
        watcher.look()
        path.unlink()
        watcher.look()
        watcher.look()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and all("policy 4 stays in force" in m and str(path) in m for m in messages)
    path.write_bytes(b"good")
    watcher.look()
    assert live.offers == [b"good"] and (watcher.reloads, watcher.refusals) == (1, 2)


def test_a_touched_file_is_no_new_policy_unless_asked_for(path: Path) -> None:
    live = Live(path)
    live.in_force.text = b"one"
    watcher = Watcher(live)
    os.utime(path, ns=(1, 1))
    watcher.look()
    other = path.with_name("other")
    other.write_bytes(b"one")
    other.replace(path)
    watcher.look()
    assert live.offers == [] and (watcher.reloads, watcher.refusals) == (0, 0)
    watcher.reload()
    watcher.look()
    assert live.offers == [b"one"]


def test_asking_reads_an_unchanged_file_once(path: Path) -> None:
    live = Live(path)
    watcher = Watcher(live)
    watcher.reload()
    watcher.look()
    watcher.look()
    assert live.offers == [b"one"]


def test_a_failing_chore_stops_neither_the_others_nor_reloads(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(background, "POLL_S", 0.01)
    live, done = Live(path), threading.Semaphore(0)
    watcher = Watcher(live)

    def broken() -> None:
        raise RuntimeError("not an OSError")

    watcher.chores = [broken, done.release]
    watcher.start()
    try:
        assert done.acquire(timeout=DEADLINE_S) and done.acquire(timeout=DEADLINE_S)
        path.write_bytes(b"two!")
        assert done.acquire(timeout=DEADLINE_S) and done.acquire(timeout=DEADLINE_S)
        assert live.offers == [b"two!"]
    finally:
        watcher.stop()
        watcher.join(DEADLINE_S)
    assert not watcher.is_alive()


class TestBackAndForth:
    @pytest.fixture
    def clock(self, monkeypatch) -> SimpleNamespace:
        clock = SimpleNamespace(now=1000.0)
        monkeypatch.setattr(policy_file_watcher.time, "monotonic", lambda: clock.now)
        return clock

    @pytest.fixture
    def live(self, path: Path) -> Live:
        return Taking(path)

    def run(self, path: Path, live: Live, clock: SimpleNamespace, seconds: float, every_s: float) -> Watcher:
        """Two writers that put back their versions every ``every_s``, and the watcher's polls."""
        watcher, versions = Watcher(live), (b"ours", b"theirs")
        writes = 0
        for tick in range(int(seconds / background.POLL_S)):
            if tick * background.POLL_S >= writes * every_s:
                path.write_bytes(versions[writes % 2])
                os.utime(path, ns=(writes, writes))
                writes += 1
            watcher.look()
            clock.now += background.POLL_S
        return watcher

    def test_versions_that_flip_flop_are_taken_ever_more_rarely(self, path, live, clock, caplog) -> None:
        self.run(path, live, clock, 240.0, 1.0)
        assert 4 < len(live.offers) < 14
        assert len([r for r in caplog.records if "back and forth" in r.getMessage()]) < 14
        assert str(path) in caplog.text

    def test_the_last_version_is_taken_in_the_end(self, path, live, clock) -> None:
        watcher = self.run(path, live, clock, 20.0, 0.5)
        path.write_bytes(b"ours")
        for version in (b"theirs", b"ours"):  # Whichever it is that is in force now.
            path.write_bytes(version)
            os.utime(path, ns=(1, len(version)))
            for _ in range(int(policy_file_watcher.MOST_HOLD_S / background.POLL_S) + 2):
                watcher.look()
                clock.now += background.POLL_S
            assert live.in_force.text == version

    def test_a_change_and_its_undoing_are_taken_at_once(self, path, live, clock) -> None:
        watcher = Watcher(live)
        for version in (b"new", b"zero", b"new", b"newer", b"newest"):
            path.write_bytes(version)
            watcher.look()
            assert live.in_force.text == version
            clock.now += background.POLL_S

    def test_one_that_is_asked_for_is_taken_at_once(self, path, live, clock) -> None:
        watcher = self.run(path, live, clock, 20.0, 0.5)
        for version in (b"ours", b"theirs", b"ours"):
            path.write_bytes(version)
            watcher.reload()
            watcher.look()
            assert live.in_force.text == version

    @pytest.mark.parametrize("missing", [False, True])
    def test_a_wrong_file_in_place_of_a_held_version_is_refused_once(self, path, live, clock, missing: bool) -> None:
        watcher = self.run(path, live, clock, 20.0, 0.5)
        returning = b"theirs" if live.in_force.text == b"ours" else b"ours"
        path.write_bytes(returning)
        watcher.look()
        assert live.in_force.text != returning
        path.unlink() if missing else path.write_bytes(b"bad")
        for _ in range(5):
            watcher.look()
            clock.now += background.POLL_S
        assert watcher.refusals == 1

    def test_a_version_that_returns_later_is_new(self, path, live, clock) -> None:
        self.run(path, live, clock, 20.0, 0.5)
        clock.now += policy_file_watcher.RETURN_S
        live.offers.clear()
        self.run(path, live, clock, 2.0, 0.5)
        assert len(live.offers) >= 3


class Taking(Live):
    """A policy whose next step comes at once."""

    def offer(self, text: bytes) -> None:
        super().offer(text)
        self.in_force = SimpleNamespace(version=self.in_force.version + 1, text=text)
