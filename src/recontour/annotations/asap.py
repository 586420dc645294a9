"""ASAP XML: the annotations of CAMELYON16 and of the Automated Slide Analysis Platform."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from recontour.annotations.rings import (
    Drawn,
    Point,
    assemble,
    cannot_write,
    number,
    rectangle,
    usable_points,
)
from recontour.annotations.xml import load_xml, root_name
from recontour.errors import AnnotationError
from recontour.types import Annotation, Frame, Ring

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ROOT = "ASAP_Annotations"
LESION = "Tumor"
"""The class of every lesion group, however the file spells it."""

LESION_GROUPS = frozenset(
    ("_0", "_1", "tumor", "tumors", "tumour", "tumours", "metastasis", "metastases")
)
EXCLUSION_GROUPS = frozenset(("_2", "exclusion", "exclusions", "exclude", "excluded"))
NO_GROUP = frozenset(("", "none"))
"""All compared in lower case."""

PUBLISHED_LESIONS = ("_0", "_1", "Tumor", "Metastases")
PUBLISHED_EXCLUSIONS = ("_2", "exclusion")
"""The groups the published LC-MIL code knows, spelled exactly like this; it passes over others."""

OUTLINES = frozenset(("polygon", "spline", "rectangle"))


class Asap:
    """Reads ASAP XML; each annotation in it is one ring, and its group says what it is."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether an .xml file is of this kind."""
        return root_name(path) == ROOT

    def read(self, path: Path, frame: Frame) -> Annotation:
        """Read the polygons, splines (as polygons) and rectangles.

        The groups `_0`, `_1`, Tumor and Metastases (also singular or plural, British, in any case)
        are lesions, class "Tumor". `_2` and Exclusion, in any case, are cut out of every outline.
        Any other group is a class of that name; rings without a group ("None") are unclassified.
        Dots, point sets and measurements are no outlines. `notes` says what was done.

        Raises
        ------
        AnnotationError : not ASAP XML, damaged, or refused for what it declares
        """
        root = load_xml(path)
        if root.tag != ROOT:
            raise AnnotationError(
                f"{path.name} is not ASAP XML: its first element is <{root.tag}>, not <{ROOT}>"
            )
        notes: list[str] = []
        drawn: list[Drawn] = []
        others: Counter[str] = Counter()
        for place, element in enumerate(root.iter("Annotation"), 1):
            kind = element.get("Type", "Polygon").strip()
            if kind.casefold() not in OUTLINES:
                others[kind] += 1
                continue
            drawn.append(_drawn(element, place, kind, notes))
        for kind, count in others.items():
            notes.append(f"{count} annotation(s) of type {kind} are no outlines: left out")
        notes += _translations(drawn)
        return Annotation(
            slide_id=path.stem,
            regions=assemble(drawn, path.name, notes),
            source=path.name,
            notes=tuple(notes),
            rings=tuple(item.ring for item in drawn),
        )

    def write(self, annotation: Annotation, path: Path, frame: Frame) -> None:
        """Refuse: this format is only read.

        Raises
        ------
        UsageError : always; names GeoJSON
        """
        raise cannot_write(path, "ASAP XML")


def _drawn(element: Element, place: int, kind: str, notes: list[str]) -> Drawn:
    name = element.get("Name", "").strip()
    who = f"annotation {place}" + (f" ({name})" if name else "")
    points = usable_points(_points(element, who, notes), who, notes)
    if kind.casefold() == "rectangle":
        points = rectangle(points)
    group = element.get("PartOfGroup", "")
    key = group.strip().casefold()
    inside = key not in EXCLUSION_GROUPS
    label = None
    if inside and key not in NO_GROUP:
        label = LESION if key in LESION_GROUPS else group.strip()
    ring = Ring(
        coordinates=tuple(points),
        group=group,
        inside=inside,
        label=label,
        published=group in (*PUBLISHED_LESIONS, *PUBLISHED_EXCLUSIONS),
    )
    return Drawn(ring, who, name)


def _points(element: Element, who: str, notes: list[str]) -> list[Point]:
    """In the order the file numbers them."""
    found = [
        (number(c.get("Order")), (number(c.get("X")), number(c.get("Y"))))
        for c in element.iter("Coordinate")
    ]
    if any(order != order for order, _ in found):  # NaN: not numbered
        notes.append(f"{who}: points without a number; taken in the order of the file")
    else:
        found.sort(key=lambda item: item[0])
    return [point for _, point in found]


def _translations(drawn: list[Drawn]) -> list[str]:
    """What the groups were taken for, where the file does not say it in these words."""
    counts = Counter((item.ring.group, item.ring.inside, item.ring.label) for item in drawn)
    said = []
    for (group, inside, label), count in counts.items():
        if not inside:
            said.append(f"{count} ring(s) of group '{group}' are cut out")
        elif label is None:
            said.append(f"{count} ring(s) of no group (PartOfGroup='{group}') have no class")
        elif label != group:
            said.append(f"{count} ring(s) of group '{group}' are class {label}")
    return said
