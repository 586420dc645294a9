"""A refiner that was fitted elsewhere answers for a slide, and is part of what names the run."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest

from recontour import Recipe, Runtime, open_slide, refine_slide, refine_to_folder
from recontour.errors import OutputRefusedError, UsageError
from recontour.refiners import make_refiner

QUICK = Recipe(encoder="colour", method="logistic")
ALONE = Runtime(use_cache=False)


@pytest.fixture(scope="module")
def slide(scene):
    with contextlib.closing(open_slide(scene.slide)) as slide:
        yield slide


@pytest.fixture(scope="module")
def own(slide, scene):
    return refine_slide(slide, scene.coarse, QUICK, runtime=ALONE)


@pytest.fixture(scope="module")
def fitted(own):
    return make_refiner("logistic").fit([own.patches])


def test_what_was_fitted_on_the_slide_itself_answers_as_if_it_learned_there(
    slide, scene, own, fitted
):
    found = refine_slide(slide, scene.coarse, QUICK, runtime=ALONE, refiner=fitted)
    np.testing.assert_array_equal(found.probs, own.probs)
    assert [r.geometry.wkt for r in found.annotation.regions] == [
        r.geometry.wkt for r in own.annotation.regions
    ]


def test_it_does_not_learn_from_the_slide(slide, scene, own):
    elsewhere = make_refiner("logistic").fit([flipped(own.patches)])
    found = refine_slide(slide, scene.coarse, QUICK, runtime=ALONE, refiner=elsewhere)
    np.testing.assert_allclose(found.probs, own.probs[:, ::-1], atol=1e-4)


def flipped(patches):
    return replace(patches, labels=(1 - patches.labels).astype(np.int8))


def test_another_fit_is_another_run(scene, own, fitted, tmp_path):
    out = tmp_path / "out"
    refine_to_folder(scene.slide, scene.coarse, out, QUICK, ALONE, refiner=fitted)
    run = json.loads((out / "run.json").read_text())["run"]
    assert len(run["refiner_sha256"]) == 64
    again = refine_to_folder(scene.slide, scene.coarse, out, QUICK, ALONE, refiner=fitted)
    assert again.already_done
    other = make_refiner("logistic").fit([flipped(own.patches)])
    for refiner in (other, None):
        with pytest.raises(OutputRefusedError, match="another run"):
            refine_to_folder(scene.slide, scene.coarse, out, QUICK, ALONE, refiner=refiner)


def test_a_refiner_that_cannot_be_named_is_refused(scene, tmp_path):
    with pytest.raises(UsageError, match="cannot say what it has learned"):
        refine_to_folder(
            scene.slide,
            scene.coarse,
            tmp_path / "out",
            QUICK,
            ALONE,
            refiner=make_refiner("identity"),
        )
    assert not (tmp_path / "out").exists()
