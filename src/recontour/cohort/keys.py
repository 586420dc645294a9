"""What a row of the manifest asks for, as a key: a changed row has another."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from recontour import __version__
from recontour.cohort.pairing import file_name
from recontour.cohort.rows import Row
from recontour.errors import MissingFileError
from recontour.recipe import Recipe, digest
from recontour.storage import is_url, remote_stamp

MISSING = "missing"
"""Instead of a digest: a file that is not there makes a key too, so that its row runs and fails."""


def row_key(row: Row, recipe: Recipe) -> str:
    """Names everything the result of a row depends on; cheap, however large the slide.

    Of outlines (and of a tissue mask) the content counts, of the slide its name, size and time of
    change. Where files lie does not. A file at a URL goes by what its server says of it.

    Parameters
    ----------
    recipe : of the cohort; the row's own settings go before

    Raises
    ------
    MissingExtraError : a URL, and fsspec is not installed
    StorageError : a server that does not answer
    EncoderError, MissingFileError : the weights of the encoder are not there
    """
    settings = row.recipe_of(recipe).to_dict()
    if Path(settings["tissue"]).suffix:
        settings["tissue"] = _content(settings["tissue"])
    return digest(
        {
            "recipe": settings,
            "weights": _weights(recipe.encoder),
            "slide": [file_name(row.slide), *_stamp(row.slide)],
            "coarse": _content(row.coarse),
            "reviewed": row.reviewed and _content(row.reviewed),
            "also": sorted(_content(path) for path in row.also),
            "recontour": __version__,
        }
    )


def _content(path: str) -> str:
    if is_url(path):
        return digest(_stamp(path))
    try:
        return sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return MISSING


def _stamp(path: str) -> list[Any]:
    """What changes when a file does, without reading it."""
    if is_url(path):
        return _remote_stamp(path)
    try:
        found = Path(path).stat()
    except OSError:
        return [MISSING]
    return [found.st_size, found.st_mtime_ns]


def _remote_stamp(url: str) -> list[Any]:
    try:
        return list(remote_stamp(url))
    except MissingFileError:
        return [MISSING]


@lru_cache
def _weights(encoder: str) -> str | None:
    """The weights of an encoder that lets the user choose them outside of the recipe."""
    from recontour import registry

    name = getattr(registry.lookup("encoder", encoder), "weights_name", None)
    return None if name is None else str(name())
