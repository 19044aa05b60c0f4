"""The verification policy: families, the two-stage decision rule, the cost belief and the artifact. No torch."""

from sglang_dspark.policy.belief import CostBelief, EagerTimes, SpsAdditiveTable, SpsTable
from sglang_dspark.policy.capture import sglang_tiers, vllm_tiers
from sglang_dspark.policy.families import AnyPolicy, Argmax, Fixed, Greedy, NoDraft, Policy, Static, Threshold
from sglang_dspark.policy.record import Budget, Engine, Load, Rule
from sglang_dspark.policy.rule import budget, compile_rule, lengths, survival

__all__ = [
    "AnyPolicy",
    "Argmax",
    "Budget",
    "CostBelief",
    "EagerTimes",
    "Engine",
    "Fixed",
    "Greedy",
    "Load",
    "NoDraft",
    "Policy",
    "Rule",
    "SpsAdditiveTable",
    "SpsTable",
    "Static",
    "Threshold",
    "budget",
    "compile_rule",
    "lengths",
    "sglang_tiers",
    "survival",
    "vllm_tiers",
]
