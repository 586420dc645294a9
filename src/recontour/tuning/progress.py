"""Finished candidates, kept in a file so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recontour.files import write_text
from recontour.recipe import digest
from recontour.tuning.criteria import Scores


class Kept:
    """Scores by setting, in memory and, where a path is given, in a JSON file.

    Parameters
    ----------
    path : the file; None: memory only
    data : names the slide and how scores are computed; scores of other data are not found
    """

    def __init__(self, path: Path | None, data: str) -> None:
        self.path = path
        self.data = data
        self.found: dict[str, Any] = {}
        if path is not None and path.is_file():
            try:
                read = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                read = {}  # not ours, or damaged: everything is computed anew
            if isinstance(read, dict):
                self.found = read

    def get(self, method: str, options: Mapping[str, Any]) -> Scores | None:
        """The scores of a setting, if they are known."""
        found = self.found.get(self._key(method, options))
        if found is None:
            return None
        kinds = {kind: tuple(pair) for kind, pair in found["by_kind"].items()}
        return Scores(**{**found, "by_kind": kinds, "problems": tuple(found["problems"])})

    def put(self, method: str, options: Mapping[str, Any], scores: Scores) -> None:
        """Keep the scores of a setting."""
        self.found[self._key(method, options)] = asdict(scores)
        if self.path is not None:
            write_text(self.path, json.dumps(self.found))

    def _key(self, method: str, options: Mapping[str, Any]) -> str:
        return digest([self.data, method, dict(options)])
