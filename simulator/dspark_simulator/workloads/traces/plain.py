"""Tables with plainly named columns, as ``dspark trace sample`` writes them."""

from __future__ import annotations

from dspark_simulator.workloads.traces.table import Table


class Plain(Table):
    """Arrivals in seconds and lengths in tokens; ``class`` and ``cached_tokens`` are read where a file has them."""

    name = "plain"
    title = "plain table"
    arrival, prompt, output = "arrival_s", "prompt_tokens", "output_tokens"
    unit = "s"

    def columns(self) -> dict[str, str]:
        optional = {"class": "class", "cached": "cached_tokens"}
        present = {role: name for role, name in optional.items() if name in self.source.names}
        if self.settings.class_of is not None:
            present.pop("class", None)
        return present | super().columns()
