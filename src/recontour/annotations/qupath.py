"""What QuPath means by the members of a GeoJSON feature, in all its versions.

Type, id, class and colour of an object; what its reader cannot bear and how that is mended.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Feature = Mapping[str, Any]
Place = tuple[int, ...]
"""Position of a feature in the file: its index, then the index in childObjects, and so on."""

CLASS_COLOURS: dict[str, tuple[int, int, int]] = {
    "tumor": (200, 0, 0),
    "stroma": (150, 200, 150),
    "immune cells": (160, 90, 160),
    "necrosis": (50, 50, 50),
    "other": (255, 200, 0),
    "ignore*": (180, 180, 180),
    "region*": (0, 0, 180),
}
"""QuPath's default classes, lower case."""

_LEGACY_TYPES = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
    "tma_core": "tmaCore",
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://recontour/annotation")


def properties_of(feature: Feature) -> Mapping[str, Any]:
    """The feature's properties; none when they are missing or null."""
    properties = feature.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def children_of(feature: Feature) -> Sequence[Any]:
    """Objects nested in this one (`childObjects`, or its alias `children`)."""
    key = children_key(properties_of(feature))
    return properties_of(feature)[key] if key else ()


def children_key(properties: Mapping[str, Any]) -> str | None:
    """Under which name the children are kept, None when there are none."""
    key = "childObjects" if "childObjects" in properties else "children"
    return key if isinstance(properties.get(key), list) else None


def walk(features: Sequence[Feature], above: Place = ()) -> Iterator[tuple[Place, Feature]]:
    """Every feature and every child, parents first."""
    for index, feature in enumerate(features):
        place = (*above, index)
        yield place, feature
        yield from walk([c for c in children_of(feature) if isinstance(c, Mapping)], place)


def object_type(feature: Feature) -> str:
    """annotation, detection, cell, tile, tmaCore or root; annotation where nothing is said.

    Version 0.2 gave the type as id or as `object_type`.
    """
    properties = properties_of(feature)
    for key in ("objectType", "object_type", "type"):
        kind = properties.get(key)
        if isinstance(kind, str):
            return _LEGACY_TYPES.get(kind, kind)
    identity = feature.get("id")
    return _LEGACY_TYPES.get(identity, "annotation") if isinstance(identity, str) else "annotation"


def is_uuid(identity: Any) -> bool:
    """Whether QuPath would keep `identity` as the object's id."""
    return isinstance(identity, str) and _UUID.fullmatch(identity) is not None


def object_id(feature: Feature, place: Place) -> str:
    """The feature's UUID; one made from its content and place when it has none.

    The same file always gives the same ids, so that a run can be repeated.
    """
    identity = feature.get("id")
    if is_uuid(identity):
        return str(identity)
    return made_id([list(place), feature])


def made_id(content: Any) -> str:
    """A UUID that depends on `content` (JSON types) only."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps(content, sort_keys=True)))


def label_of(properties: Mapping[str, Any]) -> str | None:
    """The class name; None when the object is unclassified. Derived classes are joined by ': '."""
    classification = properties.get("classification")
    if isinstance(classification, Mapping):
        name = classification.get("name")
        if name is None and isinstance(classification.get("names"), list):
            name = ": ".join(str(part) for part in classification["names"])
    else:
        name = classification
    if not isinstance(name, str) or not name.strip():
        return None
    return name.strip()


def colour_of(properties: Mapping[str, Any]) -> list[int] | None:
    """The class colour [red, green, blue] as given, also in the form before 0.4."""
    classification = properties.get("classification")
    if not isinstance(classification, Mapping):
        return None
    colour = classification.get("color")
    if isinstance(colour, list) and len(colour) in (3, 4) and all(_is_byte(c) for c in colour):
        return [int(c) for c in colour[:3]]
    for packed in (classification.get("colorRGB"), colour):
        if isinstance(packed, int) and not isinstance(packed, bool):
            return [(packed >> shift) & 255 for shift in (16, 8, 0)]
    return None


def class_colour(label: str) -> list[int]:
    """QuPath's colour of its own classes; otherwise one that depends on the name only."""
    known = CLASS_COLOURS.get(label.lower()) or CLASS_COLOURS.get(f"{label.lower()}*")
    if known is not None:
        return list(known)
    number = int.from_bytes(hashlib.sha256(label.encode("utf-8", "replace")).digest()[:4], "big")
    return [round(255 * c) for c in colorsys.hsv_to_rgb((number % 360) / 360, 0.75, 0.8)]


def measurements_of(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Measurements by name, from the object of today or the array used before 0.4."""
    measurements = properties.get("measurements")
    if isinstance(measurements, Mapping):
        return dict(measurements)
    if isinstance(measurements, list):
        return {
            str(item["name"]): item.get("value")
            for item in measurements
            if isinstance(item, Mapping) and "name" in item
        }
    return {}


def refined_by(properties: Mapping[str, Any]) -> set[str]:
    """The ids of the objects that this one stands for, lower case: its parent and who joined it."""
    metadata = properties.get("metadata")
    if not isinstance(metadata, Mapping):
        return set()
    parent, replaced = metadata.get("parent"), metadata.get("replaces")
    names = replaced.lower().split() if isinstance(replaced, str) else []
    return {*names, parent.lower()} if isinstance(parent, str) else set(names)


def mended(feature: Feature, place: Place) -> tuple[dict[str, Any], list[str]]:
    """Give a feature what QuPath's reader insists on, and say what was changed.

    A UUID, properties that are an object, no nulls where it wants text, a colour to each class.
    The geometry is not looked at.
    """
    result = dict(feature)
    said: list[str] = []
    result.setdefault("type", "Feature")
    identity = feature.get("id")
    legacy = isinstance(identity, str) and identity in _LEGACY_TYPES
    if not is_uuid(identity):
        result["id"] = object_id(feature, place)
        if identity is not None and not legacy:
            said.append(f"its id {str(identity)!r} was not a UUID and became {result['id']}")
    properties = feature.get("properties")
    if not isinstance(properties, Mapping):
        if properties is not None:
            said.append("its properties were not an object and were left out")
        result["properties"] = properties = {}
    properties = dict(properties)
    for key in ("name", "objectType", "object_type", "type"):
        if key in properties and properties[key] is None:
            del properties[key]
    if legacy and not {"objectType", "object_type", "type"} & set(properties):
        # The type was in the id that the UUID replaces.
        properties["objectType"] = _LEGACY_TYPES[str(identity)]
    classification = properties.get("classification")
    if not isinstance(classification, Mapping | str | None):
        del properties["classification"]
        said.append("its classification was neither a name nor an object and was left out")
    if isinstance(classification, Mapping) and classification:
        label = label_of(properties)
        if label is None and "colorRGB" not in classification:
            del properties["classification"]
            said.append("its classification had no name and was left out")
        elif label is not None and not {"color", "colorRGB", "parentClass"} & set(classification):
            properties["classification"] = {**classification, "color": class_colour(label)}
            said.append(f"its class {label!r} had no colour and got one")
    if properties != feature.get("properties"):
        result["properties"] = properties
    return result, said


def _is_byte(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 255
