"""Where the surprise node's calibration lies, and what it says in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lewm_core import atomic
from lewm_core.paths import at_home
from lewm_core.types import UserError


def read_calibration(path: str) -> dict[str, Any] | None:
    """The calibration in the JSON file at `path`; None when there is no path or no file yet."""
    file = _where(path)
    if not path or not file.is_file():
        return None
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f'calibration_file={path!r} is not JSON ({error}); delete it and call '
                        '~/recalibrate') from None


def save_calibration(calibration: Any, path: str, checkpoint: str) -> str:
    """Where the calibration was written, in words: a JSON file, a checkpoint, both or neither.

    Both are replaced whole or not at all, where a link leads. An empty string means that it isn't
    wanted there. Raises UserError where `checkpoint` is by now another model than the one that was
    calibrated.
    """
    tree, where = calibration.to_dict(), ''
    if path:
        atomic.write_text(_where(path), json.dumps(tree))
        where += f'; written to {path}'
    if checkpoint:
        from lewm_core.checkpoint import update_metadata
        _check_model(calibration, _where(checkpoint))
        update_metadata(_where(checkpoint), calibration=tree)
        where += f'; written into {checkpoint}'
    return where


def _where(path: str) -> Path:
    """The file that a path from the home folder or a link leads to."""
    return at_home(path).resolve()


def _check_model(calibration: Any, path: Path) -> None:
    """Nothing; raises UserError when the calibration is not of the model in the file."""
    from lewm_core.checkpoint import load_checkpoint
    from lewm_core.recalibration import taught
    found = load_checkpoint(path)
    try:
        taught(found.model, found.heads, calibration)
    except UserError:
        raise UserError(f'checkpoint {str(path)!r} has become another model than the one that was '
                        'calibrated, so nothing is written into it; clean the node up and '
                        'configure it to use that one') from None


def describe(calibration: Any) -> str:
    """What the calibration rests on and what it promises."""
    text = (f'calibrated on {calibration.blocks} blocks ({calibration.hours:.3g} h): threshold '
            f'{calibration.threshold:.4g}, and {calibration.cusum_threshold:.3g} for the sum of '
            f'what lasts, for {calibration.promised_per_hour:g} false alarms an hour')
    if calibration.extrapolated:
        text += ', extrapolated from the tail'
    if calibration.uncertainty:
        text += '; the score has learned from them what error to expect where'
    return f'{text} ({calibration.note})' if calibration.note else text
