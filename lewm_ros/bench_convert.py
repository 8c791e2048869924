"""`lewm bench convert`: frames a second and memory, beside what OpenCV alone needs.

The limit is cv2 on the same bytes in memory: decode where there is something to decode, resize.
A naive loop reads with rosbags' AnyReader, decodes in full and keeps the frames to write at once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from rosbags.highlevel import AnyReader

from lewm_core.bench.common import alternate, ratio, write_result
from lewm_core.data import Dataset
from lewm_core.images import prepare, reduction
from lewm_core.robot import RobotSpec
from lewm_ros.bags import convert
from lewm_ros.bench_bags import HEIGHT, WIDTH, bench_spec, scenes, write_bench_bag
from lewm_ros.decode import decode, picture

_KINDS = ('raw', 'jpeg')
_RAW = 'sensor_msgs/msg/Image'
_SIDES = (224, 64)
_NAIVE_SHARE = 4  # it is slow: a quarter of the images tells
# VmHWM and not ru_maxrss, which a process inherits from the one that starts it.
_MEMORY = """
import sys
from pathlib import Path
from lewm_core.robot import RobotSpec
from lewm_ros.bags import convert
convert([sys.argv[1]], RobotSpec.from_json(sys.argv[3]), sys.argv[2], overwrite=True)
status = Path('/proc/self/status').read_text()
print(int(status.split('VmHWM:')[1].split()[0]) / 1024)
"""


def run(job: Any, overrides: list[str]) -> int:
    """The exit code 0; job.output then holds the figures."""
    job.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix='bench_convert_', dir=job.folder))
    try:
        with _one_thread():
            result = _speeds(job, folder)
        if job.sizes_gb:
            result['peak_mb'] = {f'{size:g}_gb': round(_peak(folder, size), 1)
                                 for size in job.sizes_gb}
            peaks = list(result['peak_mb'].values())
            result['peak_largest_to_smallest'] = peaks[-1] / peaks[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_result(job.output, result)
    print(json.dumps(result, indent=2))
    print(job.output)
    return 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV computes in the calling thread alone, for ours as for the limit."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _speeds(job: Any, folder: Path) -> dict[str, Any]:
    """Both kinds at both sizes; the headline figures are the worse of the two sizes'."""
    result: dict[str, Any] = {'frames': job.frames, 'rounds': job.rounds,
                              'source': f'{WIDTH}x{HEIGHT}', 'rows': []}
    for kind in _KINDS:
        bag = write_bench_bag(folder / kind, kind, job.frames)
        rows = [_row(job, folder, bag, kind, side) for side in _SIDES]
        result['rows'] += rows
        result[kind] = {key: min(row[key] for row in rows)
                        for key in ('ratio_to_limit', 'cpu_ratio_to_limit', 'times_naive',
                                    'speedup_two_processes', 'speedup_two_limits')}
    result['speedup_two_processes'] = min(result[k]['speedup_two_processes'] for k in _KINDS)
    result['reduced_decoding'] = [_reduced(side) for side in _SIDES]
    result['jpeg_storage'] = [_storage(job, folder, side) for side in _SIDES]
    for kind in _KINDS:
        shutil.rmtree(folder / kind)
    return result


def _row(job: Any, folder: Path, bag: Path, kind: str, side: int) -> dict[str, Any]:
    spec = bench_spec(kind, side)
    with ProcessPoolExecutor(2, get_context('spawn'), _load, (bag, spec, job.frames)) as pool:
        runs = _runs(job, folder, bag, spec, pool)
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        seconds = alternate({name: _counted(run, cpu[name]) for name, run in runs.items()},
                            job.rounds)
    seconds['naive'] = seconds['naive'] * _NAIVE_SHARE
    row = {'kind': kind, 'side': side}
    for name, values in seconds.items():
        row[f'{name}_frames_s'] = job.frames / float(np.median(values))
    row['ratio_to_limit'] = ratio(seconds['limit'], seconds['one'])
    # What other programs take does not count here; nor does waiting for the disk.
    row['cpu_ratio_to_limit'] = ratio(*(np.array(cpu[k][1:]) for k in ('limit', 'one')))
    row['times_naive'] = ratio(seconds['naive'], seconds['one'])
    row['speedup_two_processes'] = ratio(seconds['one'], seconds['two'])
    row['speedup_two_limits'] = ratio(seconds['limit'], seconds['limit_two'])
    return row


def _runs(job: Any, folder: Path, bag: Path, spec: RobotSpec, pool: ProcessPoolExecutor
          ) -> dict[str, Callable[[], Any]]:
    """What is timed in turn, by name; each but naive's is of all frames.

    `limit_two`: the limit by two processes that run already, the most that this machine can.
    """
    given = _bytes(bag, spec, job.frames)
    output = folder / 'data.h5'

    def ours(workers: int) -> Callable[[], Any]:
        return lambda: convert([bag], spec, output, overwrite=True, workers=workers)

    runs = {'limit': lambda: _limit(given, job.frames, spec), 'one': ours(1), 'two': ours(2),
            'limit_two': lambda: list(pool.map(_limit_there, [job.frames // 2] * 2, [spec] * 2)),
            'naive': lambda: _naive(bag, spec, folder / 'naive.h5', job.frames // _NAIVE_SHARE)}
    if spec.camera.type != _RAW:
        runs['limit_full'] = lambda: _limit(given, job.frames, spec, full=True)
    return runs


def _counted(run: Callable[[], Any], cpu: list[float]) -> Callable[[], None]:
    """`run`, which then also notes the processor seconds of it and of its processes."""
    def counted() -> None:
        before = sum(os.times()[:4])
        run()
        cpu.append(sum(os.times()[:4]) - before)
    return counted


def _bytes(bag: Path, spec: RobotSpec, frames: int) -> list[np.ndarray]:
    """The images' bytes in memory, each distinct one once: more would not fit at any size."""
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic == '/' + spec.camera.topic]
        stream = reader.messages(connections=wanted)
        return [np.array(reader.deserialize(raw, spec.camera.type).data)
                for _, (_, _, raw) in zip(range(min(frames, 200)), stream)]


def _limit(given: list[np.ndarray], frames: int, spec: RobotSpec, full: bool = False) -> None:
    camera = spec.camera
    scale = 1 if full else reduction(WIDTH, HEIGHT, camera)
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
             8: cv2.IMREAD_REDUCED_COLOR_8}[scale]
    for i in range(frames):
        data = given[i % len(given)]
        if camera.type == _RAW:
            rgb = data.reshape(HEIGHT, WIDTH, 3)
        else:
            rgb = cv2.cvtColor(cv2.imdecode(data, flags), cv2.COLOR_BGR2RGB)
        cv2.resize(rgb, (camera.width, camera.height), interpolation=cv2.INTER_AREA)


_GIVEN: list[np.ndarray] = []  # in another process


def _load(bag: Path, spec: RobotSpec, frames: int) -> None:
    cv2.setNumThreads(1)
    _GIVEN.extend(_bytes(bag, spec, frames))


def _limit_there(frames: int, spec: RobotSpec) -> None:
    _limit(_GIVEN, frames, spec)


def _naive(bag: Path, spec: RobotSpec, output: Path, count: int) -> None:
    frames: list[np.ndarray] = []
    with AnyReader([bag]) as reader:
        for connection, _, raw in reader.messages():
            if connection.topic == '/' + spec.camera.topic:
                frames.append(prepare(decode(reader.deserialize(raw, connection.msgtype)),
                                      spec.camera))
            if len(frames) == count:
                break
    with h5py.File(output, 'w') as f:
        f['pixels'] = np.stack(frames)


def _reduced(side: int) -> dict[str, float]:
    """How far a JPEG decoded at a reduced scale is from one decoded in full, in grey levels."""
    spec = bench_spec('jpeg', side)
    errors = []
    for message in scenes('jpeg', 50):
        full = prepare(decode(message), spec.camera).astype(int)
        errors.append(np.abs(full - picture(message, spec.camera)))
    return {'side': side, 'scale': reduction(WIDTH, HEIGHT, spec.camera), **_error(errors)}


def _error(errors: list[np.ndarray]) -> dict[str, float]:
    error = np.stack(errors)
    return {'mean_error': float(error.mean()), 'p99_error': float(np.percentile(error, 99)),
            'max_error': int(error.max())}


def _storage(job: Any, folder: Path, side: int) -> dict[str, Any]:
    """What storage=jpeg costs: pixel error, bytes, and the loader's speed beside raw pixels."""
    spec, made = bench_spec('raw', side), {}
    for kind in ('raw', 'jpeg'):
        path = folder / f'storage_{kind}.h5'
        convert([folder / 'raw'], spec, path, storage=kind, overwrite=True)
        made[kind] = Dataset.open(path)
    raw, jpeg = made['raw'], made['jpeg']
    starts = np.random.default_rng(0).choice(raw.windows('all', 4, 5), 64)

    def load(dataset: Dataset) -> Callable[[], Any]:
        return lambda: dataset.batch(starts, 4, 5)

    seconds = alternate({'raw': load(raw), 'jpeg': load(jpeg)}, max(5, job.rounds))
    rows = np.arange(min(len(raw), 100))
    return {'side': side, **_error([np.abs(raw.frames(rows).astype(int) - jpeg.frames(rows))]),
            'bytes_to_raw': os.path.getsize(jpeg.path) / os.path.getsize(raw.path),
            'loader_speed_to_raw': ratio(seconds['raw'], seconds['jpeg']),
            'loader_frames_s': 256 / float(np.median(seconds['jpeg'])),
            'raw_loader_frames_s': 256 / float(np.median(seconds['raw']))}


def _peak(folder: Path, size_gb: float) -> float:
    """The peak memory in MB of a fresh process that converts a bag of that size."""
    bag = write_bench_bag(folder / 'memory', 'raw', round(size_gb * 1e9 / (3 * WIDTH * HEIGHT)))
    try:
        spec = bench_spec('raw', 224).to_json()
        found = subprocess.run([sys.executable, '-c', _MEMORY, str(bag),
                                str(folder / 'memory.h5'), spec], check=True, text=True,
                               capture_output=True)
        return float(found.stdout)
    finally:
        shutil.rmtree(bag)
        (folder / 'memory.h5').unlink(missing_ok=True)
