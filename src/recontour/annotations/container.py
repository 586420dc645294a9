"""JSON text in and out of plain, gzipped and zipped files."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recontour.errors import AnnotationError
from recontour.files import write_bytes

EXPORT_AGAIN = "export it again (QuPath: File > Export objects as GeoJSON)"


def load_json(path: Path) -> list[tuple[str, Any]]:
    """Parse a file: one (name, document), or one for each JSON file of a zip.

    Raises
    ------
    AnnotationError : empty, damaged, or not JSON
    """
    data = path.read_bytes()
    if not data:
        raise AnnotationError(f"{path.name} is empty (0 bytes); {EXPORT_AGAIN}")
    return [(name, _parse(text, name)) for name, text in _unpack(data, path.name)]


def dump_features(features: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a FeatureCollection, one feature a line, all or nothing.

    Packed when the name ends in .gz or .zip. The same features give the same bytes.
    """
    lines = ",\n".join(json.dumps(feature, separators=(",", ":")) for feature in features)
    text = f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'
    data = text.encode("ascii")
    suffix = path.suffix.lower()
    if suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    elif suffix == ".zip":
        buffer = io.BytesIO()
        stem = path.stem if path.stem.lower().endswith((".json", ".geojson")) else ""
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            entry = zipfile.ZipInfo(stem or f"{path.stem}.geojson")  # dated 1980: same bytes again
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
        data = buffer.getvalue()
    write_bytes(path, data)


def _unpack(data: bytes, name: str) -> list[tuple[str, bytes]]:
    """By content, not by name: browsers unpack .gz and keep the suffix."""
    damaged = f"{name} is damaged or cut off"
    if data[:2] == b"\x1f\x8b":
        try:
            return [(name, gzip.decompress(data))]
        except (EOFError, OSError, zlib.error) as error:
            raise AnnotationError(f"{damaged} ({error}); copy or {EXPORT_AGAIN}") from error
    if data[:2] != b"PK":
        return [(name, data)]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = [
                entry
                for entry in archive.namelist()
                if entry.lower().endswith((".geojson", ".json"))
                and not Path(entry).name.startswith(".")
                and not entry.startswith("__MACOSX/")  # resource forks, not JSON
            ]
            if not inside:
                raise AnnotationError(f"{name} has no .geojson or .json file in it; {EXPORT_AGAIN}")
            return [(f"{name}/{entry}", archive.read(entry)) for entry in sorted(inside)]
    except (
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        RuntimeError,  # a password is needed
        NotImplementedError,  # an unknown compression
    ) as error:
        raise AnnotationError(f"{damaged} ({error}); copy or {EXPORT_AGAIN}") from error


def _parse(data: bytes, name: str) -> Any:
    if not data.strip():
        raise AnnotationError(f"{name} is empty; {EXPORT_AGAIN}")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except RecursionError as error:
        raise AnnotationError(f"{name} is not GeoJSON: nested too deeply") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{name} is not JSON text (not UTF-8); {EXPORT_AGAIN}") from error
    except ValueError as error:
        raise AnnotationError(f"{name} is not JSON, or cut off: {error}; {EXPORT_AGAIN}") from error
