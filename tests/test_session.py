"""An outline that is edited while somebody looks: the slide is done once, answers are the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from shapely import box

from recontour import (
    Annotation,
    Recipe,
    Refinement,
    Region,
    Runtime,
    Session,
    make_refiner,
    refine_slide,
)
from recontour import read_annotation as read
from recontour import session as session_module
from recontour.errors import AnnotationError, UsageError
from recontour.slides import open_slide
from recontour.types import PatchGrid, PatchSet, WarmRefiner

QUICK = Recipe(encoder="colour")
HIDDEN = Runtime(use_cache=False)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Runtime:
    return Runtime(cache_dir=tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def slide(scene):
    opened = open_slide(scene.slide)
    yield opened
    opened.close()


def edited(outline: Annotation, dx: float) -> Annotation:
    """The outline with a square added that a hand might draw."""
    more = Region("drawn", box(200 + dx, 200, 420 + dx, 420), "Tumor")
    return replace(outline, regions=(*outline.regions, more))


def assert_same(one: Refinement, other: Refinement) -> None:
    """Bit for bit, but for times and for where features came from."""
    assert np.array_equal(one.probs, other.probs)
    assert np.array_equal(one.calibrated, other.calibrated)
    assert np.array_equal(one.patches.labels, other.patches.labels)
    assert one.annotation == other.annotation
    assert one.changes == other.changes
    assert one.warnings == other.warnings
    assert one.tissue.equals_exact(other.tissue, 0.0)
    told = [{k: v for k, v in r.facts.items() if k != "embedding"} for r in (one, other)]
    assert json.dumps(told[0], sort_keys=True) == json.dumps(told[1], sort_keys=True)


@pytest.mark.parametrize("method", ["em", "logistic"])
def test_every_edit_gives_what_a_run_of_its_own_gives(scene, slide, runtime, method):
    recipe = replace(QUICK, method=method)
    outline = read(scene.coarse)
    with Session(slide, recipe, runtime) as session:
        for dx in (0, 150, 600):
            coarse = edited(outline, dx)
            assert_same(
                session.refine(coarse), refine_slide(slide, coarse, recipe, runtime=runtime)
            )


def test_reviews_further_outlines_and_exclusions_are_as_in_a_run_of_its_own(scene, slide, runtime):
    outline = read(scene.coarse)
    review = Annotation("r", (Region("seen", box(300, 300, 500, 500), "background"),), "review")
    left_out = Region("x", box(0, 0, 400, 1536), "Ignore*")
    with Session(slide, QUICK, runtime) as session:
        for given in ({"reviewed": review}, {"also": [edited(outline, 99)]}, {}):
            for coarse in (outline, replace(outline, regions=(*outline.regions, left_out))):
                expected = refine_slide(slide, coarse, QUICK, runtime=runtime, **given)
                assert_same(session.refine(coarse, **given), expected)


def test_finer_borders_are_as_in_a_run_of_its_own(scene, slide, runtime):
    recipe = replace(QUICK, band=2)
    with Session(slide, recipe, runtime) as session:
        session.refine(scene.coarse)
        coarse = edited(read(scene.coarse), 150)
        assert_same(session.refine(coarse), refine_slide(slide, coarse, recipe, runtime=runtime))


def test_tissue_is_found_and_pixels_are_read_only_once(scene, slide, monkeypatch):
    reads = []
    plain = type(slide).read_region

    def counted(self, x, y, size, mpp):
        reads.append((x, y))
        return plain(self, x, y, size, mpp)

    monkeypatch.setattr(type(slide), "read_region", counted)
    with Session(slide, QUICK, HIDDEN) as session:
        session.refine(scene.coarse)
        assert reads
        reads.clear()
        session.refine(edited(read(scene.coarse), 150))
        assert not reads


def test_a_slide_can_be_embedded_before_there_is_an_outline(scene, slide):
    stages = []
    runtime = Runtime(use_cache=False, progress=lambda stage, done, total: stages.append(stage))
    with Session(slide, QUICK, runtime) as session:
        cells = session.embed()
        assert {"tissue", "embed"} <= set(stages)
        stages.clear()
        found = session.refine(scene.coarse)
        assert len(found.patches) == cells
        assert not {"tissue", "embed"} & set(stages)


def test_a_wrong_outline_is_refused_at_once_and_the_session_goes_on(scene, slide):
    stages = []
    runtime = Runtime(use_cache=False, progress=lambda stage, done, total: stages.append(stage))
    off = Annotation("off", (Region("a", box(9000, 9000, 9900, 9900), "Tumor"),), "off.geojson")
    with Session(slide, QUICK, runtime) as session:
        with pytest.raises(AnnotationError, match="off the slide"):
            session.refine(off)
        assert "embed" not in stages
        assert session.refine(scene.coarse).annotation.regions


def test_settings_without_sense_are_refused_before_the_slide_is_opened(tmp_path):
    for recipe in (
        replace(QUICK, band=3),
        replace(QUICK, error_target=2.0),
        replace(QUICK, method_options={"no_such": 1}),
    ):
        with pytest.raises(UsageError):
            Session(tmp_path / "absent.tif", recipe)


@pytest.mark.parametrize("wrong", [{"engine": "steam"}, {"precision": "fp8"}, {"device": "abacus"}])
def test_an_encoder_that_cannot_be_had_is_refused_before_tissue_is_looked_for(slide, wrong):
    stages = []
    runtime = Runtime(progress=lambda stage, done, total: stages.append(stage), **wrong)
    with Session(slide, Recipe(), runtime) as session, pytest.raises(UsageError, match="unknown"):
        session.embed()
    assert not stages


def test_a_slide_that_was_opened_by_the_session_is_closed_by_it_and_no_other(scene, slide):
    closed = []
    with Session(slide, QUICK, HIDDEN) as session:
        assert session.slide is slide
    slide.read_region(0, 0, (8, 8), slide.mpp)  # still open
    with Session(scene.slide, QUICK, HIDDEN) as session:
        own = session.slide
        plain = own.close
        own.close = lambda: (closed.append(1), plain())
    assert closed


def test_a_warm_answer_is_close_to_the_cold_one(scene, slide, runtime):
    outline = read(scene.coarse)
    coarse = edited(outline, 150)
    with Session(slide, QUICK, runtime) as session:
        session.refine(outline)
        warm = session.refine(coarse, warm=True)
        cold = session.refine(coarse)
    assert np.mean(warm.probs.argmax(axis=1) == cold.probs.argmax(axis=1)) > 0.9
    assert np.array_equal(warm.patches.labels, cold.patches.labels)


def test_the_first_answer_is_never_warm(scene, slide, runtime):
    with Session(slide, QUICK, runtime) as session:
        first = session.refine(scene.coarse, warm=True)
        assert_same(first, session.refine(scene.coarse))


def test_a_method_that_cannot_start_warm_starts_cold(scene, slide, runtime):
    recipe = replace(QUICK, method="deep_knn")
    with Session(slide, recipe, runtime) as session:
        session.refine(scene.coarse)
        coarse = edited(read(scene.coarse), 150)
        assert_same(session.refine(coarse, warm=True), session.refine(coarse))


def test_a_warm_start_after_other_cells_were_excluded_is_cold(scene, slide, runtime):
    outline = read(scene.coarse)
    away = [
        replace(outline, regions=(*outline.regions, Region("x", box(*corners), "Ignore*")))
        for corners in ((480, 480, 560, 560), (960, 480, 1040, 560))
    ]
    with Session(slide, QUICK, runtime) as session:
        before = session.refine(away[0])
        warm = session.refine(away[1], warm=True)
        assert len(before.patches) == len(warm.patches)
        assert not np.array_equal(before.patches.grid.cols, warm.patches.grid.cols)
        assert_same(warm, session.refine(away[1]))


def test_threads_may_share_a_session(scene, slide, runtime):
    outline = read(scene.coarse)
    left_out = Region("x", box(0, 0, 800, 1536), "Ignore*")
    coarse = [outline, replace(outline, regions=(*outline.regions, left_out))]
    recipe = replace(QUICK, method="logistic")
    expected = [refine_slide(slide, one, recipe, runtime=runtime) for one in coarse]
    with Session(slide, recipe, runtime) as session, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(session.refine, coarse * 4))
    for i, one in enumerate(found):
        assert_same(one, expected[i % 2])


def test_embedding_ahead_keeps_to_the_threads(scene, slide):
    import torch

    before, seen = torch.get_num_threads(), set()
    runtime = Runtime(
        use_cache=False,
        threads=1,
        progress=lambda stage, done, total: seen.add(torch.get_num_threads()),
    )
    torch.set_num_threads(2)
    try:
        with Session(slide, QUICK, runtime) as session:
            session.embed()
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_learning_that_failed_is_no_start_for_the_next(scene, slide, runtime, monkeypatch):
    with Session(slide, QUICK, runtime) as session:
        first = session.refine(scene.coarse)
        plain = session_module.Ground.learn

        def interrupted(self, patches):
            raise KeyboardInterrupt

        monkeypatch.setattr(session_module.Ground, "learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.refine(scene.coarse)
        monkeypatch.setattr(session_module.Ground, "learn", plain)
        assert_same(session.refine(scene.coarse, warm=True), first)


def test_em_can_start_warm_and_identity_cannot():
    assert isinstance(make_refiner("em"), WarmRefiner)
    assert not isinstance(make_refiner("identity"), WarmRefiner)


def square(side: int = 30, outlined: int = 15) -> PatchSet:
    """Two tissues side by side, the first `outlined` columns outlined."""
    rng = np.random.default_rng(0)
    rows, cols = np.indices((side, side), dtype=np.int32).reshape(2, -1)
    grid = PatchGrid((0.0, 0.0), (side, side), rows, cols, 32, 32, 32, 1.0, 1.0)
    features = rng.normal(size=(side * side, 12)) + 2.0 * (cols < side // 2)[:, None]
    labels = (cols < outlined).astype(np.int8)
    return PatchSet("s", grid, features.astype(np.float32), labels, ("background", "Tumor"))


def test_em_learns_on_from_its_last_answer():
    first, second = square(outlined=15), square(outlined=18)
    cold = make_refiner("em").fit([second]).predict_proba(second)
    refiner = make_refiner("em").fit([first])
    warm = refiner.refit([second]).predict_proba(second)
    assert not np.array_equal(warm, cold)
    assert np.abs(warm - cold).max() < 0.1


@pytest.mark.parametrize(
    "other",
    [
        square(side=24),
        replace(square(), classes=("background", "Stroma")),
        replace(square(), grid=replace(square().grid, rows=square().grid.rows[::-1].copy())),
        replace(square(), slide_id="other"),
    ],
    ids=["other cells", "other classes", "as many cells elsewhere", "another slide"],
)
def test_em_starts_afresh_on_other_cells_or_classes(other):
    expected = make_refiner("em").fit([other]).predict_proba(other)
    found = make_refiner("em").fit([square()]).refit([other]).predict_proba(other)
    assert np.array_equal(found, expected)


def test_em_without_a_last_answer_starts_afresh():
    patches = square()
    expected = make_refiner("em").fit([patches]).predict_proba(patches)
    assert np.array_equal(make_refiner("em").refit([patches]).predict_proba(patches), expected)
