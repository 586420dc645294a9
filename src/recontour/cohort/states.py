"""What became of each slide of a cohort: one small file a slide, `OUT/state/<id>.json`."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recontour.claim import read_json
from recontour.files import write_text

SCHEMA = "recontour.state/1"
FOLDER = "state"
"""Of the state files, under OUT."""


@dataclass(frozen=True)
class State:
    """How far one slide is.

    Attributes
    ----------
    key : what was asked of the slide: settings and content (`row_key`)
    outcome : `running` (or killed while it did), `done` or `failed`
    attempts : how often this key was begun, >= 1
    error, error_kind : the sentence, and the name of its class, of a failed one
    seconds : of the last attempt, on the clock of `host`
    started, finished : UTC, to the second, for people; nothing is decided by them
    facts : small figures the job reported
    """

    id: str
    key: str
    kind: str
    outcome: str
    attempts: int
    error: str | None = None
    error_kind: str | None = None
    seconds: float | None = None
    host: str = field(default_factory=platform.node)
    started: str | None = None
    finished: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the state file of this slide in `folder`, all or nothing.

        Raises
        ------
        OutputError : it cannot be written
        """
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2, ensure_ascii=False)
        write_text(state_path(folder, self.id), text + "\n")


def state_path(folder: Path, id: str) -> Path:
    """The state file of a slide in the folder of states."""
    return folder / f"{id}.json"


def read_state(folder: Path, id: str) -> State | None:
    """What is known of a slide; None where nothing is, or nothing that can be read."""
    data = read_json(state_path(folder, id))
    if data.pop("schema", None) != SCHEMA:
        return None
    try:
        return State(**data)
    except TypeError:  # a field of a later version, or one too few: as good as none
        return None


def now() -> str:
    """The time for people: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
