"""What a benchmark leaves on disk while it runs: append-only, so that a killed one goes on.

RESULTS/plan.json           settings, and what was asked for so far
RESULTS/listing.json        files that the data set misses, cases that it leaves out itself
RESULTS/cases/CASE.json     state of a case: done, left out or failed, and why
RESULTS/cases/CASE.jpg      thumbnail
RESULTS/cases/CASE.ENCODER.npz   truth and tissue, cell by cell
RESULTS/coarse/CASE/KIND_SEED.geojson   simulated outlines
RESULTS/runs/CASE.jsonl     one line for each run: figures
RESULTS/maps/CASE.jsonl     one line for each run: the label of every cell
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
from numpy.typing import NDArray

from recontour.benchmark.spec import Plan
from recontour.errors import MissingFileError, OutputError, OutputRefusedError, RecontourError
from recontour.files import write_text

SCHEMA = "recontour.benchmark/1"
LOCK = ".recontour.lock"
PLAN, ABOUT = "plan.json", "about.json"
KEPT = ("cases", "coarse", "runs", "maps", "tables", "figures")
FILES = (PLAN, ABOUT, "runs.csv", "per_class.csv", "seconds.csv", "report.html")

Record = dict[str, Any]


class Unit(NamedTuple):
    """One run: what its record is found by."""

    case: str
    encoder: str
    outline: str
    seed: int
    method: str


class Results:
    """The folder of a benchmark."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @contextmanager
    def claim(self, plan: Plan, *, overwrite: bool = False) -> Iterator[Plan]:
        """Hold the folder for this process; gives all that was asked for so far and now.

        Raises
        ------
        OutputRefusedError : another process is at work in it, it holds a benchmark with other
            settings, or something else
        """
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise OutputRefusedError(f"{folder} is a file; pass a folder with -o")
        if folder.is_dir() and not (folder / PLAN).exists():
            others = [p.name for p in folder.iterdir() if p.name != LOCK]
            if others:
                raise OutputRefusedError(
                    f"{folder} holds something else ({sorted(others)[0]}, …); pass another folder"
                )
        # The system drops the lock of a process that died: nobody has to clean up.
        lock = filelock.FileLock(folder / LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise OutputRefusedError(
                f"another benchmark is running in {folder}; wait for it, or pass another folder"
            ) from error
        except OSError as error:
            raise OutputError(f"cannot write in {folder}: {error.strerror or error}") from error
        try:
            if overwrite:
                self._empty()
            elif (folder / PLAN).exists():
                plan = plan.joined(self.plan())
            data = {"schema": SCHEMA, **plan.to_dict()}
            write_text(folder / PLAN, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
            yield plan
        finally:
            lock.release()

    def plan(self) -> Plan:
        """What was asked for so far.

        Raises
        ------
        MissingFileError : the folder holds no benchmark
        RecontourError : its plan cannot be read
        """
        path = self.folder / PLAN
        try:
            return Plan.of(json.loads(path.read_text("utf-8")))
        except FileNotFoundError as error:
            raise MissingFileError(
                f"{self.folder} holds no benchmark ({PLAN} is missing); "
                "name the folder that `recontour benchmark -o` wrote"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RecontourError(f"{path} is damaged or of another version: {error!r}") from error

    def append(self, record: Mapping[str, Any], labels: NDArray[np.int8] | None = None) -> None:
        """Keep a run, and the label of every cell (rows, cols), for good.

        Raises
        ------
        OutputError : the disk is full, or the folder cannot be written
        """
        name = f"{file_name(record['case'])}.jsonl"
        if labels is not None:
            # First the map: a run that is on record has one.
            line = {**_key(record), "map": pack(labels)}
            append_line(self.folder / "maps" / name, line)
        append_line(self.folder / "runs" / name, record)

    def records(self, case: str) -> dict[Unit, Record]:
        """The runs of a case, the last of each; lines that a killed process left torn are not."""
        found = {}
        for record in read_lines(self.folder / "runs" / f"{file_name(case)}.jsonl"):
            found[unit_of(record)] = record
        return found

    def maps(self, case: str) -> dict[Unit, NDArray[np.int8]]:
        """The label of every cell, (rows, cols), by run."""
        found = {}
        for line in read_lines(self.folder / "maps" / f"{file_name(case)}.jsonl"):
            found[unit_of(line)] = unpack(line["map"])
        return found

    def forget(self, method: str) -> int:
        """Drop all runs of a method, so that they are done again; gives how many there were.

        For a method whose code has changed: a run is known by its settings and its inputs only.
        Call it while the folder is claimed, or while nothing runs in it.
        """
        dropped = 0
        for folder in ("runs", "maps"):
            for path in sorted((self.folder / folder).glob("*.jsonl")):
                lines = list(read_lines(path))
                kept = [line for line in lines if line.get("method") != method]
                if len(kept) < len(lines):
                    text = "".join(
                        json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
                        for line in kept
                    )
                    write_text(path, text)
                    dropped += len(lines) - len(kept) if folder == "runs" else 0
        return dropped

    def state(self, case: str) -> Record:
        """What is known of a case; empty when it has not been looked at."""
        return _read(self._state(case))

    def write_state(self, case: str, state: Mapping[str, Any]) -> None:
        """Replace what is known of a case."""
        text = json.dumps({"case": case, **_plain(state)}, indent=1, ensure_ascii=False)
        write_text(self._state(case), text + "\n")

    def states(self) -> list[Record]:
        """What is known of every case, in order of their ids."""
        found = [_read(path) for path in (self.folder / "cases").glob("*.json")]
        return sorted((s for s in found if "case" in s), key=lambda s: str(s["case"]))

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Keep what the data set misses or leaves out itself, notes, and versions."""
        write_text(self.folder / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")

    def about(self) -> Record:
        """What `write_about` kept."""
        return _read(self.folder / ABOUT)

    def case_file(self, case: str, suffix: str) -> Path:
        """Where a file of a case lies."""
        return self.folder / "cases" / f"{file_name(case)}{suffix}"

    def outline_file(self, case: str, outline: str, seed: int) -> Path:
        """Where a simulated outline lies."""
        return self.folder / "coarse" / file_name(case) / f"{file_name(outline)}_{seed}.geojson"

    def _state(self, case: str) -> Path:
        return self.case_file(case, ".json")

    def _empty(self) -> None:
        for name in KEPT:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in FILES:
            (self.folder / name).unlink(missing_ok=True)


def append_line(path: Path, data: Mapping[str, Any]) -> None:
    """Append one line of JSON and flush it to the disk; a torn line before it stays alone.

    Raises
    ------
    OutputError : the disk is full, or the folder cannot be written
    """
    line = json.dumps(_plain(data), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"cannot write {path.name} in {path.parent}: {error.strerror or error}; "
            "the same command goes on from there"
        ) from error


def read_lines(path: Path) -> Iterator[Record]:
    """Every whole line of JSON; nothing where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:  # torn by a killed process: that run is done again
            continue
        if isinstance(record, dict):
            yield record


def unit_of(record: Mapping[str, Any]) -> Unit:
    """The run that a record is of."""
    return Unit(*(record[name] for name in Unit._fields))


def file_name(name: str) -> str:
    """A name that any file system takes; unlike names stay unlike."""
    safe = re.sub(r"[^\w.+-]+", "_", name, flags=re.ASCII).lstrip(".")
    if safe == name and len(name) < 100:
        return name
    return f"{safe[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def pack(labels: NDArray[np.int8]) -> Record:
    """A label map as JSON."""
    data = zlib.compress(np.ascontiguousarray(labels, np.int8).tobytes(), 6)
    return {"shape": list(labels.shape), "data": base64.b64encode(data).decode("ascii")}


def unpack(packed: Mapping[str, Any]) -> NDArray[np.int8]:
    """The label map that `pack` took."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, np.int8).reshape(packed["shape"])


def _read(path: Path) -> Record:
    """The object in a file; empty when there is none or it is damaged."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _key(record: Mapping[str, Any]) -> Record:
    return {name: record[name] for name in Unit._fields}


def _plain(value: Any) -> Any:
    """JSON knows no NaN: undefined figures are null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value
