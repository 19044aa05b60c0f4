"""A new member of a family is one new file and one entry of its registry; scenarios and plans then know it by name.

The packages are mirrored into a temporary folder by symbolic links, the toy members below are added to the mirror and
to its registries, and the mirror runs them end to end. Every result of a toy scenario follows by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SIMULATOR, SHAPES = Path("simulator/dspark_simulator"), Path("sglang_dspark/shapes")

MEMBERS = {
    SIMULATOR / "costs/toy.py": """
from typing import Literal

import numpy as np

from dspark_simulator.costs.base import DRAFT_FIXED_CENTRE, CostModel, fill_grid
from dspark_simulator.costs.numeric import CostRecord


class Toy(CostModel):
    \"\"\"Steps that all take ``step_s``.\"\"\"

    kind: Literal["toy"]
    step_s: float

    def tabulate(self, gamma: int | None = None, draft_fixed: float = DRAFT_FIXED_CENTRE) -> CostRecord:
        cost = self._empty_record()
        cost["captured_s"] = self.step_s
        for grid in ("eager", "prefill"):
            fill_grid(cost, grid, np.array([1]), np.array([0.0, self.step_s]))
        return cost

    def source(self) -> str:
        return "of a toy"

    def describe(self) -> str:
        return f"Every step takes {self.step_s} s."
""",
    SIMULATOR / "workloads/arrivals/toy.py": """
from itertools import count
from typing import Literal

import numpy as np

from dspark_simulator.workloads.arrivals.base import ArrivalProcess


class Toy(ArrivalProcess):
    \"\"\"One request every ``gap_s``.\"\"\"

    kind: Literal["toy"]
    gap_s: float

    def times(self, seed, size):
        return (self.gap_s * np.arange(first, first + size) for first in count(0, size))

    @property
    def mean_rate_per_s(self):
        return 1 / self.gap_s

    def with_rate(self, rate_per_s):
        return Toy(kind="toy", gap_s=1 / rate_per_s)
""",
    SIMULATOR / "workloads/lengths/toy.py": """
from typing import Literal

import numpy as np

from dspark_simulator.workloads.lengths.base import LengthDistribution


class Toy(LengthDistribution):
    \"\"\"Half of the lengths are ``short`` tokens, the others ten times as long.\"\"\"

    kind: Literal["toy"]
    short: int

    def quantiles(self, u):
        return np.where(u < 0.5, self.short, 10 * self.short).astype(np.int64)

    def scaled(self, factor):
        return Toy(kind="toy", short=max(1, round(self.short * factor)))
""",
    SIMULATOR / "engines/toy.py": """
from dspark_simulator.engines import vllm


def receive(prompt, output, max_new, kv_tokens):
    \"\"\"Every output ends after two tokens.\"\"\"
    return prompt, 2, 2


RULES = vllm.RULES._replace(receive=receive)
""",
}


def _member_of_union(family: str, module: str) -> tuple[str, str]:
    union = f"{family} = Annotated["
    return union, f"from dspark_simulator.{module}.toy import Toy\n\n{union}Toy | "


# Text of each registry, before and after the toy's entry.
ENTRIES = {
    SIMULATOR / "costs/__init__.py": [_member_of_union("Cost", "costs")],
    SIMULATOR / "workloads/arrivals/__init__.py": [_member_of_union("Arrivals", "workloads.arrivals")],
    SIMULATOR / "workloads/lengths/__init__.py": [_member_of_union("Lengths", "workloads.lengths")],
    SIMULATOR / "engines/__init__.py": [
        ("import sglang, vllm", "import sglang, toy, vllm"),
        ('"sglang": sglang.RULES,', '"sglang": sglang.RULES, "toy": toy.RULES,'),
    ],
    SIMULATOR / "router.py": [
        (
            '    "random": random,\n',
            '    "random": random,\n    "toy": lambda seed, request, outstanding, holders: len(outstanding) - 1,\n',
        ),
    ],
    SHAPES / "gpus.py": [
        ('    "A100": Gpu(', '    "TOY": Gpu(100e9, 1e12, {"bf16": 100e12}, 100e9, True),\n    "A100": Gpu('),
    ],
}

CLASSES = [
    {
        "name": "all",
        "domain": "toy",
        "prompt": {"kind": "toy", "short": 5},
        "output": {"kind": "toy", "short": 3},
        "slo": {"ttft_s": 1.0, "tpot_s": 0.05},
    }
]
NOTHING_ACCEPTED = {
    "target": "toy",
    "drafter": "toy",
    "source": "toy",
    "persistence_tokens": 1,
    "slope": [1.0],
    "bias": [0.0],
    "sts": [1.0],
    "domains": {
        "toy": {"mean": -100, "ability": 0, "persistence": 0, "variation": 0, "knee": 100, "stretch": 1, "offsets": [0]}
    },
}
SCENARIO: dict[str, Any] = {
    "name": "toy",
    "model": "toy",
    "hardware": "toy",
    "drafter_gamma": 1,
    "replicas": 2,
    "router": "toy",
    "server": {"engine": "sglang", "gamma": 1},
    "memory": {"kv_tokens": 10000, "kv_tokens_without_draft": 10000},
    "cost": {"kind": "toy", "step_s": 0.01},
    "live": {"overhead_s": [0.0, 0.0]},
    "acceptance": NOTHING_ACCEPTED,
    "workload": {"arrivals": {"kind": "toy", "gap_s": 1.0}, "classes": CLASSES},
    "run": {"requests": 100, "warmup_requests": 10},
}
PLAN = {
    "name": "toy",
    "workload": {"arrivals": {"kind": "toy", "gap_s": 1.0}, "classes": [CLASSES[0] | {"domain": "gsm8k"}]},
    "choices": [{"model": "Qwen3-8B", "gpu": "TOY", "price_per_gpu_hour": 1.0}],
}
PLANNED = """
import json, sys
from dspark_simulator.scenario import Run
from dspark_simulator.simulation import Arm, simulate
from dspark_tuning.planning import question
from dspark_tuning.planning.deployments import deployment
from dspark_tuning.planning.what_if import parse

asked = question.load(sys.argv[1])
deployed = deployment(asked, asked.choices[0])
scenario = deployed.scenario
short = scenario.model_copy(update={"run": Run(requests=20, warmup_requests=5)})
result = simulate(short, Arm("plain", scenario.server.without_speculation()))
moved = parse("gpu=H200").apply(scenario)
described = {"described": scenario.cost.describe(), "moved": moved.cost.describe(), "hardware": moved.hardware}
print(json.dumps({"computed": deployed.derived, "tpot_s": result.tpot.mean_s, **described}))
"""


def _mirror(source: Path, target: Path, real: set[Path]) -> None:
    """Mirrors a folder by symbolic links; folders in ``real``, relative to it, are real ones."""
    target.mkdir(parents=True)
    for entry in source.iterdir():
        relative = {path.relative_to(entry.name) for path in real if path.parts[:1] == (entry.name,)}
        if relative and entry.is_dir():
            _mirror(entry, target / entry.name, relative - {Path()})
        else:
            (target / entry.name).symlink_to(entry)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the toy members. Compiled functions are those of the originals."""
    root = tmp_path_factory.mktemp("mirror")
    folders = {path.parent for path in (*MEMBERS, *ENTRIES)}
    for package in (SIMULATOR, SHAPES.parent):
        inside = {folder.relative_to(package) for folder in folders if folder.is_relative_to(package)}
        _mirror(ROOT / package, root / package, inside)
    for path, text in MEMBERS.items():
        (root / path).write_text(text)
    for path, entries in ENTRIES.items():
        text = (ROOT / path).read_text()
        for before, after in entries:
            assert text.count(before) == 1, (path, before)
            text = text.replace(before, after)
        (root / path).unlink()
        (root / path).write_text(text)
    return root


def run(mirror: Path, *command: str) -> Any:
    """JSON that a Python command prints under the mirror."""
    search = [mirror, mirror / "simulator", ROOT / "tuning"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, search)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=mirror)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def simulated(mirror: Path, folder: Path, **changes: Any) -> Any:
    """The result of ``dspark simulate`` of the toy scenario without speculation, with some fields changed."""
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(SCENARIO | changes))
    return run(mirror, "-m", "dspark_tuning.cli", "simulate", str(path), "--arm", "plain", "--json")["result"]


def test_a_cost_arrivals_lengths_and_a_router(mirror: Path, tmp_path: Path) -> None:
    """Requests never overlap: a prefill and then a step a token, of 10 ms each, all on the last replica."""
    result = simulated(mirror, tmp_path)
    assert result["requests"] == 90 and result["attainment"] == 1.0
    assert result["ttft"]["mean_s"] == pytest.approx(0.01) and result["tpot"]["mean_s"] == pytest.approx(0.01)
    # Half of the outputs have 3 tokens, half 30: 16.5 steps a second of the two replicas together.
    assert result["throughput_tok_s"] == pytest.approx(16.5, rel=0.2)
    assert result["utilisation"] == pytest.approx(0.01 * result["throughput_tok_s"] / 2, rel=0.02)


def test_an_engine(mirror: Path, tmp_path: Path) -> None:
    """One whose outputs all have two tokens: two tokens a second."""
    result = simulated(mirror, tmp_path, server={"engine": "toy", "gamma": 1})
    assert result["throughput_tok_s"] == pytest.approx(2.0, rel=0.03)


def test_a_gpu_through_roofline_and_plan(mirror: Path, tmp_path: Path) -> None:
    """A token of Qwen3-8B reads its weights, 16.4 GB in bf16, at 0.75 of 1 TB/s; the plan moves to another GPU."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    planned = run(mirror, "-c", PLANNED, str(plan))
    assert planned["computed"] and "of 1 TOY," in planned["described"]
    assert 16.4 / 0.75 * 1e-3 < planned["tpot_s"] < 1.3 * 16.4 / 0.75 * 1e-3
    assert planned["hardware"] == "H200" and "of 1 H200," in planned["moved"]


@pytest.mark.parametrize("field", ["cost", "router"])
def test_a_member_that_is_not_registered_is_refused_by_name(field: str, tmp_path: Path) -> None:
    """Outside the mirror, the same scenario names what it may be instead."""
    from dspark_simulator import scenario
    from sglang_dspark.errors import InputError

    path = tmp_path / "toy.yaml"
    known = {"cost": SCENARIO["cost"], "router": "toy"}[field]
    content = SCENARIO | {"cost": {"kind": "roofline", "gpu": "H200", "model": "Qwen3-8B"}, "router": "random"}
    path.write_text(yaml.safe_dump(content | {field: known}))
    with pytest.raises(InputError, match=f"{field}.*'?roofline|{field}.*'round_robin'"):
        scenario.load(str(path))
