"""Heat maps: decided and counted as the LC-MIL authors do, and refused when they are none."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from shapely import box
from shapely.geometry import mapping
from skimage.filters import gaussian
from skimage.morphology import remove_small_holes, remove_small_objects

from recontour.annotations import write_annotation
from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.heatmaps import HeatMap, decide, evaluate_heatmap, read_heatmap
from recontour.types import Annotation, Region

STRIDE = 256


def published(values):
    """The published post-processing, written with scikit-image."""
    laid = np.where(np.isnan(values), 0, values)
    finite = values[~np.isnan(values)]
    mask = laid > 0.5 if set(np.unique(finite)) <= {0, 1} else gaussian(laid, sigma=1) > 0.6
    mask = remove_small_objects(mask, max_size=99)
    return remove_small_holes(mask, max_size=99)


def made(shape, seed=0, dtype=np.float64, sharpness=30.0):
    """A map with lesions, holes and specks of all sizes, and tissue of a ragged outline."""
    rng = np.random.default_rng(seed)
    smooth = gaussian(rng.standard_normal(shape), 6) * 40 + gaussian(rng.standard_normal(shape), 2)
    values = 1 / (1 + np.exp(-sharpness * (smooth - 0.3) / 10))
    values[gaussian(rng.standard_normal(shape), 12) < -0.01] = np.nan
    return values.astype(dtype)


def ring(cx, cy, radius, points=40, wobble=0.2):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    r = radius * (1 + wobble * np.sin(5 * angle))
    return np.c_[cx + r * np.cos(angle), cy + r * np.sin(angle)].round(3).tolist()


def asap(path, *rings):
    body = "".join(
        f'<Annotation Name="{n}" Type="Polygon" PartOfGroup="{group}"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
        + "</Coordinates></Annotation>"
        for n, (points, group) in enumerate(rings)
    )
    path.write_text(f"<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>")
    return path


def sav(path, outer, inner=(), slide="test_016"):
    rings = {
        "annotations_outer": [[(np.float64(x), np.float64(y)) for x, y in r] for r in outer],
        "annotations_inner": [[(np.float64(x), np.float64(y)) for x, y in r] for r in inner],
    }
    path.write_bytes(pickle.dumps({slide: rings}, 4))
    return path


def drawn(shape, lesions, exclusions, stride=STRIDE):
    image = Image.new("1", (shape[1], shape[0]), 0)
    draw = ImageDraw.Draw(image)
    for fill, rings in ((1, lesions), (0, exclusions)):
        for points in rings:
            draw.polygon([(x / stride, y / stride) for x, y in points], fill=fill, outline=0)
    return np.array(image)


def ratios(truth, found):
    tp, fp = (truth & found).sum(), (~truth & found).sum()
    fn, tn = (truth & ~found).sum(), (~truth & ~found).sum()
    return {
        "f1": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "dice": 2 * tp / (2 * tp + fp + fn),
        "ppv": tp / (tp + fp),
        "npv": tn / (tn + fn),
        "tpr": tp / (tp + fn),
        "tnr": tn / (tn + fp),
        "accuracy": (tp + tn) / truth.size,
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A slide's worth of files as the LC-MIL authors have them, 400 x 900 cells of 256 px."""
    folder = tmp_path_factory.mktemp("study")
    shape = (400, 900)
    values = made(shape, 1)
    np.save(folder / "heatmap.npy", values)
    k = STRIDE
    lesions = [ring(300 * k, 180 * k, 120 * k), ring(640 * k, 220 * k, 90 * k)]
    bow = [(100 * k, 300 * k), (220 * k, 380 * k), (220 * k, 300 * k), (100 * k, 380 * k)]
    exclusions = [ring(300 * k, 180 * k, 30 * k)]
    ignored = [
        (ring(800 * k, 100 * k, 50 * k), "None"),
        (ring(640 * k, 220 * k, 9 * k), "Exclusion"),
    ]
    asap(
        folder / "truth.xml",
        (lesions[0], "_0"),
        (exclusions[0], "_2"),
        (lesions[1], "Tumor"),
        (bow, "_1"),
        *ignored,
    )
    hull = [ring(420 * k, 200 * k, 230 * k, wobble=0.05)]
    inner = [ring(500 * k, 200 * k, 25 * k)]
    sav(folder / "coarse.sav", hull, inner)
    return folder, values, drawn(shape, [*lesions, bow], exclusions), drawn(shape, hull, inner)


def judged(cli, folder, *more, coarse="coarse.sav"):
    return cli("evaluate", "--truth", folder / "truth.xml", "--prediction", folder / "heatmap.npy",
               "--coarse", folder / coarse, *more, "--format", "json")  # fmt: skip


def test_the_figures_of_the_paper_come_out_to_the_letter_without_a_slide(cli, study):
    folder, values, truth, coarse = study
    answer = judged(cli, folder, "--label-rule", "published", "--postprocess", "published")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    on = np.isfinite(values)
    mask = published(values)
    assert 0.1 < mask.mean() < 0.9
    for role, map_ in (("prediction", mask), ("coarse", coarse)):
        for name, value in ratios(truth[on], map_[on]).items():
            assert found[role][name] == value, (role, name)  # unrounded
            assert found[role]["overall"][name] == value
        whole = ratios(truth, map_)
        assert found[role]["iou_grid"] == whole["iou"]
        assert found[role]["dice_grid"] == whole["dice"]
        assert found[role]["polygon_iou"] is None
    wrong = (coarse != truth)[on]
    right = (mask == truth)[on]
    assert found["cleaned"] == found["prediction"]["cleaned"] == right[wrong].mean()
    assert found["mis_modified"] == found["prediction"]["mis_modified"] == (~right)[~wrong].mean()
    assert (found["n_cells"], found["n_grid"], found["cell_px"]) == (on.sum(), on.size, 256)
    assert (found["cells"], found["slide"], found["postprocess"]) == (
        "tissue",
        "truth",
        "published",
    )
    assert "ignores 1 ring(s) of group 'None'" in answer.err
    assert "ignores 1 ring(s) of group 'Exclusion'" in answer.err


def test_the_rules_are_not_the_same(cli, study):
    folder, *_ = study
    names = ("published", "centre")
    # The centre rule knows the ring without a group as a class of its own.
    options = ("--postprocess", "published", "--class", "Tumor")
    by_rule = [json.loads(judged(cli, folder, "--label-rule", n, *options).out) for n in names]
    assert by_rule[0]["prediction"]["f1"] != by_rule[1]["prediction"]["f1"]
    several = judged(cli, folder)
    assert several.code == 2
    assert "--class" in several.err
    assert "Unclassified" in several.err
    ours = json.loads(judged(cli, folder, "--class", "Tumor").out)
    assert ours["postprocess"] == "default"
    assert ours["prediction"]["f1"] != by_rule[1]["prediction"]["f1"]


@pytest.mark.parametrize("shape", [(40, 60), (400, 900), (7, 9), (1, 300)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_published_post_processing_is_scikit_images(shape, dtype):
    values = made(shape, 3, dtype)
    values[0, 0] = 0.3
    assert np.array_equal(decide(HeatMap(values), "published"), published(values))


@given(
    values=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=24),
        elements=st.sampled_from([0.0, 0.2, 0.59, 0.6, 0.61, 0.9, 1.0, np.nan]),
    )
)
@settings(max_examples=60)
def test_published_post_processing_on_any_map(values):
    if np.isnan(values).all():
        values[0, 0] = 0.5
    assert np.array_equal(decide(HeatMap(values), "published"), published(values))


def test_votes_go_straight_to_the_morphology():
    votes = np.full((40, 40), np.nan)
    votes[1:39, 1:39] = 0
    votes[5:16, 5:16] = 1  # 121 cells with corners a Gaussian would take
    votes[30:34, 30:34] = 1
    expected = np.zeros((40, 40), bool)
    expected[5:16, 5:16] = True
    assert np.array_equal(decide(HeatMap(votes), "published"), expected)
    assert np.array_equal(decide(HeatMap(votes == 1), "published"), expected)


def test_objects_and_holes_of_a_hundred_cells_stay_and_of_one_less_go():
    votes = np.zeros((60, 60))
    votes[2:12, 2:12] = 1  # 100
    votes[2:13, 20:29] = 1  # 99
    votes[20:58, 2:58] = 1
    votes[30:40, 10:20] = 0  # 100
    votes[30:41, 30:39] = 0  # 99
    found = decide(HeatMap(votes), "published")
    assert found[5, 5]
    assert not found[5, 25]
    assert not found[35, 15]
    assert found[35, 35]
    assert np.array_equal(found, published(votes))


def test_our_own_rules_leave_small_lesions_and_keep_to_the_tissue():
    values = np.full((20, 20), 0.1)
    values[4:7, 4:7] = 0.9
    values[12, 12] = 0.9
    values[4:7, 3] = np.nan
    found = decide(HeatMap(values))
    assert found[5, 5]
    assert not found[12, 12]
    assert not decide(HeatMap(values), "published").any()
    assert np.array_equal(decide(HeatMap(values), "none"), values > 0.5)
    with pytest.raises(UnknownNameError, match="default"):
        decide(HeatMap(values), "best")


def test_truth_and_coarse_may_be_geojson_or_masks(cli, tmp_path):
    values = np.full((30, 40), 0.1)
    values[10:20, 10:30] = 0.9
    values[:, :4] = np.nan
    heatmap = tmp_path / "map.npy"
    np.save(heatmap, values)
    truth = np.zeros((30, 40), np.uint8)
    truth[10:20, 10:30] = 255
    Image.fromarray(truth).save(tmp_path / "truth.png")
    Image.fromarray(np.kron(truth, np.ones((8, 8), np.uint8))).save(tmp_path / "large.png")
    square = {"type": "Feature", "geometry": mapping(box(80, 80, 240, 160)), "properties": {}}
    (tmp_path / "truth.geojson").write_text(json.dumps([square]))
    for rule in ("centre", "published"):  # masks need no rule
        for name in ("truth.png", "large.png", "truth.geojson"):
            if (rule, name) == ("published", "truth.geojson"):
                continue
            answer = cli("evaluate", "--truth", tmp_path / name, "--prediction", heatmap,
                         "--coarse", tmp_path / "truth.png", "--stride-px", 8, "--label-rule", rule,
                         "--postprocess", "none", "--format", "json")  # fmt: skip
            assert answer.code == 0, answer.err
            found = json.loads(answer.out)
            assert found["prediction"]["f1"] == found["coarse"]["f1"] == 1, (rule, name)
            assert found["n_cells"] == 30 * 36


def test_a_coarse_outline_stands_for_the_class_of_the_truth(tmp_path, cli):
    np.save(tmp_path / "map.npy", np.eye(20) * 0.5 + 0.25)
    sav(tmp_path / "coarse.sav", [[(0, 0), (100, 0), (100, 100), (0, 100)]])
    truth = Annotation("s", (Region("1", box(0, 0, 100, 100), "Viable tumour"),))
    write_annotation(truth, tmp_path / "truth.geojson")
    answer = cli("evaluate", "--truth", tmp_path / "truth.geojson", "--prediction",
                 tmp_path / "map.npy", "--coarse", tmp_path / "coarse.sav",
                 "--stride-px", 10)  # fmt: skip
    assert answer.code == 0, answer.err
    assert "Tumor, was taken as Viable tumour" in answer.out


def test_excluded_regions_take_no_part_and_subtracted_ones_are_background():
    values = np.full((20, 20), 0.9)
    lesion = Region("a", box(0, 0, 200, 200), "Tumor")
    hole = Region("b", box(0, 0, 200, 100), "Necrosis")
    truth = Annotation("s", (lesion, hole))
    found = evaluate_heatmap(truth, HeatMap(values, 10), mpp=0.5)
    assert (found.n_cells, found.prediction.overall["f1"]) == (200, 1)
    assert found.truth_area_um2 == {"Tumor": 10_000}
    cut = evaluate_heatmap(truth, HeatMap(values, 10), subtract=["Necro*"])
    assert (cut.n_cells, cut.prediction.overall["ppv"]) == (400, 0.5)
    everything = Annotation("s", (lesion, Region("b", box(0, 0, 200, 200), "Ignore*")))
    with pytest.raises(AnnotationError, match="cover every cell"):
        evaluate_heatmap(everything, HeatMap(values, 10))


# What is refused

TRUTH = box(2, 2, 8, 8)


@pytest.fixture
def refuse(cli, tmp_path):
    """Judge a map, expect a refusal in one sentence."""
    write_annotation(Annotation("s", (Region("1", TRUTH, "Tumor"),)), tmp_path / "truth.geojson")

    def run(values, *words, truth="truth.geojson", more=(), code=1):
        path = tmp_path / "map.npy"
        if isinstance(values, bytes):
            path.write_bytes(values)
        else:
            np.save(path, values, allow_pickle=True)
        answer = cli("evaluate", "--truth", tmp_path / truth, "--prediction", path,
                     "--stride-px", 1, *more)  # fmt: skip
        assert answer.code == code, (answer.out, answer.err)
        assert answer.err.startswith("error: "), answer.err
        assert "fault in recontour" not in answer.err
        for word in words:
            assert word in answer.err, answer.err

    return run


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((10, 10), np.inf), "infinite"),
        (np.full((10, 10), 1.5), "from 1.5 to 1.5"),
        (np.full((10, 10), -0.1), "0 to 1"),
        (np.full((10, 10), np.nan), "every cell is NaN"),
        (np.zeros(10), "1 dimension"),
        (np.zeros((2, 10, 10)), "3 dimension"),
        (np.zeros((0, 10)), "empty"),
        (np.zeros((10, 10), int), "int64"),
        (np.zeros((10, 10), complex), "complex128"),
        (np.full((10, 10), "a"), "<U1"),
        (np.array([[None] * 10] * 10), "Python objects"),
    ],
)
def test_arrays_that_are_no_heat_map_are_refused(refuse, values, words):
    refuse(values, words, "map.npy")


def test_files_that_are_no_array_are_refused(refuse, tmp_path):
    np.save(tmp_path / "good.npy", np.zeros((10, 10)))
    good = (tmp_path / "good.npy").read_bytes()
    refuse(b"", "empty")
    refuse(good[:-8], "cut off or damaged")
    refuse(good[:40], "cut off or damaged")
    refuse(b"hello", "not an .npy file")
    refuse(pickle.dumps([[0.5]]), "not an .npy file")
    np.savez(tmp_path / "archive.npz", a=np.zeros((10, 10)))
    refuse((tmp_path / "archive.npz").read_bytes(), ".npz")
    huge = good.replace(b"(10, 10)", b"(10, 9999999999)".ljust(8))
    refuse(huge, "map.npy")


def test_maps_that_are_not_of_this_truth_are_refused(refuse, tmp_path):
    refuse(np.zeros((5, 10)), "the truth", "reaches beyond the heat map (5 x 10", code=2)
    refuse(np.zeros((10, 5)), "--stride-px", code=2)
    for shape in ((12, 10), (20, 10), (5, 5)):
        Image.fromarray(np.full(shape, 255, np.uint8)).save(tmp_path / "m.png")
        refuse(np.zeros((10, 10)), "m.png", "does not fit", truth="m.png", code=2)
        refuse(np.zeros((10, 10)), "m.png", more=("--coarse", tmp_path / "m.png"), code=2)
    far = Annotation("s", (Region("1", box(500, 500, 600, 600), "Tumor"),))
    write_annotation(far, tmp_path / "far.geojson")
    refuse(np.zeros((10, 10)), "the coarse", more=("--coarse", tmp_path / "far.geojson"), code=2)


def test_options_that_do_not_go_with_it_are_refused(refuse, cli, tmp_path):
    fine = np.zeros((10, 10))
    for option in (
        ("--cell-px", 4), ("--cell-um", 4), ("--tissue", "rgb"), ("--tissue-downsample", 64),
    ):  # fmt: skip
        refuse(fine, option[0], "--stride-px", more=option, code=2)
    for option in (("--postprocess", "published"), ("--stride-px", 256)):
        answer = cli("evaluate", "--truth", tmp_path / "truth.geojson", "--prediction",
                     tmp_path / "truth.geojson", "--cell-px", 2, *option)  # fmt: skip
        assert answer.code == 2
        assert f"{option[0]} {option[1]} is for heat maps (.npy)" in answer.err
    missing = cli("evaluate", "--truth", tmp_path / "truth.geojson", "--prediction", "no.npy")
    assert missing.code == 2
    assert "no such file" in missing.err


def test_a_coarse_outline_may_reach_past_the_map_but_that_is_said():
    truth = Annotation("s", (Region("1", box(0, 0, 50, 50), "Tumor"),))
    coarse = Annotation("s", (Region("1", box(-40, 0, 50, 50), "Tumor"),))
    found = evaluate_heatmap(truth, HeatMap(np.full((10, 10), 0.9), 10), coarse=coarse)
    assert found.coarse is not None
    assert found.coarse.overall["f1"] == 1
    assert any("the coarse" in note and "beyond" in note for note in found.notes)


def test_a_tumour_at_the_edge_may_reach_past_a_map_of_overlapping_patches():
    # Patches of 256 px every 128 px, as of PAIP2019: of 1,000 px only (1000 - 256) // 128 + 1 fit.
    whole = Annotation("s", (Region("1", box(300, 300, 1000, 1000), "Tumor"),))
    found = evaluate_heatmap(whole, HeatMap(np.full((6, 6), 0.9), 128))
    assert found.prediction.overall["tpr"] == 1
    with pytest.raises(UsageError, match="reaches beyond"):
        evaluate_heatmap(whole, HeatMap(np.full((5, 6), 0.9), 128))


def test_a_slide_gives_pixel_size_and_places_masks(cli, scene, tmp_path):
    np.save(tmp_path / "map.npy", np.full((24, 24), 0.9))
    Image.fromarray(np.eye(50, dtype=np.uint8)).save(tmp_path / "mask.png")
    answer = cli("evaluate", "--truth", scene.truth, "--prediction", tmp_path / "map.npy",
                 "--coarse", tmp_path / "mask.png", "--slide", scene.slide, "--stride-px", 64,
                 "--format", "json")  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["mpp"] == 0.5
    assert sum(found["truth_area_um2"].values()) > 0


def test_a_wrong_stride_is_noticed(cli, scene, tmp_path):
    np.save(tmp_path / "map.npy", np.full((24, 24), 0.9))
    given = ("evaluate", "--truth", scene.truth, "--prediction", tmp_path / "map.npy")
    answer = cli(*given, "--slide", scene.slide)
    assert answer.code == 2
    assert "larger than the slide" in answer.err
    assert "--stride-px" in answer.err
    answer = cli(*given, "--stride-px", 100_000)
    assert answer.code == 0, answer.err
    assert "no cell of the map lies in the truth" in answer.out + answer.err


def test_the_precision_of_the_map_is_kept(tmp_path):
    for dtype in (">f8", "<f4", np.float16, np.longdouble):
        values = made((30, 40), 2).astype(dtype)
        np.save(tmp_path / "map.npy", values)
        heatmap = read_heatmap(tmp_path / "map.npy")
        assert heatmap.values.dtype == values.dtype
        assert np.array_equal(decide(heatmap, "published"), published(values))
    with pytest.raises(UsageError, match="--stride-px 0"):
        read_heatmap(tmp_path / "map.npy", 0)
