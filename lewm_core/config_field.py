"""One setting: a dataclass field that says what it means and which values it may take."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any


def option(help: str, default: Any = MISSING, low: float | None = None,
           high: float | None = None, among: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its description; required when it has no default.

    `low` and `high` are the ends of its range, `among` the words it may be. The description is
    what `--help`, the ROS parameter's descriptor and the README's table say.
    """
    meta = {'help': help, 'low': low, 'high': high, 'among': among}
    return field(metadata=meta) if default is MISSING else field(default=default, metadata=meta)
