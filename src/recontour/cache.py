"""Features on disk, so that a killed run resumes and an edited outline costs no second embedding.

An entry is a folder named by the digest of everything its features depend on; it holds `key.json`
(that data, for people) and one file a shard. Shards are written atomically and carry checksums
(they are zip archives), so that a damaged one is noticed and computed again.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.files import atomic_path, write_text
from recontour.locks import claim, hold
from recontour.recipe import digest

logger = logging.getLogger(__name__)

DEFAULT_LIMIT_BYTES = 10 * 2**30  # about 400 slides of 15,000 cells on the default encoder
PREFIX = "features-"

Shard = dict[str, NDArray[Any]]


def default_cache_dir() -> Path:
    """`$RECONTOUR_CACHE_DIR`, else `$XDG_CACHE_HOME/recontour`, else the platform's own place."""
    if own := os.environ.get("RECONTOUR_CACHE_DIR"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "recontour"
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("recontour", appauthor=False))


@dataclass(frozen=True)
class CacheEntry:
    """What the cache holds for one slide with one set of settings.

    Attributes
    ----------
    name : digest of `key`
    key : what the features depend on
    n_shards : number of shards on disk
    n_bytes : size on disk
    last_used : seconds since the epoch
    """

    name: str
    path: Path
    key: Mapping[str, Any]
    n_shards: int
    n_bytes: int
    last_used: float


class FeatureCache:
    """A folder of features with a size limit; several processes may share it.

    Parameters
    ----------
    root : the folder, made when first written to; None: `default_cache_dir()`
    limit_bytes : entries that were used longest ago are deleted beyond this size, but never one
        that is in use, in this process or another
    """

    def __init__(self, root: Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.root = default_cache_dir() if root is None else Path(root)
        self.limit_bytes = limit_bytes

    @contextlib.contextmanager
    def use(self, key: Mapping[str, Any]) -> Iterator[Shards]:
        """The shards of the entry for `key`, protected from deletion while the block runs.

        Raises
        ------
        OutputError : the cache folder cannot be written
        """
        name = digest(key)
        path = self.root / f"{PREFIX}{name}"
        with hold(self._lock_path(path)):
            if not (path / "key.json").exists():
                write_text(path / "key.json", json.dumps(key, sort_keys=True, indent=1))
            os.utime(path / "key.json")
            yield Shards(path)
        self.trim()

    def entries(self) -> tuple[CacheEntry, ...]:
        """Every entry, the one used last first."""
        found = []
        for path in self.root.glob(PREFIX + 16 * "[0-9a-f]"):
            # Another process may delete an entry while it is being looked at.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found.append(_describe(path))
        return tuple(sorted(found, key=lambda entry: -entry.last_used))

    def clear(self, older_than: float | None = None) -> int:
        """Delete the entries not used for `older_than` seconds (None: all) that nobody is using.

        Returns
        -------
        bytes freed
        """
        now = time.time()
        old = (e for e in self.entries() if older_than is None or now - e.last_used > older_than)
        return sum(entry.n_bytes for entry in old if self._delete(entry.path))

    def trim(self) -> int:
        """Delete what was used longest ago until the size limit is kept; bytes freed."""
        entries = self.entries()
        excess = sum(entry.n_bytes for entry in entries) - self.limit_bytes
        freed = 0
        for entry in reversed(entries):
            if freed >= excess:
                break
            if self._delete(entry.path):
                freed += entry.n_bytes
        return freed

    def _lock_path(self, entry: Path) -> Path:
        return entry.with_suffix(".lock")

    def _delete(self, path: Path) -> bool:
        """Delete an entry unless it is in use."""
        with claim(self._lock_path(path)) as claimed:
            if claimed:
                shutil.rmtree(path, ignore_errors=True)
            return claimed


class Shards:
    """The shards of one entry."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, index: int, shapes: Mapping[str, tuple[int, ...]]) -> Shard | None:
        """Shard `index`, or None when it is absent or damaged.

        Parameters
        ----------
        shapes : the float16 arrays it must hold, with their shapes
        """
        path = self._shard(index)
        try:
            # From memory: numpy leaves the file open when it turns out not to be an archive.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                shard = {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError):
            logger.warning("cached shard %s is damaged; computing it again", path.name)
            return None
        found = {name: (values.shape, values.dtype.name) for name, values in shard.items()}
        if found != {name: (tuple(shape), "float16") for name, shape in shapes.items()}:
            logger.warning("cached shard %s does not fit; computing it again", path.name)
            return None
        return shard

    def save(self, index: int, shard: Mapping[str, NDArray[Any]]) -> None:
        """Write shard `index`, all or nothing.

        Raises
        ------
        OutputError : the disk is full, or the folder cannot be written
        """
        with atomic_path(self._shard(index)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **shard)

    def _shard(self, index: int) -> Path:
        return self.path / f"shard-{index:06d}.npz"


def _describe(path: Path) -> CacheEntry:
    files = [file.stat() for file in path.iterdir()]
    key_file = path / "key.json"
    try:
        key = json.loads(key_file.read_text())
    except (ValueError, OSError):
        key = {}
    return CacheEntry(
        name=path.name.removeprefix(PREFIX),
        path=path,
        key=key,
        n_shards=sum(1 for _ in path.glob("shard-*.npz")),
        n_bytes=sum(stat.st_size for stat in files),
        last_used=key_file.stat().st_mtime if key_file.exists() else path.stat().st_mtime,
    )
