"""Engines and precisions: other ways to compute the same features, on devices of any memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from test_embedding import ArraySlide, BoxDense, MeanPatch, lattice, tissue_like

from recontour import devices
from recontour.cache import FeatureCache
from recontour.embedding import Effort, blocks, cache_key, embed_patches, in_words
from recontour.encoders import load_encoder
from recontour.encoders.compiled import Compiled
from recontour.encoders.efficientnet_lite import EfficientNetLite0
from recontour.encoders.lite0 import build, load_weights
from recontour.encoders.openvino import import_silently
from recontour.errors import EncoderError, MissingExtraError, UnknownNameError, UsageError


@pytest.fixture(scope="module")
def slide() -> ArraySlide:
    return ArraySlide(tissue_like(320, 448))


@pytest.fixture(scope="module")
def eager() -> EfficientNetLite0:
    return EfficientNetLite0("cpu", threads=1, precision="fp32")


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The smallest over the last axis."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(axis=-1) / norms).min())


# --- engines -----------------------------------------------------------------------------------


def test_openvino_gives_the_features_of_torch(slide: ArraySlide, eager: EfficientNetLite0) -> None:
    pytest.importorskip("openvino")
    other = EfficientNetLite0("cpu", threads=1, precision="fp32", engine="openvino")
    grid = lattice(slide, 64)
    ours, theirs = (embed_patches(slide, grid, encoder) for encoder in (eager, other))
    assert cosine(ours.cell, theirs.cell) > 0.99999
    assert cosine(ours.context, theirs.context) > 0.99999
    assert theirs.effort.engine == "openvino"
    assert cache_key(slide, grid, eager) != cache_key(slide, grid, other)


def test_openvino_takes_windows_of_any_size(eager: EfficientNetLite0) -> None:
    pytest.importorskip("openvino")
    other = EfficientNetLite0("cpu", threads=1, precision="fp32", engine="openvino")
    for shape in ((1, 64, 96), (2, 96, 64), (1, 160, 32)):
        windows = np.stack([tissue_like(*shape[1:], seed=seed) for seed in range(shape[0])])
        np.testing.assert_allclose(other.dense(windows), eager.dense(windows), atol=1e-3)


def test_openvino_sends_nothing_and_writes_nothing(tmp_path: Path) -> None:
    """To be imported is something that it reports, unless it is kept from it."""
    pytest.importorskip("openvino")
    script = textwrap.dedent(
        """
        import sys
        told = []
        def watch(event, arguments):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
                told.append((event, arguments))
        sys.addaudithook(watch)
        import numpy as np
        from recontour.encoders.efficientnet_lite import EfficientNetLite0
        encoder = EfficientNetLite0("cpu", threads=1, precision="fp32", engine="openvino")
        encoder.dense(np.zeros((1, 64, 64, 3), np.uint8))
        assert not told, told
        assert "openvino" in sys.modules
        assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
        """
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not list(tmp_path.rglob("*intel*"))


def test_without_openvino_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"recontour\[openvino\]"):
        EfficientNetLite0("cpu", engine="openvino")


def test_who_keeps_telemetry_out_altogether_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError):
        import_silently()
    assert sys.modules["openvino_telemetry"] is None


def test_the_compiled_network_is_the_eager_one(
    eager: EfficientNetLite0, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling takes minutes: here it leaves the functions as they are."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    network = build(load_weights()[0], torch.device("cpu"), torch.float32)
    pixels = tissue_like(96, 64)[None]
    turned = torch.from_numpy(pixels).flip(1, 2).permute(0, 3, 1, 2)
    found = Compiled(network, torch.float32, None)(turned)
    for ours, theirs in zip(eager._stages(pixels), found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_missing_compiler_is_named() -> None:
    def broken(graph: object, inputs: object) -> None:
        raise FileNotFoundError("g++")

    network = build(load_weights()[0], torch.device("cpu"), torch.float32)
    compiled = Compiled(network, torch.float32, None, backend=broken)
    with pytest.raises(EncoderError, match="C\\+\\+ compiler.*--engine compile"):
        compiled(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_what_an_encoder_cannot_choose_is_refused() -> None:
    with pytest.raises(UsageError, match="'colour' has no --engine openvino"):
        load_encoder("colour", engine="openvino")
    with pytest.raises(UsageError, match="'colour' has no --precision bf16"):
        load_encoder("colour", precision="bf16")
    with pytest.raises(UnknownNameError, match="engine 'tensorrt'.*eager"):
        load_encoder("efficientnet_lite0", engine="tensorrt")
    with pytest.raises(UnknownNameError, match="precision 'int8'.*bf16"):
        load_encoder("efficientnet_lite0", device="cpu", precision="int8")


def test_openvino_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.pick_device_of("openvino", "auto").type == "cpu"
    assert devices.pick_device_of("eager", "auto").type == "cuda"
    with pytest.raises(UsageError, match="runs on the CPU, not on 'cuda'"):
        devices.pick_device_of("openvino", "cuda")


# --- precision ---------------------------------------------------------------------------------


def test_bf16_is_chosen_only_where_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, mps = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "has_native_bf16", lambda native=native: native)
        assert devices.pick_precision("auto", cpu) == expected
    assert devices.pick_precision("auto", cuda) == torch.bfloat16
    assert devices.pick_precision("auto", mps) == torch.float32
    assert devices.pick_precision("fp32", cuda) == torch.float32
    assert devices.pick_precision("bf16", cpu) == torch.bfloat16


# --- devices with memory of their own ----------------------------------------------------------


def test_pooling_on_the_device_is_pooling_on_the_cpu(
    slide: ArraySlide, eager: EfficientNetLite0, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = lattice(slide, 50, origin=(3.0, 5.0))
    expected = embed_patches(slide, grid, eager)
    monkeypatch.setattr(eager, "pools", True)

    def leave(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise AssertionError("the map itself left the device")

    monkeypatch.setattr(eager, "dense", leave)
    found = embed_patches(slide, grid, eager)
    np.testing.assert_allclose(found.cell, expected.cell, atol=5e-3, rtol=2e-3)
    np.testing.assert_allclose(found.context, expected.context, atol=5e-3, rtol=2e-3)


def test_as_many_windows_at_once_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 24 * 2**30))
    cuda = torch.device("cuda")
    assert devices.fitting(cuda, 2**30, 8) == 6
    assert devices.fitting(cuda, 2**20, 8) == 8
    assert devices.fitting(cuda, 2**40, 8) == 1
    assert devices.fitting(torch.device("cpu"), 1, 8) is None


class Small:
    """Stands for a device: more than `room` items at once do not fit."""

    room = 3
    at_once: int | None = 8

    def __init__(self) -> None:
        self.passes: list[int] = []

    def enter(self, count: int) -> None:
        self.passes.append(count)
        if count > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class SmallDense(Small, BoxDense):
    def dense(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.enter(len(windows))
        return super().dense(windows)


class SmallPatch(Small, MeanPatch):
    at_once = None

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.enter(len(patches))
        return super().__call__(patches)


def test_windows_share_a_pass_until_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW_PX", 256)
    slide = ArraySlide(tissue_like(256, 2048))
    grid, encoder = lattice(slide, 32), SmallDense()
    found = embed_patches(slide, grid, encoder)
    expected = embed_patches(slide, grid, BoxDense())
    assert np.array_equal(found.cell, expected.cell)
    assert np.array_equal(found.context, expected.context)
    assert found.effort.batch == 2
    assert max(encoder.passes) > 3
    # What fits is remembered: the next slide does not try again.
    before = len(encoder.passes)
    embed_patches(slide, grid, encoder)
    assert encoder.at_once == 2
    assert max(encoder.passes[before:]) == 2


def test_patches_are_sent_in_parts_that_fit(slide: ArraySlide) -> None:
    grid, encoder = lattice(slide, 32), SmallPatch()
    found = embed_patches(slide, grid, encoder)
    assert np.array_equal(found.cell, embed_patches(slide, grid, MeanPatch()).cell)
    assert encoder.at_once in (2, 3)
    assert encoder.passes[0] == len(grid)


def test_a_device_too_small_for_one_window_is_said(slide: ArraySlide) -> None:
    encoder = SmallDense()
    encoder.room = 0
    with pytest.raises(EncoderError, match="memory for a single pass.*--device cpu"):
        embed_patches(slide, lattice(slide, 32), encoder)


def test_other_errors_of_the_encoder_are_not_taken_for_memory(slide: ArraySlide) -> None:
    class Broken(BoxDense):
        def dense(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise RuntimeError("expected scalar type Float but found Half")

    with pytest.raises(RuntimeError, match="scalar type"):
        embed_patches(slide, lattice(slide, 32), Broken())


# --- what it took ------------------------------------------------------------------------------


def test_a_run_says_what_it_waited_for(slide: ArraySlide, tmp_path: Path) -> None:
    grid, cache = lattice(slide, 32), FeatureCache(tmp_path)
    facts = embed_patches(slide, grid, BoxDense(), cache=cache).effort.facts()
    assert facts["bottleneck"] in ("computing", "reading", "writing")
    assert facts["cells_from_cache"] == 0
    assert facts["batch"] == 1
    assert 0 < facts["share_of_limit"] <= 1
    assert facts["cells_per_s"] == pytest.approx(len(grid) / facts["seconds"])
    assert facts["seconds_save"] > 0
    assert "was the bottleneck" in in_words(facts)
    again = embed_patches(slide, grid, BoxDense(), cache=cache).effort.facts()
    assert again["cells_per_s"] is again["share_of_limit"] is None
    assert again["bottleneck"] == "none: all from cache"
    assert in_words(again) == "all cells from the cache"


@pytest.mark.parametrize("which", ["computing", "reading", "writing"])
def test_the_bottleneck_is_what_took_longest(which: str) -> None:
    names = {"computing": "seconds_embed", "reading": "seconds_wait"}
    slow = names.get(which, "seconds_wait_save")
    effort = Effort(cells=100, seconds=10.0, **{slow: 6.0})
    assert effort.bottleneck == which
    assert in_words(effort.facts()) == (
        f"10 cells/s, {0.6 if which == 'computing' else 0:.0%} of the encoder's own speed; "
        f"{which} was the bottleneck"
    )


def test_figures_of_older_runs_are_passed_over() -> None:
    assert in_words({"cells_from_cache": 3, "seconds_read": 1.0, "seconds_embed": 2.0}) == ""


class Planning(ArraySlide):
    """Counts what is planned and what is read within the plan."""

    threads = 1

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__(pixels)
        self.planned: list[tuple[object, ...]] = []
        self.open = 0

    def plan_reads(self, regions: object) -> Planning:
        self.planned += list(regions)  # type: ignore[call-overload]
        return self

    def __enter__(self) -> None:
        self.open += 1

    def __exit__(self, *error: object) -> None:
        self.open -= 1

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        assert self.open == 1
        assert (x, y, size, mpp) in self.planned
        return super().read_region(x, y, size, mpp)


@pytest.mark.parametrize("stride", [32, 50], ids=["one read for all", "each patch alone"])
@pytest.mark.parametrize("encoder", [BoxDense(), MeanPatch()], ids=["dense", "patch-wise"])
def test_a_slide_is_told_its_reads_beforehand(
    encoder: BoxDense | MeanPatch, stride: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(blocks, "WINDOW_PX", 320)
    slide, cache = Planning(tissue_like(320, 448)), FeatureCache(tmp_path)
    embed_patches(slide, lattice(slide, stride), encoder, cache=cache)
    assert len(slide.planned) == slide.reads > 1
    assert slide.open == 0
    # What is in the cache is neither planned nor read.
    before = slide.reads
    embed_patches(slide, lattice(slide, stride), encoder, cache=cache)
    assert len(slide.planned) == slide.reads == before


# --- on the command line -----------------------------------------------------------------------


def test_threads_are_limited_in_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.cluster  # noqa: F401  # brings OpenMP, scipy and their linear algebra
    from threadpoolctl import threadpool_info

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    with devices.limit_threads(1):
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        assert torch.get_num_threads() == 1
        # Libraries that are loaded from now on look here.
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert before == (torch.get_num_threads(), [p["num_threads"] for p in threadpool_info()])
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    with devices.limit_threads(None):
        assert torch.get_num_threads() == before[0]


def test_embed_says_how_fast_it_was_and_with_what(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    Image.fromarray(tissue_like(256, 320)).save(tmp_path / "a.png")
    command = ["embed", "a.png", "--mpp", "0.5", "--tissue", "rgb", "--cache-dir", "cache"]
    runs = []
    for options in (["--engine", "openvino"], ["--engine", "openvino"], ["--precision", "fp32"]):
        done = subprocess.run(
            [sys.executable, "-m", "recontour", *command, "--threads", "1", *options],
            cwd=tmp_path,
            capture_output=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr.decode()
        runs.append(" ".join(done.stdout.decode().split()))
    assert "(openvino fp32" in runs[0]
    assert "of the encoder's own speed" in runs[0]
    assert "all cells from the cache" in runs[1]
    assert "cells/s (eager fp32" in runs[2]  # other features: computed anew
