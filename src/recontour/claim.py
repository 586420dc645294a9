"""Who an output folder belongs to: one run, held by one process, until it is finished."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock

from recontour.errors import OutputError, OutputRefusedError
from recontour.files import remove_leftovers, write_text

STATE = ".recontour-run.json"
LOCK = ".recontour.lock"
FINISHED = "run.json"
"""Written last: a folder with it holds a finished run."""


class Claim:
    """Hold an output folder for one run; says whether it is `new`, `resumed` or `finished`.

    What another run left stays whole until `begin`, when there is something to put in its place.
    A run that fails before leaves the folder as it found it; a killed one leaves its name.

    Parameters
    ----------
    out : the folder, made where it is missing
    key : names the run
    outputs : names of the files a finished run leaves
    overwrite : another run may be replaced
    """

    def __init__(self, out: Path, key: str, outputs: Sequence[str], *, overwrite: bool) -> None:
        self.out = out
        self.key = key
        self.outputs = tuple(outputs)
        self.overwrite = overwrite
        self.made = False
        # The system drops the lock of a process that died: nobody has to clean up.
        self.lock = filelock.FileLock(out / LOCK)

    def __enter__(self) -> str:
        out = self.out
        if out.exists() and not out.is_dir():
            raise OutputRefusedError(f"{out} is a file; pass a folder with -o")
        try:
            self.made = not out.exists()
            out.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise OutputRefusedError(
                f"another process is refining into {out}; wait for it, or pass another folder"
            ) from error
        except OSError as error:
            raise OutputError(f"cannot write in {out}: {error.strerror or error}") from error
        try:
            return self._claim()
        except BaseException:
            self._release()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None and issubclass(kind, Exception)
        if failed and not self._held():
            (self.out / STATE).unlink(missing_ok=True)
        self._release()
        if failed and self.made:
            with contextlib.suppress(OSError):  # not empty: somebody put something there
                self.out.rmdir()

    def begin(self) -> None:
        """From here on the folder holds this run, unfinished."""
        self._sign()
        (self.out / FINISHED).unlink(missing_ok=True)
        remove_leftovers(self.out, self.outputs)

    def _release(self) -> None:
        # While it is held: nobody can take a lock on a file that is about to go.
        with contextlib.suppress(OSError):
            (self.out / LOCK).unlink(missing_ok=True)
        self.lock.release()

    def _claim(self) -> str:
        out, key = self.out, self.key
        held = self._held()
        started = read_json(out / STATE).get("key")
        run = read_json(out / FINISHED).get("run")
        finished = run.get("key") if isinstance(run, dict) and not started else None
        if finished == key and held == list(self.outputs) and not self.overwrite:
            return "finished"
        ours = key in (started, finished)
        if held and not ours and not self.overwrite:
            what = "another run" if started or finished else f"files of that name ({held[0]}, …)"
            raise OutputRefusedError(
                f"{out} holds {what}; pass another folder, or --overwrite to replace it"
            )
        if not held:
            self._sign()
        return "resumed" if started == key else "new"

    def _held(self) -> list[str]:
        return [name for name in self.outputs if (self.out / name).exists()]

    def _sign(self) -> None:
        write_text(self.out / STATE, json.dumps({"key": self.key}) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of ours; empty when there is none or it is not readable."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
