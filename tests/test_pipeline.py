"""From slide and coarse outline to objects, in Python."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely import box

import recontour
from recontour import (
    Annotation,
    Recipe,
    Refinement,
    Region,
    Runtime,
    evaluate,
    open_slide,
    read_annotation,
    refine_slide,
    write_annotation,
)
from recontour.errors import AnnotationError, RefinerError, TissueError, UnknownNameError
from recontour.geometry import union

QUICK = Recipe(encoder="colour", method="logistic")


@pytest.fixture(scope="module")
def refined(scene, tmp_path_factory) -> Refinement:
    runtime = Runtime(cache_dir=tmp_path_factory.mktemp("cache"))
    return refine_slide(scene.slide, scene.coarse, QUICK, runtime=runtime)


def area_of(refinement: Refinement, label: str | None = "Tumor"):
    return union(r.geometry for r in refinement.annotation.regions if r.label == label)


def drawn(scene):
    return union(r.geometry for r in read_annotation(scene.coarse).regions)


def test_the_public_names_are_these():
    assert recontour.__all__ == [
        "Annotation",
        "Recipe",
        "RecontourError",
        "Refinement",
        "Region",
        "Runtime",
        "Session",
        "evaluate",
        "find_tissue",
        "generate_slide",
        "load_encoder",
        "make_refiner",
        "open_slide",
        "read_annotation",
        "refine_slide",
        "refine_to_folder",
        "simulate_coarse",
        "write_annotation",
    ]
    for name in recontour.__all__:
        assert getattr(recontour, name) is not None


def test_the_default_encoder_improves_a_generous_outline(scene):
    recipe = Recipe()
    found = refine_slide(scene.slide, scene.coarse, recipe)
    scores = evaluate(
        scene.made.truth,
        found.annotation,
        coarse=found.coarse,
        tissue=found.tissue,
        slide_size=scene.made.size,
        mpp=0.5,
    )
    assert scores.prediction.overall["f1"] > scores.coarse.overall["f1"] + 0.02
    assert scores.cleaned > 0.2


def test_every_object_has_a_parent_a_score_and_an_id_of_its_own(refined, scene):
    originals = {r.id: r for r in read_annotation(scene.coarse).regions}
    assert refined.annotation.regions
    ids = [r.id for r in refined.annotation.regions]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & set(originals)
    for region in refined.annotation.regions:
        assert region.label == "Tumor"
        assert 0 <= region.score <= 1
        assert region.geometry.is_valid
        assert region.geometry.geom_type == "Polygon"
        # The parent is the original that shares most with it, by brute force.
        shared = {i: r.geometry.intersection(region.geometry).area for i, r in originals.items()}
        parent = region.properties["metadata"]["parent"]
        if max(shared.values()) > 0:
            assert shared[parent] == pytest.approx(max(shared.values()))
        else:
            gap = {i: r.geometry.distance(region.geometry) for i, r in originals.items()}
            assert gap[parent] == pytest.approx(min(gap.values()))


def test_the_same_run_gives_the_same_bytes(refined, scene):
    again = refine_slide(scene.slide, scene.coarse, QUICK)
    assert np.array_equal(again.probs, refined.probs)
    assert again.annotation.regions == refined.annotation.regions
    assert again.changes.regions == refined.changes.regions


def test_probabilities_and_labels_follow_the_grid(refined):
    n = len(refined.patches.grid)
    assert refined.probs.shape == (n, 2)
    assert np.allclose(refined.probs.sum(axis=1), 1, atol=1e-5)
    inside = shapely.contains_xy(
        union(r.geometry for r in refined.coarse.regions), *refined.patches.grid.centres.T
    )
    assert np.array_equal(inside, refined.patches.labels == 1)


def test_facts_are_json_and_add_up(refined):
    facts = json.loads(json.dumps(refined.facts))
    areas = facts["areas_um2"]["Tumor"]
    assert areas["coarse"] + areas["added"] - areas["removed"] == pytest.approx(areas["refined"])
    assert sum(facts["labels"].values()) == facts["grid"]["n_cells"] == len(refined.patches)
    total = sum(o["area_um2"] for o in facts["objects"])
    assert total == pytest.approx(areas["refined"], rel=0.01)


def test_changes_are_where_the_outlines_differ(refined, scene):
    coarse, fine = drawn(scene), area_of(refined)
    for region in refined.changes.regions:
        if region.label == "Tumor: added":
            assert region.geometry.intersection(coarse).area < 0.01 * region.geometry.area + 1
        elif region.label == "Tumor: removed":
            assert region.geometry.intersection(fine).area < 0.01 * region.geometry.area + 1
    assert {r.label for r in refined.changes.regions} <= {
        "Tumor: added",
        "Tumor: removed",
        "uncertain",
    }


def test_only_add_keeps_all_that_was_drawn(scene):
    found = area_of(refine_slide(scene.slide, scene.coarse, replace(QUICK, only="add")))
    assert drawn(scene).difference(found).area < 1  # px²: rounding to 0.01 px


def test_only_remove_takes_nothing_new(scene):
    found = area_of(refine_slide(scene.slide, scene.coarse, replace(QUICK, only="remove")))
    assert found.difference(drawn(scene)).area < 1


def test_within_um_never_moves_further(scene):
    found = area_of(refine_slide(scene.slide, scene.coarse, replace(QUICK, within_um=20)))
    limit = 20 / 0.5 + 0.02
    assert found.difference(drawn(scene).buffer(limit, quad_segs=64)).area == 0
    assert drawn(scene).buffer(-limit, quad_segs=64).difference(found).area == 0


def test_excluded_regions_belong_to_nobody_and_cost_no_second_embedding(scene, tmp_path):
    runtime = Runtime(cache_dir=tmp_path)
    before = refine_slide(scene.slide, scene.coarse, QUICK, runtime=runtime)
    coarse = read_annotation(scene.coarse)
    x, y = area_of(before).representative_point().coords[0]
    necrosis = box(x - 100, y - 100, x + 100, y + 100)
    extra = Region("5f3b1f5e-0000-4000-8000-000000000001", necrosis, "Necrosis")
    coarse = replace(coarse, regions=(*coarse.regions, extra))
    after = refine_slide(scene.slide, coarse, QUICK, runtime=runtime)
    assert area_of(after).intersection(necrosis).area < 1
    assert after.facts["embedding"]["cells_from_cache"] == len(before.patches)
    assert len(after.patches) < len(before.patches)


def test_several_classes_compete_without_overlap(scene):
    coarse = read_annotation(scene.coarse)
    width, height = scene.made.size
    left = box(0, 0, width / 2, height)
    tumour = union(r.geometry for r in coarse.regions)
    regions = tuple(
        Region(f"5f3b1f5e-0000-4000-8000-00000000000{i}", part, label)
        for i, (label, part) in enumerate(
            (("Tumor", tumour.intersection(left)), ("Other", tumour.difference(left)))
        )
    )
    recipe = replace(QUICK, classes=("Tumor", "Other"))
    found = refine_slide(scene.slide, Annotation("case", regions, "two"), recipe)
    assert found.probs.shape[1] == 3
    assert area_of(found, "Tumor").intersection(area_of(found, "Other")).area < 1


@pytest.mark.parametrize("limits", [{"only": "add"}, {"within_um": 20.0}])
def test_an_outline_inside_another_class_stays_apart_from_it(scene, limits):
    coarse = read_annotation(scene.coarse)
    x, y = coarse.regions[0].geometry.representative_point().coords[0]
    inner = Region(
        "5f3b1f5e-0000-4000-8000-000000000009", box(x - 150, y - 150, x + 150, y + 150), "Stroma"
    )
    coarse = replace(coarse, regions=(*coarse.regions, inner))
    recipe = replace(QUICK, classes=("Tumor", "Stroma"), **limits)
    found = refine_slide(scene.slide, coarse, recipe)
    assert area_of(found, "Tumor").intersection(area_of(found, "Stroma")).area < 1


def test_a_complete_file_can_be_refined_again(scene, tmp_path, cli):
    first = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "one", "--encoder", "colour",
                "--method", "logistic", "-q")  # fmt: skip
    assert first.code == 0, first.err
    complete = read_annotation(tmp_path / "one" / "complete.geojson")
    refined = read_annotation(tmp_path / "one" / "refined.geojson")
    taken = union(r.geometry for r in complete.regions)
    new = union(r.geometry for r in refined.regions)
    parents = {r.properties["metadata"]["parent"] for r in refined.regions}
    kept = [r for r in read_annotation(scene.coarse).regions if r.id not in parents]
    assert taken.symmetric_difference(union([new, *(r.geometry for r in kept)])).area < 1


def square(x, y, side, label="Tumor"):
    region = Region("5f3b1f5e-0000-4000-8000-0000000000aa", box(x, y, x + side, y + side), label)
    return Annotation("case", (region,), "hand.geojson")


def test_an_outline_off_the_slide_is_an_error(scene):
    with pytest.raises(AnnotationError, match=r"off the slide .*--origin"):
        refine_slide(scene.slide, square(90_000, 90_000, 500), QUICK)


def test_an_outline_on_glass_is_an_error_that_says_so(scene):
    with pytest.raises(RefinerError, match="no tissue cell of case lies in an outline"):
        refine_slide(scene.slide, square(0, 0, 8), QUICK)


def test_an_outline_of_everything_is_an_error(scene):
    with pytest.raises(RefinerError, match="covers all"):
        refine_slide(scene.slide, square(-10, -10, 3000), QUICK)


def test_an_outline_past_the_slide_is_a_warning(scene):
    half = square(-200, 600, 1200)
    found = refine_slide(scene.slide, half, QUICK)
    assert any("reaches past the slide" in w for w in found.warnings)


def test_an_outline_finer_than_the_cells_is_a_warning(scene):
    stripes = [box(400 + 40 * i, 400, 410 + 40 * i, 1100) for i in range(20)]
    fine = replace(square(0, 0, 1), regions=(replace(square(0, 0, 1).regions[0],
                   geometry=shapely.MultiPolygon(stripes)),))  # fmt: skip
    found = refine_slide(scene.slide, fine, QUICK)
    assert any("finer than the cells of 16 µm" in w for w in found.warnings)
    found = refine_slide(scene.slide, scene.coarse, QUICK)
    assert not any("finer than the cells" in w for w in found.warnings)


def test_excluding_all_tissue_is_an_error(scene):
    everything = square(-10, -10, 3000, "Necrosis").regions
    coarse = replace(square(500, 500, 400), regions=(*square(500, 500, 400).regions, *everything))
    with pytest.raises(TissueError, match="excluded"):
        refine_slide(scene.slide, coarse, QUICK)


@pytest.mark.parametrize(
    ("recipe", "known"),
    [
        (replace(QUICK, method="knnn"), "lc_mil"),
        (replace(QUICK, encoder="resnet"), "efficientnet_lite0"),
        (replace(QUICK, classes=("Stroma",)), "Tumor"),
        (replace(QUICK, tissue="magic"), "robust"),
        (replace(QUICK, label_rule="edge"), "published"),
    ],
)
def test_unknown_names_list_the_known_ones(scene, recipe, known):
    with pytest.raises(UnknownNameError, match=known):
        refine_slide(scene.slide, scene.coarse, recipe)


def test_tissue_can_be_outlined_by_the_user(scene, tmp_path):
    write_annotation(square(300, 300, 900, "Tissue"), tmp_path / "tissue.geojson")
    recipe = replace(QUICK, tissue=str(tmp_path / "tissue.geojson"))
    found = refine_slide(scene.slide, scene.coarse, recipe)
    assert box(300, 300, 1200, 1200).contains(shapely.MultiPoint(found.patches.grid.centres))


def test_ids_do_not_depend_on_where_the_tissue_file_lies(scene, tmp_path):
    outline = Annotation("case", (Region("a", box(0, 0, 1536, 1536)),))
    found = []
    for folder in ("one", "two"):
        path = tmp_path / folder / "tissue.geojson"
        path.parent.mkdir()
        write_annotation(outline, path)
        found.append(refine_slide(scene.slide, scene.coarse, replace(QUICK, tissue=str(path))))
    one, two = ([r.id for r in refinement.annotation.regions] for refinement in found)
    assert one == two


def test_a_slide_opened_by_the_caller_stays_open(scene):
    slide = open_slide(scene.slide)
    refine_slide(slide, scene.coarse, QUICK)
    assert slide.read_region(0, 0, (8, 8), slide.mpp).shape == (8, 8, 3)
    slide.close()
