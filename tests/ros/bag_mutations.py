"""Recordings of every kind, damaged at random: each must make a dataset or be refused clearly.

`python tests/ros/bag_mutations.py FIRST COUNT` runs that many seeded cases and prints what became
of them; the test suite runs a few. A case runs in a process of its own, so that one that hangs or
crashes is seen as such.
"""

from __future__ import annotations

import collections
import json
import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import h5py
import numpy as np
from bag_kinds import KINDS, storage_file
from bag_toys import drive

from lewm_core.paths import load_robot
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

FRAMES = 20
SECONDS = 30  # a case that takes longer hangs
_NUMBERS = (0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def toy_spec() -> RobotSpec:
    """The two-room robot with small pictures, so that much of a file is structure."""
    tree = load_robot('two_room').to_dict()
    tree['cameras'][0].update(width=8, height=8, source_width=8, source_height=8)
    return RobotSpec.from_dict(tree)


def make_bags(folder: Path) -> list[Path]:
    """One whole recording of every kind, of small pictures."""
    messages = []
    for topic, log_ns, message in drive(FRAMES):
        if 'camera' in topic:
            pixels = np.asarray(message.data).reshape(64, 64, 3)[:8, :8]
            message.height = message.width = 8
            message.step, message.data = 24, np.ascontiguousarray(pixels).ravel()
        messages.append((topic, log_ns, message))
    return [write(folder / f'kind_{i}', messages) for i, write in enumerate(KINDS.values())]


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """The bytes with one kind of damage, and which."""
    how = rng.choice(['flip', 'bit', 'cut', 'drop', 'double', 'swap', 'number', 'blank'])
    made, size = bytearray(data), len(data)
    if size < 64:
        return bytes(made), 'none'

    def place() -> int:
        """Anywhere, or near the ends, where the structure is."""
        near = int(rng.integers(0, min(size, 400)))
        return [int(rng.integers(0, size)), near, size - 1 - near][int(rng.integers(0, 3))]

    if how == 'flip':
        for _ in range(int(rng.integers(1, 9))):
            made[place()] = int(rng.integers(0, 256))
    elif how == 'bit':
        made[place()] ^= 1 << int(rng.integers(0, 8))
    elif how == 'cut':
        del made[place():]
    elif how in ('drop', 'double', 'blank'):
        at, length = place(), int(rng.integers(1, 200))
        part = made[at:at + length]
        made[at:at + length] = {'drop': b'', 'double': part + part, 'blank': bytes(len(part))}[how]
    elif how == 'swap':
        width, first, second = int(rng.choice([1, 2, 4, 8, 64])), place(), place()
        if abs(first - second) >= width and max(first, second) + width <= size:
            one, other = made[first:first + width], made[second:second + width]
            made[first:first + width], made[second:second + width] = other, one
    else:
        value = _NUMBERS[int(rng.integers(0, len(_NUMBERS)))]
        width, at = int(rng.choice([4, 8])), place()
        made[at:at + width] = (value % 2**(8 * width)).to_bytes(width, 'little')
    return bytes(made), str(how)


def damaged(whole: Path, to: Path, case: int) -> tuple[Path, str]:
    """A copy of the recording with the damage of this case: to its file or its metadata."""
    rng = np.random.default_rng([5, case])
    copy = to / whole.name
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
    file, where = storage_file(copy), 'file'
    if whole.is_dir() and rng.random() < 0.15:
        file, where = copy / 'metadata.yaml', 'metadata'
    data, how = mutate(file.read_bytes(), rng)
    file.write_bytes(data)
    return (file if where == 'file' and rng.random() < 0.3 else copy), f'{where} {how}'


def inspected(bag: Path) -> str:
    """'WRONG: …' when `lewm inspect` does anything but tell or refuse in one sentence, else ''."""
    from lewm_ros.inspect_bag import inspect_bag, suggest_spec
    for call in (inspect_bag, suggest_spec):
        try:
            call(bag)
        except UserError as error:
            if '\n' in str(error):
                return f'WRONG: {call.__name__}: not one sentence: {str(error)!r}'
        except BaseException:
            return f'WRONG: {call.__name__}: {traceback.format_exc()}'
    return ''


def outcome(bag: Path, output: Path, spec: RobotSpec) -> str:
    """'dataset', 'refused: …' or 'WRONG: …' for what the conversion did."""
    from lewm_ros.bags import convert
    try:
        report = convert([bag], spec, output)
    except UserError as error:
        text = str(error)
        if '\n' in text or list(output.parent.glob('data*')):
            return f'WRONG: not one sentence, or a file is left: {text!r}'
        return f'refused: {text}'
    except BaseException:
        return 'WRONG: ' + traceback.format_exc()
    return check(output, report)


def check(output: Path, report) -> str:
    """'dataset' when the file's columns agree in length with each other and with the report."""
    with h5py.File(output) as file:
        lengths = {name: len(file[name]) for name in file if file[name].shape
                   and not name.startswith('ep_')}
        total = int(file['ep_len'][:].sum())
    if set(lengths.values()) != {total} or total != report.frames or not FRAMES >= total > 0:
        return f'WRONG: lengths {lengths}, episodes {total}, reported {report.frames}'
    return 'dataset'


def _serve(pipe, bags: list[Path]) -> None:
    """Answers case numbers with (what was done, what became of it)."""
    warnings.simplefilter('ignore')
    logging.disable(logging.CRITICAL)
    spec = toy_spec()
    while (case := pipe.recv()) is not None:
        with tempfile.TemporaryDirectory() as folder:
            bag, how = damaged(bags[case % len(bags)], Path(folder), case)
            pipe.send((how, inspected(bag) or outcome(bag, Path(folder, 'out', 'data.h5'), spec)))


class Runner:
    """Runs cases in a child process, which is replaced when it hangs or crashes."""

    def __init__(self, bags: list[Path]) -> None:
        self._bags = bags
        self._child = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def run(self, case: int) -> tuple[str, str, str]:
        """(kind of recording, damage, outcome) of a case."""
        if self._child is None:
            # Not a fork: what else a process holds, of ROS and of simulators, is not all fit to
            # be thrown away in another one, and the garbage collector does just that.
            context = multiprocessing.get_context('spawn')
            self._pipe, theirs = context.Pipe()
            self._child = context.Process(target=_serve, args=(theirs, self._bags), daemon=True)
            self._child.start()
            theirs.close()
        kind = list(KINDS)[case % len(KINDS)]
        self._pipe.send(case)
        try:
            if self._pipe.poll(SECONDS):
                return kind, *self._pipe.recv()
            result = f'WRONG: no end after {SECONDS} s'
        except EOFError:
            result = 'WRONG: the process crashed'
        self._child.kill()
        self._child.join()
        self._child = None
        return kind, '?', result

    def _stop(self) -> None:
        if self._child is not None:
            self._pipe.send(None)
            self._child.join(5)
            self._child.kill()


def main(first: int, count: int) -> int:
    """The number of cases that went wrong; prints a table of all."""
    tally: collections.Counter = collections.Counter()
    wrong, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Runner(make_bags(Path(folder))) as runner:
        for case in range(first, first + count):
            kind, how, result = runner.run(case)
            word = result.split(':')[0]
            tally[word] += 1
            tally[f'{kind}: {word}'] += 1
            if word == 'WRONG':
                wrong.append(case)
                print(f'case {case}, {kind}, {how}: {result}', file=sys.stderr)
    print(json.dumps({'first': first, 'cases': count, 'wrong': wrong,
                      'seconds': round(time.monotonic() - start, 1),
                      'outcomes': dict(sorted(tally.items()))}, indent=1))
    return len(wrong)


if __name__ == '__main__':
    sys.exit(min(main(int(sys.argv[1]), int(sys.argv[2])), 1))
