"""The cells of the experiment, a serving mode under a load each: some for calibration, others to predict."""

from __future__ import annotations

from typing import Final, NamedTuple

from sglang_dspark.policy import AnyPolicy, Argmax, Fixed, NoDraft, Threshold

GAMMA: Final = 7

PLAIN: Final = "no speculation"

POLICIES: Final[dict[str, AnyPolicy | None]] = {
    PLAIN: None,
    "fixed 3": Fixed(length=3),
    "fixed 7": Fixed(length=7),
    "argmax": Argmax(),
    "threshold": Threshold(running=(1, 8, 16), theta=(0.1, 0.3, 0.5)),
}
"""The serving modes that are predicted; None is the server without speculation."""

CLIENTS: Final = (1, 4, 16)
RATE_PER_S: Final = 4.0


class Cell(NamedTuple):
    """A serving mode under a load.

    Attributes:
        policy: The mode's name.
        clients: Of a closed loop; None for the open loop at ``RATE_PER_S``.
    """

    policy: str
    clients: int | None

    @property
    def load(self) -> str:
        """The load's name in tables."""
        return f"{RATE_PER_S:g} 1/s" if self.clients is None else str(self.clients)


LOADS: Final = (*CLIENTS, None)

CALIBRATION: Final[tuple[tuple[AnyPolicy, int], ...]] = (
    (NoDraft(), 2),
    (NoDraft(), 12),
    (Fixed(length=1), 6),
    (Fixed(length=5), 12),
    (Fixed(length=7), 2),
    (Fixed(length=7), 8),
)
"""Policies and numbers of clients of the recorded calibration; none of them is a cell."""

PLAIN_CALIBRATION: Final = (2, 8)
"""Numbers of clients at which the server without speculation, which does not record, is measured from outside."""
