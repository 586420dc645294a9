"""XML in, safely: no entities, no document types, nothing fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recontour.errors import AnnotationError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def load_xml(path: Path) -> Element:
    """Parse a file; gives its root element.

    Raises
    ------
    AnnotationError : empty, cut off, not XML; or it declares entities or a document type, which no
        annotation needs and which can fill the memory or read other files
    """
    from defusedxml.ElementTree import parse

    try:
        root: Element = parse(path, forbid_dtd=True).getroot()
    except (SyntaxError, ValueError, LookupError, RecursionError) as error:
        raise _refused(path, error) from error
    return root


def root_name(path: Path) -> str:
    """The name of the root element; only the start of the file is read.

    Raises
    ------
    AnnotationError : as `load_xml`
    """
    from defusedxml.ElementTree import iterparse

    try:
        with path.open("rb") as file:
            for _, element in iterparse(file, events=("start",), forbid_dtd=True):
                return str(element.tag)
    except (SyntaxError, ValueError, LookupError, RecursionError) as error:
        raise _refused(path, error) from error
    raise AnnotationError(f"{path.name} is not XML: it has no element")


def _refused(path: Path, error: Exception) -> AnnotationError:
    from defusedxml import DefusedXmlException

    if path.stat().st_size == 0:
        return AnnotationError(f"{path.name} is empty (0 bytes); export it again")
    if isinstance(error, DefusedXmlException):
        what = type(error).__name__
        kind = {
            "DTDForbidden": "a document type (DTD)",
            "EntitiesForbidden": "entities",
            "ExternalReferenceForbidden": "a reference to another file",
        }.get(what, what)
        return AnnotationError(
            f"{path.name} was refused: it declares {kind}, which annotations do not need and which "
            "can harm; remove that part, or export the file again"
        )
    return AnnotationError(
        f"{path.name} is not XML, or cut off or damaged: {error}; copy or export it again"
    )
