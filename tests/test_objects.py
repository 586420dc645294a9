"""From areas to objects: what stands for which original."""

from __future__ import annotations

import numpy as np
import pytest
from shapely import Polygon, box

from recontour import Annotation, Region, read_annotation
from recontour.annotations.geojson import write_complete
from recontour.objects import make_objects
from recontour.types import Frame, PatchGrid, PatchSet

IDS = [f"5f3b1f5e-0000-4000-8000-{n:012d}" for n in range(4)]


def outline(number, x, side=100, label="Tumor"):
    return Region(IDS[number], box(x, 0, x + side, side), label)


@pytest.fixture(scope="module")
def patches() -> PatchSet:
    rows, cols = np.divmod(np.arange(1000, dtype=np.int32), 100)
    grid = PatchGrid((0.0, 0.0), (10, 100), rows, cols, 10, 10, 32, 0.5, 0.5)
    features = np.zeros((1000, 2), np.float16)
    labels = np.zeros(1000, np.int8)
    return PatchSet("case", grid, features, labels, ("background", "Tumor", "Stroma"), features)


def made(patches, areas, drawn):
    probs = np.full((1000, 3), 1 / 3, np.float32)
    return make_objects(areas, drawn, patches, probs, key="k")


def metadata(region):
    return {k: v for k, v in region.properties["metadata"].items() if k != "source"}


def test_outlines_that_grew_together_are_all_named(patches):
    drawn = [outline(0, 0), outline(1, 300), outline(2, 900)]
    merged, apart = made(patches, [box(0, 0, 400, 99).union(box(700, 0, 720, 99))], [drawn])
    assert metadata(merged) == {"parent": IDS[0], "replaces": IDS[1]}
    assert metadata(apart) == {"parent": IDS[2]}  # the nearest


def test_an_outline_whose_class_is_gone_is_named_by_another(patches):
    drawn = [[outline(0, 0)], [outline(1, 300, label="Stroma")]]
    (found,) = made(patches, [box(0, 0, 400, 100), Polygon()], drawn)
    assert found.label == "Tumor"
    assert metadata(found) == {"parent": IDS[0], "replaces": IDS[1]}
    assert made(patches, [Polygon(), Polygon()], drawn) == ()


def test_a_complete_file_holds_every_area_once(patches, tmp_path):
    drawn = [outline(0, 0), outline(1, 300), outline(2, 900)]
    new = made(patches, [box(0, 0, 400, 99)], [drawn])
    path = tmp_path / "complete.geojson"
    write_complete(Annotation("case", tuple(drawn)), new, path, Frame())
    assert [r.id for r in read_annotation(path).regions] == [new[0].id]
