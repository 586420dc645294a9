"""Which of n processes takes a slide, without their ever talking to one another."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from recontour.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`; both count from 1, as the tasks of an array job do."""

    index: int
    count: int

    def __contains__(self, row_id: object) -> bool:
        """Whether the slide of this id is in the part.

        It hangs on the id alone: a manifest that gains, loses or reorders rows moves no other
        slide to another part.
        """
        number = int.from_bytes(hashlib.sha256(str(row_id).encode()).digest()[:8], "big")
        return number % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read `i/n`, such as `3/10`: the third of ten parts.

    Raises
    ------
    UsageError : not of that form, or i is not in 1 … n
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None:
        raise UsageError(f"--shard {text!r} is not of the form i/n; pass 1/10 … 10/10")
    index, count = int(match[1]), int(match[2])
    if not 1 <= index <= count:
        hint = "; parts count from 1 (sbatch --array=1-10)" if index == 0 and count else ""
        raise UsageError(f"--shard {text}: part {index} of {count} does not exist{hint}")
    return Shard(index, count)
