"""Which files are recordings, and of what kind: by their first bytes, whatever their name."""

from __future__ import annotations

import glob
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml
import zstandard

from lewm_core.types import UserError
from lewm_ros import mcap_scan, ros1_file, sqlite_file

_LOG = logging.getLogger(__name__)
STORAGE = ('.mcap', '.db3', '.bag')
ZSTD = b'\x28\xb5\x2f\xfd'
_LFS = b'version https://git-lfs'
_KINDS = {'mcap': mcap_scan.MAGIC, 'sqlite3': sqlite_file.MAGIC, 'ros1': ros1_file.MAGIC,
          'zstd': ZSTD}
_SPLIT = re.compile(r'_(\d+)$')


@dataclass(frozen=True)
class Recording:
    """The files of one recording in their order, and what its metadata.yaml says of it."""

    files: list[Path]
    missing: list[str] = field(default_factory=list)
    distro: str = ''
    messages: int | None = None


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """The recordings at `paths`, in order: rosbag2 directories, or .mcap, .db3 and .bag files.

    A path may be a pattern ('drives/*/'). A directory that is no bag stands for all recordings
    in and below it; a folder there that can't be read is left out with a warning. Raises
    UserError when there is none.
    """
    if not paths:
        raise UserError('no bag is given; give the path of at least one recording')
    found: dict[Path, None] = {}  # once each, in order
    for given in paths:
        path = Path(given)
        if path.exists():
            matches = [path]
        else:  # as it was given: a Path forgets the last slash, which asks for directories alone
            matches = [Path(p) for p in sorted(glob.glob(os.fspath(given), recursive=True))]
        if not matches:
            raise UserError(f'bag {str(path)!r} does not exist; give the path of a rosbag2 '
                            'directory or of a .mcap, .db3 or .bag file')
        for match in matches:
            try:
                bags = [match] if not match.is_dir() or is_bag_folder(match) else _inside(match)
            except OSError as error:
                raise unreadable(match, error) from None
            found.update(dict.fromkeys(bags))
    return list(found)


def unreadable(path: Path, error: OSError) -> UserError:
    """The sentence for what the operating system refuses to read."""
    return UserError(f'bag {str(path)!r} cannot be read: {error.strerror}; change what it is that '
                     'hinders it, or copy the bag elsewhere')


def shown(path: str | Path) -> str:
    """The path as text that can be written anywhere: a byte that is no UTF-8 becomes \\xNN."""
    return os.fsencode(path).decode(errors='backslashreplace')


def is_bag_folder(folder: Path) -> bool:
    """Whether a directory is one recording: by its metadata.yaml, or by its files' names.

    rosbag2 names them after the directory, with a number; so they are known without metadata.
    """
    if (folder / 'metadata.yaml').exists():
        return True
    stems = [_stem(p) for p in _files(folder)]
    return bool(stems) and all(s in (folder.name, _SPLIT.sub('', folder.name)) or
                               _SPLIT.sub('', s) == folder.name for s in stems)


def recording(path: Path) -> Recording:
    """The files of the recording at `path`, a file or a rosbag2 directory.

    Raises UserError when none of them is there.
    """
    if path.is_file() or path.is_symlink() and not path.is_dir():
        return Recording([path])
    if not path.is_dir():
        raise UserError(f'{str(path)!r} is a device or a pipe and not a bag; give the path of a '
                        'recording')
    listed = _metadata(path)
    names = [PurePath(str(n)).name for n in listed.get('relative_file_paths') or ()]
    files = [path / n for n in names if (path / n).is_file()]
    missing = [n for n in names if not (path / n).is_file()]
    if not files:  # renamed since, or the metadata is of no use
        files = [file for file in _files(path) if file.is_file()]
    if not files:
        raise UserError(f'bag {str(path)!r} is damaged or copied in part: its metadata.yaml is '
                        f'there, but {missing or "every recording"} is missing; copy the whole '
                        'directory')
    count = listed.get('message_count')
    return Recording(files, missing, str(listed.get('ros_distro') or ''),
                     count if isinstance(count, int) else None)


def kind_of(path: Path) -> str:
    """The kind of a file: 'mcap', 'sqlite3', 'ros1' or 'zstd', a compressed one of the others.

    Raises UserError that says what it is instead.
    """
    with path.open('rb') as file:
        head = file.read(64)
    if head.startswith(_LFS):
        raise UserError(f'bag {str(path)!r} is a Git LFS pointer and not the recording; fetch it '
                        'with git lfs pull')
    if not head:
        raise UserError(f'bag {str(path)!r} is empty: the file has no bytes; record it again')
    for kind, magic in _KINDS.items():
        if head.startswith(magic):
            if kind == 'ros1':
                _check_ros1(path, head)
            return kind
    if path.suffix == '.active':
        raise UserError(_unindexed(path))
    if any(magic.startswith(head) for magic in _KINDS.values()):
        raise UserError(f'bag {str(path)!r} is cut off after {len(head)} bytes; copy it anew or '
                        'record it again')
    if path.suffix in (*STORAGE, '.zstd'):
        raise UserError(f'bag {str(path)!r} is cut off, damaged or of an unknown kind (it begins '
                        f'with {head[:8].hex()}); repair or copy it anew or record it again')
    raise UserError(f'{str(path)!r} is not a bag: a rosbag2 directory or a file that ends in '
                    f'one of {list(STORAGE)} is expected; give the path of a recording')


def unpacked(path: Path, files: ExitStack) -> tuple[Path, str]:
    """A decompressed copy of a zstd file, which is gone when `files` is closed.

    Of a damaged one, what comes before the damage; also what that is, in words, else ''.
    """
    folder = Path(files.enter_context(tempfile.TemporaryDirectory(prefix='lewm_bag_')))
    copy = folder / path.with_suffix('').name
    with path.open('rb') as packed, copy.open('wb') as out:
        try:
            zstandard.ZstdDecompressor().copy_stream(packed, out)
        except zstandard.ZstdError as error:
            return copy, f'it does not decompress to its end ({error})'
    return copy, ''


def _check_ros1(path: Path, head: bytes) -> None:
    if not head.startswith(b'#ROSBAG V2.0'):
        version = head[len(ros1_file.MAGIC):].split(b'\n')[0].decode(errors='replace')
        raise UserError(f'bag {str(path)!r} is a ROS 1 recording of version {version!r}, but 2.0 '
                        'is expected; convert it with rosbag migrate')
    with path.open('rb') as file:
        header = file.read(4096)
    at = header.find(b'index_pos=')
    if path.suffix == '.active' or header[at + 10:at + 18] == bytes(8) and at > 0:
        raise UserError(_unindexed(path))


def _unindexed(path: Path) -> str:
    return (f'bag {str(path)!r} is an unfinished ROS 1 recording without an index; repair it with '
            'rosbag reindex and give the .bag file')


def _inside(folder: Path) -> list[Path]:
    """All recordings in and below a directory that is none itself."""
    if '.partial' in folder.name:
        raise UserError(f'bag {str(folder)!r} is what an interrupted recording left; record again '
                        'or recover its .mcap file and give that file')
    denied: list[tuple[Path, OSError]] = []
    found = sorted(_below(folder, denied))
    if denied and not found:
        raise unreadable(*denied[0])
    for inner, error in denied:
        _LOG.warning('folder %r cannot be read (%s): what recordings it may hold are left out',
                     str(inner), error.strerror)
    if not found:
        raise UserError(f'{str(folder)!r} is not a bag: a directory with a metadata.yaml, or with '
                        '.mcap, .db3 or .bag files is expected; give the path of a recording')
    return found


def _below(folder: Path, denied: list[tuple[Path, OSError]]) -> Iterator[Path]:
    """Yields the recordings in and below a folder; notes the folders that can't be read."""
    yield from _files(folder)
    yield from folder.glob('*.bag.active')  # so that it is named among those that fail
    for inner in folder.iterdir():
        if inner.name.startswith('.') or '.partial' in inner.name:
            continue
        try:
            if not inner.is_dir():
                continue
            if is_bag_folder(inner):
                yield inner
            elif not inner.is_symlink():  # which may lead in a circle
                yield from _below(inner, denied)
        except OSError as error:
            denied.append((inner, error))


def _files(folder: Path) -> list[Path]:
    """The storage files directly in a directory, by number where they have one."""
    def order(path: Path) -> tuple[str, int, str]:
        number = _SPLIT.search(_stem(path))
        return _SPLIT.sub('', _stem(path)), int(number[1]) if number else -1, path.name

    def storage(path: Path) -> bool:
        # A link that leads nowhere is one too, so that it is named among those that fail.
        whole = path.is_file() or path.is_symlink() and not path.is_dir()
        return whole and PurePath(path.name.removesuffix('.zstd')).suffix in STORAGE

    return sorted(filter(storage, folder.iterdir()), key=order)


def _stem(path: Path) -> str:
    return PurePath(path.name.removesuffix('.zstd')).stem


def _metadata(folder: Path) -> dict[str, Any]:
    """What metadata.yaml says; nothing where it can't be read: the files say it all again."""
    try:
        text = (folder / 'metadata.yaml').read_text(errors='replace')
        tree = yaml.load(text, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
        found = tree['rosbag2_bagfile_information']
        names = found.get('relative_file_paths') or []
        return found if isinstance(names, list) else {}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError,
            RecursionError):
        return {}
