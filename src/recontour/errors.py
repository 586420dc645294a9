"""Every error recontour raises on purpose, and the exit code each one means.

    RecontourError                  exit 1: the run failed
    ├── UsageError                  exit 2: the command must change
    │   ├── UnknownNameError        no encoder, method, class … of that name
    │   ├── MissingFileError        a named input does not exist
    │   ├── MissingMppError         the slide has no usable pixel size
    │   ├── MissingExtraError       an optional dependency is not installed
    │   ├── GridError               the grid cannot be made with these settings
    │   └── OutputRefusedError      the output folder holds something else
    ├── SlideError                  the slide cannot be opened or read
    ├── AnnotationError             the annotation cannot be read or holds nothing usable
    ├── TissueError                 no tissue
    ├── EncoderError                the encoder cannot be loaded or fails
    ├── RefinerError                the refiner cannot learn from what it was given
    ├── InvalidOutlineError         the outline looks wrong as a whole, and --strict was given
    ├── LaneError                   the process working on a slide of a cohort died or hung
    ├── OutputError                 a file cannot be written (disk full, no permission)
    ├── StorageError                a remote file cannot be fetched
    └── ClusterError                the Dask cluster cannot be used, or was lost

Messages name the thing, the value and the way out.
"""

from __future__ import annotations


class RecontourError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(RecontourError):
    """What was asked cannot be done as asked; the command has to change."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name is not registered or not in the file; the message lists the known ones."""

    @classmethod
    def of(cls, kind: str, name: str, known: object) -> UnknownNameError:
        """Say which `kind` of thing has no `name`, and which names exist."""
        names = ", ".join(sorted(map(str, known))) if known else "none"  # type: ignore[call-overload]
        return cls(f"unknown {kind} {name!r}; known: {names}")


class MissingFileError(UsageError):
    """An input file or folder does not exist."""


class MissingMppError(UsageError):
    """The slide has no pixel size, or a nonsensical one."""


class MissingExtraError(UsageError):
    """An optional dependency is needed and not installed."""


class GridError(UsageError):
    """The grid cannot be made with these settings."""


class OutputRefusedError(UsageError):
    """The output folder holds another run, or cannot be used."""


class SlideError(RecontourError):
    """The slide cannot be opened or read."""


class AnnotationError(RecontourError):
    """The annotation cannot be read, or holds nothing that can be used."""


class TissueError(RecontourError):
    """No tissue was found."""


class EncoderError(RecontourError):
    """The encoder cannot be loaded, or its output is not usable."""


class RefinerError(RecontourError):
    """The refiner cannot learn from what it was given."""


class InvalidOutlineError(RecontourError):
    """The coarse outline looks wrong as a whole; the message has the reasons."""


class LaneError(RecontourError):
    """The process working on a slide of a cohort died, hung or took too long."""


class OutputError(RecontourError):
    """An output file cannot be written."""


class StorageError(RecontourError):
    """A remote file cannot be fetched."""


class ClusterError(RecontourError):
    """The Dask cluster cannot be reached or used, or was lost on the way."""
