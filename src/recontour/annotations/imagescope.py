"""Aperio ImageScope XML: layers of regions, as in the PAIP challenges."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from recontour.annotations.rings import (
    Drawn,
    assemble,
    cannot_write,
    ellipse,
    number,
    rectangle,
    usable_points,
)
from recontour.annotations.xml import load_xml, root_name
from recontour.errors import AnnotationError
from recontour.types import Annotation, Frame, Ring

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ROOT = "Annotations"
PAIP_WHOLE_TUMOUR, PAIP_VIABLE_TUMOUR = "1", "2"
"""Ids of the layers in the files of PAIP2019; `layer_names` gives their classes."""

POLYGON, RECTANGLE, ELLIPSE = "0", "1", "2"
_OTHER_TYPES = {"3": "arrow", "4": "ruler", "5": "pin"}
GENERIC = "description"
"""The attribute every layer has unless its user named one; it says nothing about the layer."""

SAME_MPP = 0.05
"""Pixel sizes that differ by more than this share are those of different images."""


class ImageScope:
    """Reads ImageScope XML; a region with NegativeROA="1" is a hole in its layer."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether an .xml file is of this kind."""
        return root_name(path) == ROOT

    def read(self, path: Path, frame: Frame) -> Annotation:
        """Read the regions of every layer; its class is the layer's name.

        A layer without a name goes by its attribute, else by its id: "Layer 1", "Layer 2".
        Rectangles and ellipses may be given by two opposite corners. Arrows, rulers and points are
        no outlines. `notes` says what was done.

        Raises
        ------
        AnnotationError : not ImageScope XML, damaged, or refused for what it declares
        """
        root = _load(path)
        notes: list[str] = []
        drawn: list[Drawn] = []
        others: Counter[str] = Counter()
        for layer_id, label, layer in _layers(root):
            for place, region in enumerate(layer.iter("Region"), 1):
                identity = region.get("Id", "").strip() or str(place)
                who = f"layer {layer_id}, region {identity}"
                kind = _other_kind(region)
                if kind:
                    others[kind] += 1
                    continue
                drawn.append(_drawn(region, who, label, notes))
        for kind, count in others.items():
            notes.append(f"{count} region(s) are no outlines but {kind}: left out")
        notes += _pixel_size(root, frame)
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
        raise cannot_write(path, "ImageScope XML")


def layer_names(path: Path) -> dict[str, str]:
    """The class of each layer's regions, by the layer's id, in the order of the file.

    `layer_names(path).get(PAIP_VIABLE_TUMOUR)` is the class to ask for in a file of PAIP2019.

    Raises
    ------
    AnnotationError : as for reading
    """
    return {layer_id: label for layer_id, label, _ in _layers(_load(path))}


def _load(path: Path) -> Element:
    root = load_xml(path)
    if root.tag != ROOT:
        raise AnnotationError(
            f"{path.name} is not ImageScope XML: its first element is <{root.tag}>, not <{ROOT}>"
        )
    return root


def _layers(root: Element) -> list[tuple[str, str, Element]]:
    """(id, class, element) of each layer."""
    found = []
    for place, layer in enumerate(root.findall("Annotation"), 1):
        layer_id = layer.get("Id", "").strip() or str(place)
        names = [
            layer.get("Name", ""),
            *(a.get("Name", "") for a in layer.findall("Attributes/Attribute")),
        ]
        named = [n.strip() for n in names if n.strip() and n.strip().casefold() != GENERIC]
        found.append((layer_id, named[0] if named else f"Layer {layer_id}", layer))
    return found


def _other_kind(region: Element) -> str | None:
    """What a region is that is no outline."""
    if region.get("GeoShape", "").strip().casefold() in ("point", "points"):
        return "points"
    kind = region.get("Type", POLYGON).strip() or POLYGON
    if kind in (POLYGON, RECTANGLE, ELLIPSE) or not kind.isdigit():
        return None  # programs other than ImageScope write words; their points tell
    return _OTHER_TYPES.get(kind, f"of type {kind}")


def _drawn(region: Element, who: str, label: str, notes: list[str]) -> Drawn:
    raw = [
        (number(v.get("X")), number(v.get("Y"))) for v in region.iter() if v.tag in ("Vertex", "V")
    ]
    # Two corners of a shape may be the same point; nothing closes them.
    points = usable_points(raw, who, notes)
    if len(points) == 2:
        kind = region.get("Type", "").strip()
        points = {RECTANGLE: rectangle, ELLIPSE: ellipse}.get(kind, list)(points)
    negative = region.get("NegativeROA", "0").strip().casefold() in ("1", "true")
    ring = Ring(coordinates=tuple(points), group=label, inside=not negative, label=label)
    return Drawn(ring, who, region.get("Text", "").strip())


def _pixel_size(root: Element, frame: Frame) -> list[str]:
    said = number(root.get("MicronsPerPixel"))
    if frame.mpp is None or not said > 0 or abs(said / frame.mpp - 1) <= SAME_MPP:
        return []
    return [
        f"the file speaks of {said:g} µm/px and the slide has {frame.mpp:g}: if the outlines lie "
        "wrong, they were drawn on another image"
    ]
