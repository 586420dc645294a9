"""QuPath GeoJSON: what is read, what is written, and everything else passed through.

The file holds pixels of the full-resolution image (of its non-empty area, for slides with
`openslide.bounds-*`); `Frame.origin` says where that lies on level 0. QuPath 0.6 and later refuse
a file over one ring that is invalid at 0.01 px, so everything written is valid there.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import shapely
from shapely.affinity import translate

from recontour.annotations import qupath
from recontour.annotations.container import EXPORT_AGAIN, dump_features, load_json
from recontour.annotations.shapes import (
    NotPolygonalError,
    importable,
    mend,
    polygons_from,
    to_raw,
)
from recontour.errors import AnnotationError
from recontour.geometry import snap
from recontour.types import Annotation, Frame, Region

log = logging.getLogger(__name__)

GEOMETRY_TYPES = (
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
)
OUTLINED_BY_HAND = "annotation"
FOUND_BY_PROGRAM = ("detection", "tile", "cell")


class GeoJson:
    """Reads and writes GeoJSON as QuPath does, of all its versions."""

    suffixes: ClassVar[tuple[str, ...]] = (
        ".geojson",
        ".json",
        ".geojson.gz",
        ".json.gz",
        ".gz",
        ".zip",
    )

    def read(self, path: Path, frame: Frame) -> Annotation:
        """Read annotation objects, children included; everything stays in `originals`.

        Regions are the objects of type annotation that have an area; detections, cells and tiles
        only where the file has no annotation. Objects that another one names in `metadata.parent`
        or `metadata.replaces` are superseded by it and are no regions.

        Raises
        ------
        AnnotationError : not GeoJSON, or damaged
        """
        features, notes = _features(path)
        outlined: dict[str, list[Region]] = {}
        lines = 0
        for number, (place, feature) in enumerate(qupath.walk(features), 1):
            kind = qupath.object_type(feature)
            if kind in ("root", "tmaCore"):
                continue
            raw = feature.get("geometry")
            who = _who(number, feature)
            if not isinstance(raw, Mapping):
                notes.append(f"{who} has no geometry and was left alone")
                continue
            try:
                geometry, said = polygons_from(raw)
            except NotPolygonalError:
                lines += 1
                continue
            if said:
                done = "repaired" if not geometry.is_empty else "it cannot be refined"
                notes.append(f"{who}: {'; '.join(said)}; {done}")
            if not geometry.is_empty:
                region = _region(feature, place, translate(geometry, *frame.origin))
                group = kind if kind in FOUND_BY_PROGRAM else OUTLINED_BY_HAND
                outlined.setdefault(group, []).append(region)
        if lines:
            notes.append(f"{lines} object(s) are points or lines: kept, not refined")
        regions = _chosen(outlined, notes)
        return Annotation(
            slide_id=_stem(path.name),
            regions=tuple(_not_superseded(regions, notes)),
            source=path.name,
            originals=tuple(features),
            notes=tuple(notes),
        )

    def write(self, annotation: Annotation, path: Path, frame: Frame) -> None:
        """Write the regions as a FeatureCollection, valid at 0.01 px.

        Regions of less than 0.01 px across have no place in the file and are left out.

        Raises
        ------
        OutputError : the file cannot be written
        """
        dump_features(_features_of(annotation.regions, frame), path)


def write_complete(
    original: Annotation, new: Sequence[Region], path: Path, frame: Frame
) -> tuple[str, ...]:
    """Write everything that came in and the new regions beside it, as a FeatureCollection.

    An original goes through value by value, unless QuPath could not import it (a ring that is
    invalid at 0.01 px, say): then it is repaired and keeps its id. One without a UUID gets one.
    When `original` is not from GeoJSON, its regions are written.

    Returns
    -------
    One sentence for each original that was changed

    Raises
    ------
    OutputError : the file cannot be written
    """
    notes: list[str] = []
    carried: list[Mapping[str, Any]]
    if original.originals:
        numbers = {
            place: number for number, (place, _) in enumerate(qupath.walk(original.originals), 1)
        }
        carried = [
            _carried(feature, (index,), numbers, notes)
            for index, feature in enumerate(original.originals)
        ]
    else:
        carried = [*_features_of(original.regions, frame)]
    dump_features([*carried, *_features_of(new, frame)], path)
    return tuple(notes)


def _features(path: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    features: list[Mapping[str, Any]] = []
    notes: list[str] = []
    for name, document in load_json(path):
        found = _flatten(document)
        if found is None:
            raise AnnotationError(f"{name} is JSON, but not GeoJSON; {EXPORT_AGAIN}")
        good = [item for item in found if _is_feature(item)]
        if found and not good:
            raise AnnotationError(
                f"{name} is JSON, but not GeoJSON: nothing in it has a geometry; {EXPORT_AGAIN}"
            )
        if len(good) < len(found):
            notes.append(
                f"{name}: {len(found) - len(good)} entries are not GeoJSON features "
                "and were left out"
            )
        features += good
    return features, notes


def _flatten(document: Any) -> list[Any] | None:
    """The features of a collection, an array, a single feature or a bare geometry."""
    if isinstance(document, list):
        features: list[Any] = []
        for item in document:
            inner = _flatten(item) if isinstance(item, Mapping) else None
            features += [item] if inner is None else inner
        return features
    if not isinstance(document, Mapping):
        return None
    if isinstance(document.get("features"), list):
        return list(document["features"])
    if document.get("type") in GEOMETRY_TYPES:
        return [{"type": "Feature", "geometry": document, "properties": {}}]
    return [document] if _is_feature(document) else None


def _is_feature(item: Any) -> bool:
    if not isinstance(item, Mapping):
        return False
    geometry = item.get("geometry")
    if isinstance(geometry, Mapping):
        return geometry.get("type") in GEOMETRY_TYPES
    # A feature without a place is legal GeoJSON.
    return item.get("type") == "Feature" and geometry is None


def _region(feature: qupath.Feature, place: qupath.Place, geometry: Any) -> Region:
    properties = qupath.properties_of(feature)
    confidence = qupath.measurements_of(properties).get("confidence")
    score = None
    if isinstance(confidence, int | float) and not isinstance(confidence, bool):
        score = float(confidence) if 0 <= confidence <= 1 else None
    return Region(
        id=qupath.object_id(feature, place),
        geometry=geometry,
        label=qupath.label_of(properties),
        score=score,
        properties=properties,
    )


def _chosen(outlined: Mapping[str, list[Region]], notes: list[str]) -> list[Region]:
    if outlined.get(OUTLINED_BY_HAND):
        for kind in FOUND_BY_PROGRAM:
            if outlined.get(kind):
                notes.append(f"{len(outlined[kind])} {kind} object(s): kept, not refined")
        return outlined[OUTLINED_BY_HAND]
    for kind in FOUND_BY_PROGRAM:
        if outlined.get(kind):
            notes.append(
                f"the file has no annotation objects; its {len(outlined[kind])} {kind} object(s) "
                "are taken as the outlines"
            )
            return outlined[kind]
    return []


def _not_superseded(regions: list[Region], notes: list[str]) -> list[Region]:
    twice = [name for name, count in Counter(r.id.lower() for r in regions).items() if count > 1]
    if twice:
        notes.append(f"{len(twice)} id(s) belong to several objects, {twice[0]} among them")
    superseded = {
        name
        for region in regions
        for name in qupath.refined_by(region.properties) - {region.id.lower()}
    }
    kept = [region for region in regions if region.id.lower() not in superseded]
    if len(kept) == len(regions):
        return regions
    if not kept:
        notes.append("every object names another as its parent; all of them are used")
        return regions
    notes.append(
        f"{len(regions) - len(kept)} object(s) were refined before: "
        "their refined versions are used in their place"
    )
    return kept


def _carried(
    feature: qupath.Feature,
    place: qupath.Place,
    numbers: Mapping[qupath.Place, int],
    notes: list[str],
) -> Mapping[str, Any]:
    """The feature as it came, or repaired just enough to be importable."""
    result, said = qupath.mended(feature, place)
    for key in ("geometry", "nucleusGeometry"):
        if (key == "geometry" or key in result) and not importable(result.get(key)):
            result[key], what = mend(result.get(key))
            said.append(what if key == "geometry" else f"nucleus: {what}")
    if said:
        notes.append(f"{_who(numbers[place], feature)}: {'; '.join(said)}")
    children = qupath.children_key(result["properties"])
    if children:
        nested = [c for c in result["properties"][children] if isinstance(c, Mapping)]
        carried = [
            _carried(child, (*place, index), numbers, notes) for index, child in enumerate(nested)
        ]
        if len(nested) < len(result["properties"][children]):
            notes.append(f"{_who(numbers[place], feature)}: children that are no objects left out")
        result["properties"] = {**result["properties"], children: carried}
    return result


def _features_of(regions: Sequence[Region], frame: Frame) -> list[dict[str, Any]]:
    features = []
    for region in regions:
        x, y = frame.origin
        geometry = snap(translate(region.geometry, -x, -y) if (x or y) else region.geometry)
        if geometry.is_empty:
            log.warning("region %s is smaller than 0.01 px and is not written", region.id)
            continue
        features.append(
            {
                "type": "Feature",
                "id": region.id if qupath.is_uuid(region.id) else qupath.made_id(region.id),
                "geometry": to_raw(shapely.orient_polygons(geometry)),
                "properties": _properties(region),
            }
        )
    return features


def _properties(region: Region) -> dict[str, Any]:
    """The region's properties in the form QuPath writes today."""
    given = dict(region.properties)
    for key in ("childObjects", "children", "object_type"):
        given.pop(key, None)
    result: dict[str, Any] = {"objectType": given.pop("objectType", None) or "annotation"}
    name = given.pop("name", None)
    if name is not None:
        result["name"] = name
    given.pop("classification", None)
    if region.label is not None:
        own = None
        if qupath.label_of(region.properties) == region.label:
            own = qupath.colour_of(region.properties)
        colour = own or qupath.class_colour(region.label)
        result["classification"] = {"name": region.label, "color": colour}
    if given.pop("isLocked", False) is True:
        result["isLocked"] = True
    measurements = qupath.measurements_of(region.properties)
    if region.score is not None and math.isfinite(region.score):
        measurements.setdefault("confidence", float(region.score))
    given.pop("measurements", None)
    if measurements:
        result["measurements"] = measurements
    return {**result, **given}


def _who(number: int, feature: qupath.Feature) -> str:
    properties = qupath.properties_of(feature)
    names = [n for n in (qupath.label_of(properties), properties.get("name")) if n]
    return f"object {number}" + (f" ({', '.join(map(str, names))})" if names else "")


def _stem(name: str) -> str:
    for suffix in (".gz", ".zip", ".geojson", ".json"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name
