"""What every command does on a terminal: exit codes, a progress bar, and stopping when asked."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list that is filled by the first SIGINT or SIGTERM; a second SIGINT ends at once."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Bar:
    """A progress bar on a terminal; called with (done, total, what to show beside it)."""

    def __init__(self, what: str) -> None:
        from tqdm import tqdm
        self._bar = tqdm(desc=what, disable=not sys.stderr.isatty(), leave=False)

    def __call__(self, done: int, total: int, beside: str = '') -> None:
        """Nothing; shows that `done` of `total` are done."""
        self._bar.total = total
        self._bar.set_postfix_str(beside, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Nothing; the bar goes away."""
        self._bar.close()


def failures(failed: Sequence[tuple[Any, str]], what: str) -> str:
    """A table of those that failed, each with its reason; empty when none did."""
    if not failed:
        return ''
    width = max(len(str(name)) for name, _ in failed)
    return f'{len(failed)} {what}:\n' + ''.join(
        f'  {str(name):<{width}}  {reason}\n' for name, reason in failed)
