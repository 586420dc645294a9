"""The cache: nothing computed twice, nothing stale, nothing damaged, never too large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recontour.cache import FeatureCache, default_cache_dir
from recontour.errors import OutputError

SHAPES = {"cell": (5, 3), "context": (5, 3)}


def shard(value: float) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value, np.float16) for name, shape in SHAPES.items()}


def fill(cache: FeatureCache, name: str, n_shards: int = 1) -> Path:
    with cache.use({"slide": name}) as shards:
        for i in range(n_shards):
            shards.save(i, shard(i))
    return shards.path


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path / "key.json", (then, then))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "deep" / "cache")
    fill(cache, "a", 2)
    with cache.use({"slide": "a"}) as shards:
        loaded = shards.load(1, SHAPES)
        assert shards.load(2, SHAPES) is None
    assert loaded is not None
    np.testing.assert_array_equal(loaded["context"], shard(1)["context"])


def test_another_key_meets_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    fill(cache, "a")
    with cache.use({"slide": "a", "mpp": 0.5}) as shards:
        assert shards.load(0, SHAPES) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\x00" * len(data),
        lambda data: data[:170] + bytes([data[170] ^ 1]) + data[171:],  # one bit of one number
    ],
    ids=["truncated", "empty", "zeros", "bit flip"],
)
def test_a_damaged_shard_counts_as_absent(tmp_path: Path, damage) -> None:
    cache = FeatureCache(tmp_path)
    file = fill(cache, "a") / "shard-000000.npz"
    file.write_bytes(damage(file.read_bytes()))
    with cache.use({"slide": "a"}) as shards:
        assert shards.load(0, SHAPES) is None


def test_a_shard_of_another_shape_counts_as_absent(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    fill(cache, "a")
    with cache.use({"slide": "a"}) as shards:
        assert shards.load(0, {"cell": (6, 3), "context": (6, 3)}) is None
        assert shards.load(0, {"cell": (5, 3)}) is None


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    for i, name in enumerate("abc"):
        age(fill(cache, name), 100 - 10 * i)
    one = cache.entries()[0].n_bytes
    assert [entry.key["slide"] for entry in cache.entries()] == ["c", "b", "a"]
    small = FeatureCache(tmp_path, limit_bytes=int(2.5 * one))
    assert small.trim() == one
    assert [entry.key["slide"] for entry in small.entries()] == ["c", "b"]
    assert not list(tmp_path.glob("*.tmp*"))


def test_using_an_entry_makes_it_recent_and_the_limit_is_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    for i, name in enumerate("ab"):
        age(fill(cache, name), 100 - 10 * i)
    one = cache.entries()[0].n_bytes
    small = FeatureCache(tmp_path, limit_bytes=int(2.5 * one))
    with small.use({"slide": "a"}):
        pass
    fill(small, "c")
    assert {entry.key["slide"] for entry in small.entries()} == {"a", "c"}


def test_an_entry_in_use_is_never_deleted(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=0)
    with cache.use({"slide": "a"}) as shards:
        shards.save(0, shard(1))
        assert cache.trim() == 0
        assert cache.clear() == 0
        assert shards.load(0, SHAPES) is not None
    assert cache.entries() == ()  # too large for the limit once nobody needs it


def test_an_entry_another_process_uses_is_never_deleted(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from recontour.cache import FeatureCache\n"
        "with FeatureCache(Path(sys.argv[1])).use({'slide': 'a'}):\n"
        "    print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        cache = FeatureCache(tmp_path)
        with cache.use({"slide": "a"}) as shards:  # sharing is allowed
            shards.save(0, shard(1))
        assert cache.clear() == 0
        process.kill()  # the lock of a dead process is no obstacle
        process.wait()
    assert cache.clear() > 0
    assert list(tmp_path.iterdir()) == []


def test_clear_by_age(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    age(fill(cache, "old"), 1000)
    fill(cache, "new")
    assert cache.clear(older_than=500) > 0
    assert [entry.key["slide"] for entry in cache.entries()] == ["new"]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    (tmp_path / "features-of-my-life.txt").write_text("precious")
    cache = FeatureCache(tmp_path, limit_bytes=0)
    fill(cache, "a")
    cache.clear()
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.docx", "features-of-my-life.txt"}


def test_an_entry_says_what_it_is(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    path = fill(cache, "a", 3)
    (entry,) = cache.entries()
    assert (entry.n_shards, entry.key, entry.path) == (3, {"slide": "a"}, path)
    assert entry.n_bytes == sum(file.stat().st_size for file in path.iterdir())
    assert json.loads((path / "key.json").read_text()) == {"slide": "a"}
    (path / "key.json").write_text("{")  # damaged: still listed, still clearable
    assert cache.entries()[0].key == {}
    assert cache.clear() > 0


def test_a_folder_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file" / "cache")
    assert cache.entries() == ()
    with pytest.raises(OutputError, match="RECONTOUR_CACHE_DIR"), cache.use({}):
        pass


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("RECONTOUR_CACHE_DIR", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("RECONTOUR_CACHE_DIR")
    assert default_cache_dir() == tmp_path / "xdg" / "recontour"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert "recontour" in default_cache_dir().parts
