"""Embedding: the same features whatever the windows, the threads, the cache or a kill."""

from __future__ import annotations

import hashlib
import itertools
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from recontour.cache import FeatureCache
from recontour.embedding import (
    blocks,
    cache_key,
    embed_patches,
    estimate,
    overlap_weights,
    plan_blocks,
    reading,
)
from recontour.encoders import load_encoder
from recontour.encoders.efficientnet_lite import EfficientNetLite0
from recontour.errors import EncoderError, SlideError
from recontour.planning import export_features
from recontour.types import Encoder, PatchGrid


class ArraySlide:
    """A slide that is an array; resampled by Pillow, white outside."""

    def __init__(self, pixels: NDArray[np.uint8], mpp: float = 0.5) -> None:
        self.pixels, self.mpp, self.id = pixels, mpp, "array"
        self.size = (pixels.shape[1], pixels.shape[0])
        self.bounds = (0, 0, *self.size)
        self.mpp_source, self.reader, self.level_mpps = "given", "array", (mpp,)
        self.fingerprint = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
        self.reads = 0

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        self.reads += 1
        scale = mpp / self.mpp
        left, top = int(np.floor(x)), int(np.floor(y))
        right, bottom = int(np.ceil(x + size[0] * scale)), int(np.ceil(y + size[1] * scale))
        out = np.full((bottom - top, right - left, 3), 255, np.uint8)
        x0, y0 = max(left, 0), max(top, 0)
        inside = self.pixels[y0 : max(bottom, y0), x0 : max(right, x0)]
        h, w = inside.shape[:2]
        out[y0 - top : y0 - top + h, x0 - left : x0 - left + w] = inside
        box = (x - left, y - top, x - left + size[0] * scale, y - top + size[1] * scale)
        return np.asarray(Image.fromarray(out).resize(size, Image.Resampling.BICUBIC, box=box))

    def close(self) -> None: ...


class BoxDense:
    """Dense map = mean colour of each 8-px square: pooling it must give exact area means."""

    identifier, mpp, patch_px, dim = "box", 0.5, 32, 3
    dense_stride, align, halo = 8, 32, 32

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return patches.mean(axis=(1, 2), dtype=np.float32) / 255

    def dense(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        b, h, w, _ = windows.shape
        assert h % self.align == w % self.align == 0
        squares = windows.reshape(b, h // 8, 8, w // 8, 8, 3)
        return squares.mean(axis=(2, 4), dtype=np.float32) / 255


class MeanPatch:
    """Patch-wise: mean colour."""

    identifier, mpp, patch_px, dim = "mean", 0.5, 16, 3

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert patches.shape[1:] == (16, 16, 3)
        return patches.mean(axis=(1, 2), dtype=np.float32) / 255


def tissue_like(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs of several sizes in H&E-like colours."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for size, strength in ((64, 40), (16, 40), (4, 30)):
        noise = rng.normal(0, strength, (-(-height // size), -(-width // size), 3))
        total += np.kron(noise, np.ones((size, size, 1)))[:height, :width]
    return np.clip(total + (190, 130, 170), 0, 255).astype(np.uint8)


def lattice(slide: ArraySlide, stride: int, **changes: object) -> PatchGrid:
    """Every whole cell of the slide."""
    shape = (slide.size[1] // stride, slide.size[0] // stride)
    rows, cols = np.divmod(np.arange(shape[0] * shape[1], dtype=np.int32), np.int32(shape[1]))
    grid = PatchGrid((0.0, 0.0), shape, rows, cols, stride, stride, 16, slide.mpp, 0.5)
    return replace(grid, **changes)  # type: ignore[arg-type]


def only(grid: PatchGrid, keep: NDArray[np.bool_]) -> PatchGrid:
    return replace(grid, rows=grid.rows[keep], cols=grid.cols[keep])


@pytest.fixture(scope="module")
def slide() -> ArraySlide:
    return ArraySlide(tissue_like(480, 640))


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return EfficientNetLite0(device="cpu", precision="fp32")


# --- what the numbers mean ------------------------------------------------------------------


def area_mean(slide: ArraySlide, left: float, top: float, side: float) -> NDArray[np.float64]:
    """Exact mean colour of a square, cut to the slide, by supersampling 8-px squares' means."""
    h, w = (length // 8 for length in slide.pixels.shape[:2])
    squares = slide.pixels[: h * 8, : w * 8].reshape(h, 8, w, 8, 3).mean(axis=(1, 3)) / 255
    fine = np.kron(squares, np.ones((8, 8, 1)))
    y, x = np.arange(h * 8), np.arange(w * 8)
    rows = np.clip(np.minimum(y + 1, top + side) - np.maximum(y, top), 0, None)
    cols = np.clip(np.minimum(x + 1, left + side) - np.maximum(x, left), 0, None)
    weights = np.outer(rows, cols)
    return np.asarray((fine * weights[..., None]).sum(axis=(0, 1)) / weights.sum())


@pytest.mark.parametrize("stride", [32, 50], ids=["fits the map", "does not fit the map"])
def test_cells_and_context_are_exact_area_means(slide: ArraySlide, stride: int) -> None:
    grid = lattice(slide, stride, origin=(3.0, 5.0) if stride == 50 else (0.0, 0.0))
    grid = only(grid, (grid.rows < 480 // stride - 1) & (grid.cols < 640 // stride - 1))
    features = embed_patches(slide, grid, BoxDense())
    for i in range(0, len(grid), 17):
        x, y = grid.centres[i]
        for found, side in ((features.cell[i], stride), (features.context[i], 2 * stride)):
            expected = area_mean(slide, x - side / 2, y - side / 2, side)
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_patch_may_be_larger_than_its_cell(slide: ArraySlide) -> None:
    grid = lattice(slide, 32, size=64)
    features = embed_patches(slide, grid, BoxDense())
    twice = embed_patches(slide, replace(grid, size=32), BoxDense())
    np.testing.assert_array_equal(features.cell, twice.context)


def test_cells_are_where_they_should_be_at_another_resolution() -> None:
    """A ramp read at twice the size keeps its values, so a shift of half a pixel would show."""
    ramp = np.repeat(np.linspace(0, 255, 512)[None], 256, axis=0)
    slide = ArraySlide(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8), mpp=1.0)
    grid = lattice(slide, 24, mpp_embed=0.5, mpp=1.0)
    for encoder in (BoxDense(), MeanPatch()):
        cell = embed_patches(slide, grid, encoder).cell[:, 0].astype(float) * 511
        inner = (grid.cols > 0) & (grid.cols < 20)
        np.testing.assert_allclose(cell[inner], grid.centres[inner, 0] - 0.5, atol=1.5)


def test_patch_wise_features_are_of_the_patch_and_its_surroundings(slide: ArraySlide) -> None:
    grid = lattice(slide, 32)
    features = embed_patches(slide, grid, MeanPatch())
    for i in (47, 128):
        x, y = grid.centres[i]
        for found, side in ((features.cell[i], 32), (features.context[i], 64)):
            patch = slide.read_region(x - side / 2, y - side / 2, (16, 16), side / 32)
            # Not nearer: at its rim the resampling of a patch read alone lacks its neighbours.
            np.testing.assert_allclose(found, patch.mean(axis=(0, 1)) / 255, atol=5e-3)


def test_patches_that_fit_no_lattice_are_read_one_by_one(slide: ArraySlide) -> None:
    even = embed_patches(slide, lattice(slide, 32), MeanPatch())
    odd = lattice(slide, 32, size=33)  # 15.5 patch px from cell to cell
    uneven = embed_patches(slide, odd, MeanPatch())
    assert np.abs(even.cell.astype(float) - uneven.cell).max() < 0.05
    assert not np.array_equal(even.cell, uneven.cell)


@given(
    centres=st.lists(st.floats(-5, 25), min_size=1, max_size=5),
    half=st.floats(0.1, 12),
    length=st.integers(1, 20),
)
def test_overlap_weights_are_the_share_of_each_pixel(
    centres: list[float], half: float, length: int
) -> None:
    weights = overlap_weights(np.array(centres), half, length)
    assert weights.shape == (len(centres), length)
    for row, centre in zip(weights, centres, strict=True):
        covered = max(0.0, min(length, centre + half) - max(0.0, centre - half))
        assert row.sum() == pytest.approx(1 if covered > 1e-9 else 0, abs=1e-5) or covered < 1e-9
        for j, share in enumerate(row):
            part = max(0.0, min(j + 1, centre + half) - max(j, centre - half))
            if covered > 1e-6:
                assert share == pytest.approx(part / covered, abs=1e-5)


# --- the network: one pass over a window against one pass a cell ----------------------------

# Stated tolerance of the default encoder's halo (docs: concepts): an unlimited halo against ours.
COSINE, OF_SPREAD = 0.999, 0.05


def cosine(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float64]:
    a64, b64 = a.astype(float), b.astype(float)
    product = (a64 * b64).sum(axis=1)
    return np.asarray(product / np.linalg.norm(a64, axis=1) / np.linalg.norm(b64, axis=1))


def test_dense_features_equal_those_of_each_patch_alone(network: EfficientNetLite0) -> None:
    """Each cell cut out with its halo and embedded by itself gives what the window gives."""
    slide = ArraySlide(tissue_like(768, 768))
    grid = lattice(slide, 64)
    together = embed_patches(slide, grid, network)
    for i in (0, 40, 78, 101, 143):
        chosen = np.arange(len(grid)) == i
        alone = embed_patches(slide, only(grid, chosen), network)
        for a, b in ((together.cell, alone.cell), (together.context, alone.context)):
            assert cosine(a[i : i + 1], b)[0] > COSINE


def test_features_do_not_depend_on_the_windows(
    network: EfficientNetLite0, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = ArraySlide(tissue_like(832, 832))
    grid = lattice(slide, 64)
    one = embed_patches(slide, grid, network)
    monkeypatch.setattr(blocks, "WINDOW_PX", 700)
    assert len(plan_blocks(grid, network)) > 4
    many = embed_patches(slide, grid, network)
    for a, b in ((one.cell, many.cell), (one.context, many.context)):
        assert cosine(a, b).min() > COSINE


def test_features_do_not_depend_on_threads(slide: ArraySlide) -> None:
    grid = lattice(slide, 64)
    results = [
        embed_patches(slide, grid, EfficientNetLite0("cpu", threads=n, precision="fp32"), threads=n)
        for n in (1, 3)
    ]
    np.testing.assert_array_equal(results[0].cell, results[1].cell)
    np.testing.assert_array_equal(results[0].context, results[1].context)


def test_torch_keeps_its_threads(slide: ArraySlide) -> None:
    before = torch.get_num_threads()
    load_encoder("efficientnet_lite0", device="cpu", threads=1)
    assert torch.get_num_threads() == before


@pytest.mark.real_data
def test_the_halo_is_wide_enough_on_real_tissue(
    shared_data: Path, network: EfficientNetLite0, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.open(shared_data / "bcss" / "1008.jpg").convert("RGB").crop((0, 0, 2048, 2048))
    slide = ArraySlide(np.asarray(image.resize((1024, 1024), Image.Resampling.BOX)))
    grid = lattice(slide, 64)
    one = embed_patches(slide, grid, network)  # one window: the whole picture
    monkeypatch.setattr(blocks, "WINDOW_PX", 800)
    many = embed_patches(slide, grid, network)
    for a, b in ((one.cell, many.cell), (one.context, many.context)):
        assert cosine(a, b).min() > COSINE
        error = (a.astype(float) - b) / a.astype(float).std(axis=0)
        assert np.sqrt((error**2).mean()) < OF_SPREAD


# --- the cache ------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [BoxDense(), MeanPatch()], ids=["dense", "patch-wise"])
def test_a_second_run_reads_nothing(
    slide: ArraySlide, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "WINDOW_PX", 320)
    grid = lattice(slide, 32)
    first = embed_patches(slide, grid, encoder, cache=FeatureCache(tmp_path))
    reads = slide.reads
    seen: list[tuple[str, int, int]] = []
    second = embed_patches(
        slide,
        grid,
        encoder,
        cache=FeatureCache(tmp_path),
        progress=lambda *call: seen.append(call),
    )
    assert slide.reads == reads
    assert (first.from_cache, second.from_cache) == (0, len(grid))
    np.testing.assert_array_equal(first.cell, second.cell)
    np.testing.assert_array_equal(first.context, second.context)
    assert seen[-1] == ("embed", len(grid), len(grid))


def changed_settings() -> list[tuple[str, ArraySlide, PatchGrid, Encoder]]:
    slide = ArraySlide(tissue_like(128, 128))
    grid, encoder = lattice(slide, 32), BoxDense()
    other = BoxDense()
    other.identifier = "box-2"
    fewer = only(grid, np.arange(len(grid)) != 3)
    moved = replace(fewer, rows=np.where(np.arange(15) == 3, 0, fewer.rows).astype(np.int32))
    return [
        ("as it was", slide, grid, encoder),
        ("another slide", ArraySlide(tissue_like(128, 128, seed=1)), grid, encoder),
        ("another encoder", slide, grid, other),
        ("fewer cells", slide, fewer, encoder),
        ("other cells", slide, moved, encoder),
        ("origin", slide, replace(grid, origin=(1.0, 0.0)), encoder),
        ("stride", slide, replace(grid, stride=31), encoder),
        ("size", slide, replace(grid, size=40), encoder),
        ("patch_px", slide, replace(grid, patch_px=8), encoder),
        ("mpp", slide, replace(grid, mpp=0.51), encoder),
        ("mpp_embed", slide, replace(grid, mpp_embed=0.25), encoder),
        ("shape", slide, replace(grid, shape=(5, 4)), encoder),
    ]


def test_no_two_settings_share_an_entry(tmp_path: Path) -> None:
    cases = changed_settings()
    keys = {name: cache_key(slide, grid, encoder) for name, slide, grid, encoder in cases}
    for (a, key_a), (b, key_b) in itertools.combinations(keys.items(), 2):
        assert key_a != key_b, (a, b)
    for _, slide, grid, encoder in cases:
        assert embed_patches(slide, grid, encoder, cache=FeatureCache(tmp_path)).from_cache == 0
    assert len(FeatureCache(tmp_path).entries()) == len(cases)


def test_a_damaged_shard_is_computed_again(
    slide: ArraySlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "WINDOW_PX", 320)
    cache, grid = FeatureCache(tmp_path), lattice(slide, 32)
    first = embed_patches(slide, grid, BoxDense(), cache=cache)
    (entry,) = cache.entries()
    shards = sorted(entry.path.glob("shard-*"))
    assert len(shards) > 3
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    shards[1].write_bytes(shards[2].read_bytes() + b"!")
    shards[3].unlink()
    again = embed_patches(slide, grid, BoxDense(), cache=cache)
    assert 0 < again.from_cache < len(grid)
    np.testing.assert_array_equal(first.cell, again.cell)
    assert embed_patches(slide, grid, BoxDense(), cache=cache).from_cache == len(grid)


def test_a_full_disk_costs_the_cache_not_the_run(
    slide: ArraySlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    grid = lattice(slide, 32)
    expected = embed_patches(slide, grid, BoxDense())
    monkeypatch.setattr(np, "savez", full)
    features = embed_patches(slide, grid, BoxDense(), cache=FeatureCache(tmp_path))
    np.testing.assert_array_equal(features.cell, expected.cell)
    assert "No space left" in features.notes[0]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_an_unusable_cache_folder_costs_the_cache_not_the_run(
    slide: ArraySlide, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file")
    features = embed_patches(slide, lattice(slide, 32), BoxDense(), cache=cache)
    assert "cannot use the cache folder" in features.notes[0]


RUN = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import numpy as np
    sys.path.insert(0, sys.argv[1])
    from test_embedding import ArraySlide, lattice, tissue_like
    from recontour import embedding
    from recontour.cache import FeatureCache
    from recontour.encoders.efficientnet_lite import EfficientNetLite0

    embedding.blocks.WINDOW_PX = 640
    slide = ArraySlide(tissue_like(512, 512))
    network = EfficientNetLite0("cpu", threads=1, precision="fp32")
    features = embedding.embed_patches(
        slide, lattice(slide, 64), network, cache=FeatureCache(Path(sys.argv[2]))
    )
    np.savez(sys.argv[3], cell=features.cell, context=features.context, kept=features.from_cache)
    """
)


def start(cache: Path, out: Path) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", RUN, here, str(cache), str(out)])


def test_a_killed_run_and_two_at_once_end_bit_identical(tmp_path: Path) -> None:
    with start(tmp_path / "killed", tmp_path / "never.npz") as process:
        until = time.monotonic() + 200
        while not list((tmp_path / "killed").glob("*/shard-*.npz")):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "never.npz").exists()
    caches = {"resumed": "killed", "one": "shared", "other": "shared"}
    runs = [start(tmp_path / cache, tmp_path / f"{name}.npz") for name, cache in caches.items()]
    assert [run.wait(timeout=200) for run in runs] == [0, 0, 0]
    results = {name: dict(np.load(tmp_path / f"{name}.npz")) for name in caches}
    assert 0 < results["resumed"]["kept"] < len(results["resumed"]["cell"])
    for view in ("cell", "context"):
        assert len({result[view].tobytes() for result in results.values()}) == 1
    (entry,) = FeatureCache(tmp_path / "shared").entries()
    assert not list(entry.path.glob(".tmp-*"))


# --- encoders whose features are too large to be kept twice ---------------------------------


class NarrowPatch(MeanPatch):
    context = False


class NarrowDense(BoxDense):
    context = False


@pytest.mark.parametrize(
    ("narrow", "both"),
    [(NarrowPatch(), MeanPatch()), (NarrowDense(), BoxDense())],
    ids=["patch-wise", "dense"],
)
def test_only_the_cell_is_embedded_where_the_encoder_says_so(
    narrow: Encoder, both: Encoder, slide: ArraySlide, tmp_path: Path
) -> None:
    grid = lattice(slide, 32)
    cache = FeatureCache(tmp_path)
    found = embed_patches(slide, grid, narrow, cache=cache)
    assert found.context is None
    np.testing.assert_array_equal(found.cell, embed_patches(slide, grid, both).cell)
    again = embed_patches(slide, grid, narrow, cache=cache)
    assert again.from_cache == len(grid)
    assert again.context is None
    np.testing.assert_array_equal(again.cell, found.cell)
    expected, twice = estimate(grid, narrow), estimate(grid, both)
    assert expected["feature_bytes"] == found.cell.nbytes == twice["feature_bytes"] // 2
    assert expected["pixels"] <= twice["pixels"]
    assert expected["peak_bytes"] < twice["peak_bytes"]


def test_features_are_exported_without_the_view_there_is_not(
    slide: ArraySlide, tmp_path: Path
) -> None:
    grid = lattice(slide, 32)
    for encoder, views in ((NarrowPatch(), {"cell"}), (MeanPatch(), {"cell", "context"})):
        path = tmp_path / f"{len(views)}.npz"
        export_features(path, grid, embed_patches(slide, grid, encoder))
        with np.load(path) as archive:
            assert views == {"cell", "context"} & set(archive.files)


# --- when things go wrong, and what it takes ------------------------------------------------


def test_nan_features_are_refused_and_not_kept(slide: ArraySlide, tmp_path: Path) -> None:
    class Broken(MeanPatch):
        def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.full((len(patches), 3), np.nan, np.float32)

    cache = FeatureCache(tmp_path)
    with pytest.raises(EncoderError, match="mean returned NaN"):
        embed_patches(slide, lattice(slide, 32), Broken(), cache=cache)
    assert cache.entries()[0].n_shards == 0


def test_numbers_beyond_float16_are_refused(slide: ArraySlide) -> None:
    class Huge(MeanPatch):
        def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.full((len(patches), 3), 1e6, np.float32)

    with pytest.raises(EncoderError, match="float16"):
        embed_patches(slide, lattice(slide, 32), Huge())


@pytest.mark.parametrize("wrong", [np.s_[:, :2], np.s_[1:]], ids=["width", "rows"])
def test_another_shape_than_the_encoder_says_is_refused_and_not_kept(
    slide: ArraySlide, tmp_path: Path, wrong: tuple[slice, ...]
) -> None:
    class Short(MeanPatch):
        def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            return super().__call__(patches)[wrong]

    with pytest.raises(EncoderError, match="mean returned .* where .* is needed"):
        embed_patches(slide, lattice(slide, 16), Short(), cache=FeatureCache(tmp_path))
    assert not list(tmp_path.rglob("shard*"))


def test_a_read_error_reaches_the_user(
    slide: ArraySlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "WINDOW_PX", 320)

    class Torn(ArraySlide):
        def read_region(
            self, x: float, y: float, size: tuple[int, int], mpp: float
        ) -> NDArray[np.uint8]:
            if y > 100:
                raise SlideError("torn.svs: damaged tile")
            return super().read_region(x, y, size, mpp)

    torn = Torn(slide.pixels)
    with pytest.raises(SlideError, match="damaged tile"):
        embed_patches(torn, lattice(torn, 32), BoxDense(), cache=FeatureCache(tmp_path))
    # What came before is kept for the next attempt.
    assert FeatureCache(tmp_path).entries()[0].n_shards > 0


def test_no_cells_give_no_features(slide: ArraySlide, tmp_path: Path) -> None:
    grid = only(lattice(slide, 32), np.zeros(300, bool))
    features = embed_patches(slide, grid, BoxDense(), cache=FeatureCache(tmp_path))
    assert features.cell.shape == features.context.shape == (0, 3)


def test_windows_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow encoder does not make the reader fill the memory."""
    monkeypatch.setattr(blocks, "WINDOW_PX", 128)
    slide = ArraySlide(tissue_like(256, 1024))
    ahead = []

    class Slow(BoxDense):
        windows = 0

        def dense(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
            time.sleep(0.005)
            Slow.windows += 1
            ahead.append(slide.reads - Slow.windows)
            return super().dense(windows)

    embed_patches(slide, lattice(slide, 32), Slow(), threads=8)
    assert len(ahead) > 20
    assert max(ahead) <= reading.READ_AHEAD + 1


@pytest.mark.parametrize("encoder", [BoxDense(), MeanPatch()], ids=["dense", "patch-wise"])
def test_every_cell_is_in_one_block(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW_PX", 400)
    slide = ArraySlide(np.zeros((700, 1100, 3), np.uint8))
    grid = lattice(slide, 25)
    grid = only(grid, np.random.default_rng(0).random(len(grid)) < 0.3)
    found = plan_blocks(grid, encoder)
    cells = np.concatenate([block.cells for block in found])
    assert np.array_equal(np.sort(cells), np.arange(len(grid)))
    assert [block.index for block in found] == list(range(len(found)))
    assert len(found) > 1


def test_the_estimate_is_what_it_takes(slide: ArraySlide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW_PX", 320)
    grid = lattice(slide, 32)
    expected = estimate(grid, BoxDense())
    before = slide.reads
    features = embed_patches(slide, grid, BoxDense())
    assert expected["windows"] == slide.reads - before
    assert expected["feature_bytes"] == features.cell.nbytes + features.context.nbytes
    assert expected["cells"] == len(grid)
    assert expected["pixels"] >= 480 * 640
