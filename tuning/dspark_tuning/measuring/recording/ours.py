"""Recording of a server with our plugin from ``sglang_dspark.serving.stream``: lossless, without a restart."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dspark_tuning.measuring.recording.schema import About
from dspark_tuning.measuring.recording.source import Taken, described, none
from sglang_dspark.errors import InputError
from sglang_dspark.serving.step_schema import RECORDING
from sglang_dspark.sglang_client import Client, UnansweredError

WAIT_S: Final = 2.0

PARTIAL: Final = ("Draft and verify times: the plugin times whole steps.",)


class Ours:
    """A server whose plugin hands out its steps."""

    name = "the plugin's stream"
    wait_s = WAIT_S

    def __init__(self, client: Client, info: dict[str, Any]) -> None:
        """
        Args:
            info: The server's info once the stream was open.

        Raises:
            InputError: Several data-parallel ranks.
        """
        self._client, self._info = client, info
        self.restarts = 0
        if (ranks := len(info["internal_states"])) > 1:
            client.set_state(dspark_policy_record=0)
            raise InputError(
                f"{client.url}: dp_size: {ranks} is not supported over HTTP; start the server with "
                "--speculative-dspark-record FOLDER, or record a server of one rank"
            )
        self._opened: int | None = None
        self._wanted: int | None = None
        self._segment = 0
        self._classes: list[str] = []

    def poll(self) -> Taken:
        if self._wanted is not None:
            self._client.set_state(dspark_policy_record=self._wanted)
        answer = self._client.info()["internal_states"][0].get("dspark_policy_record")
        if answer is None:
            # It was restarted, or another client ended the recording.
            if not self._client.set_state(dspark_policy_record=1):
                raise UnansweredError("the server was started again without the plugin's policy")
            self._again()
            return Taken(none())
        if self._opened is not None and answer["opened"] != self._opened:
            self._again()
        self._opened = answer["opened"]
        return self._take(answer)

    def end(self) -> None:
        self._client.set_state(dspark_policy_record=0)

    def about(self, lost: int) -> About:
        policy = self._info["internal_states"][0]["dspark_policy"]
        return About(
            source="dspark",
            gamma=policy["gamma"],
            verify_mode=policy["verify_mode"],
            sts_temperatures=tuple(policy["sts_temperatures"]),
            classes=tuple(self._classes),
            lost=lost,
            partial=PARTIAL,
            **described(self._info),
        )

    def _again(self) -> None:
        self.restarts += 1
        self._opened = self._wanted = None
        self._segment += 1

    def _take(self, answer: dict[str, Any]) -> Taken:
        try:
            with pa.ipc.open_stream(base64.b64decode(answer["steps"], validate=True)) as reader:
                steps = reader.read_all()
        except (binascii.Error, pa.ArrowException) as error:
            raise UnansweredError(f"its steps cannot be read ({error})") from error
        numbers = steps["step"].to_numpy()
        first = 0 if self._wanted is None else int(np.searchsorted(numbers, self._wanted))
        steps, numbers = steps.slice(first), numbers[first:]
        if not len(steps):
            return Taken(none())
        before = numbers[0] - 1 if self._wanted is None else self._wanted - 1
        missing = np.diff(numbers, prepend=before) - 1
        segments = self._segment + np.cumsum(missing > 0)
        self._segment, self._wanted = int(segments[-1]), int(numbers[-1]) + 1
        places = self._places(answer["classes"])
        return Taken(_with_schema(steps, segments, places), int(missing.sum()))

    def _places(self, names: list[str]) -> list[int]:
        self._classes.extend(name for name in names if name not in self._classes)
        return [self._classes.index(name) for name in names]


def _with_schema(steps: pa.Table, segments: Any, places: list[int]) -> pa.Table:
    """The plugin's columns as those of ``RECORDING``."""
    listed = steps["slo_class"].combine_chunks()
    moved = pa.array(np.array(places, np.int32)[listed.values.to_numpy()], pa.int32())
    columns = {
        "segment": pa.array(segments, pa.int32()),
        "slo_class": pa.ListArray.from_arrays(listed.offsets, moved, mask=listed.is_null()),
    }
    return pa.table(
        {
            field.name: columns.get(
                field.name,
                steps[field.name] if field.name in steps.column_names else pa.nulls(len(steps), field.type),
            )
            for field in RECORDING
        },
        schema=RECORDING,
    )
