"""VGG16: the network and its weights, the encoder, and the papers' two methods on top of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer, Scene
from numpy.typing import NDArray
from test_refiners_contract import slide
from torch import Tensor, nn

from recontour import vgg
from recontour.encoders import load_encoder
from recontour.encoders.vgg16 import IMAGENET_MEAN, IMAGENET_STD, Vgg16
from recontour.encoders.winograd import Winograd
from recontour.errors import EncoderError, MissingFileError, RefinerError, UsageError
from recontour.refiners import make_refiner
from recontour.refiners.base import table
from recontour.refiners.deep_knn_vgg16 import DeepKnnVgg16, LabelModel
from recontour.refiners.fully_connected import AdamSettings, Layers, Linear
from recontour.refiners.lc_mil import draw_bags
from recontour.refiners.lc_mil_vgg16 import BagModel, LcMilVgg16
from recontour.types import PatchSet
from recontour.vgg import Vgg16Weights, find_weights, load_vgg16, vgg16_shapes

SMALL = "random:0:64"

# The state dictionary that torchvision publishes as vgg16-397923af.pth.
PUBLISHED = {
    "features.0.weight": (64, 3, 3, 3),
    "features.0.bias": (64,),
    "features.2.weight": (64, 64, 3, 3),
    "features.2.bias": (64,),
    "features.5.weight": (128, 64, 3, 3),
    "features.5.bias": (128,),
    "features.7.weight": (128, 128, 3, 3),
    "features.7.bias": (128,),
    "features.10.weight": (256, 128, 3, 3),
    "features.10.bias": (256,),
    "features.12.weight": (256, 256, 3, 3),
    "features.12.bias": (256,),
    "features.14.weight": (256, 256, 3, 3),
    "features.14.bias": (256,),
    "features.17.weight": (512, 256, 3, 3),
    "features.17.bias": (512,),
    "features.19.weight": (512, 512, 3, 3),
    "features.19.bias": (512,),
    "features.21.weight": (512, 512, 3, 3),
    "features.21.bias": (512,),
    "features.24.weight": (512, 512, 3, 3),
    "features.24.bias": (512,),
    "features.26.weight": (512, 512, 3, 3),
    "features.26.bias": (512,),
    "features.28.weight": (512, 512, 3, 3),
    "features.28.bias": (512,),
    "classifier.0.weight": (4096, 25088),
    "classifier.0.bias": (4096,),
    "classifier.3.weight": (4096, 4096),
    "classifier.3.bias": (4096,),
    "classifier.6.weight": (1000, 4096),
    "classifier.6.bias": (1000,),
}


@pytest.fixture(autouse=True)
def no_weights_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what the user has downloaded."""
    for variable in ("RECONTOUR_VGG16_WEIGHTS", "RECONTOUR_ALLOW_DOWNLOAD"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(vgg, "weights_folder", lambda: tmp_path / "weights")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def stock(weights: Vgg16Weights) -> tuple[nn.Sequential, nn.Sequential]:
    """VGG16 from stock layers, as its paper's table lists them: (features, classifier)."""
    plan = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]
    narrow = 64 // len(weights.state["features.0.bias"])
    layers: list[nn.Module] = []
    channels = 3
    for width in plan:
        if not width:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, width // narrow, 3, padding=1), nn.ReLU()]
        channels = width // narrow
    hidden = 4096 // narrow
    classifier = nn.Sequential(
        nn.Linear(channels * 49, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, 1000 // narrow),
    )
    whole = nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": classifier})
    whole.load_state_dict(dict(weights.state))  # refuses missing and unexpected names
    return whole["features"], classifier  # type: ignore[return-value]


def pictures(count: int, side: int = 224) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    coarse = rng.uniform(60, 250, (count, side // 16, side // 16, 3))
    smooth = np.kron(coarse, np.ones((1, 16, 16, 1)))
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


# --- the network and where its weights come from ---------------------------------------------


def test_parameters_are_those_that_torchvision_publishes() -> None:
    assert vgg16_shapes() == PUBLISHED
    assert sum(math.prod(shape) for shape in PUBLISHED.values()) == 138_357_544
    trained = sum(math.prod(s) for name, s in PUBLISHED.items() if name.startswith("classifier"))
    assert trained == 123_642_856


@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("side", [224, 64])
def test_the_encoder_is_the_network_of_the_paper(
    side: int, winograd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recontour.encoders.vgg16.suits", lambda weight: winograd)
    encoder = Vgg16(device="cpu", precision="fp32", weights="random:3:16")
    features, _ = stock(load_vgg16("random:3:16"))
    patches = pictures(6, side)  # more than are computed at a time
    x = torch.from_numpy(patches).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = nn.AdaptiveAvgPool2d(7)(features(x)).flatten(1).numpy()
    found = encoder(patches)
    assert found.shape == (6, encoder.dim) == (6, 32 * 49)
    assert found.min() == 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("values", [2**23, 3000])
@pytest.mark.parametrize("size", [(16, 16), (14, 28), (1, 5), (6, 3)])
def test_winograds_convolution_is_torchs(
    size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recontour.encoders.winograd.VALUES", values)  # in one go, or in parts
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, 3, 3, generator=generator)
    bias = torch.randn(5, generator=generator)
    x = torch.randn(6, 7, *size, generator=generator)
    expected = nn.functional.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(Winograd(weight, bias)(x), expected, atol=2e-4, rtol=1e-4)


def test_the_fully_connected_layers_are_those_of_the_paper() -> None:
    weights = load_vgg16(SMALL)
    _, classifier = stock(weights)
    generator = torch.Generator().manual_seed(0)
    layers = Layers(weights.fully_connected(), AdamSettings(1e-3, 0), generator, relu_last=False)
    x = torch.rand(5, weights.conv_dim, generator=generator)
    with torch.no_grad():
        expected = classifier.eval()(x)
    torch.testing.assert_close(layers.answer(torch.float32)(x), expected)


def test_bf16_features_point_the_same_way() -> None:
    full = Vgg16(device="cpu", precision="fp32", weights="random:0:16")
    half = Vgg16(device="cpu", precision="bf16", weights="random:0:16")
    assert full.identifier != half.identifier  # never mixed in a cache
    for a, b in zip(full(pictures(2)), half(pictures(2)), strict=True):
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


def test_features_beyond_float16_are_cut_off_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = load_vgg16(SMALL)
    loud = {name: values * 30 for name, values in weights.state.items()}
    monkeypatch.setattr("recontour.encoders.vgg16.load_vgg16", lambda _: Vgg16Weights(loud, "loud"))
    encoder = Vgg16(device="cpu", precision="fp32")
    found = encoder(pictures(1))
    assert found.max() == np.finfo(np.float16).max
    assert np.isfinite(found.astype(np.float16)).all()


def test_the_wrong_input_is_named() -> None:
    encoder = Vgg16(device="cpu", weights=SMALL)
    with pytest.raises(EncoderError, match="uint8"):
        encoder(np.zeros((1, 224, 224, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match="at least 32 px, not 16 x 64"):
        encoder(np.zeros((1, 16, 64, 3), np.uint8))
    assert encoder(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, encoder.dim)


def test_missing_weights_say_what_to_get_and_where_to_put_it(
    cli: Callable[..., Answer], scene: Scene, tmp_path: Path
) -> None:
    with pytest.raises(MissingFileError) as caught:
        load_encoder("vgg16", device="cpu")
    for words in (
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "528 MB",
        str(tmp_path / "weights"),
        "RECONTOUR_VGG16_WEIGHTS",
        "RECONTOUR_ALLOW_DOWNLOAD=1",
    ):
        assert words in str(caught.value)
    answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "o", "--encoder", "vgg16")
    assert answer.code == 2
    assert "528 MB" in answer.err.replace("\n", " ")
    assert json.loads(cli("doctor", "--format", "json").out)["vgg16_weights"] is None


def test_a_file_that_was_named_and_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECONTOUR_VGG16_WEIGHTS", "/nowhere/own.pth")
    monkeypatch.setenv("RECONTOUR_ALLOW_DOWNLOAD", "1")  # not instead of what was asked for
    with pytest.raises(MissingFileError, match="/nowhere/own.pth does not exist"):
        load_vgg16()


def test_nothing_is_downloaded_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(url: str, to: str, hash_prefix: str, progress: bool) -> None:
        calls.append((url, to, hash_prefix, progress))
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(MissingFileError):
        load_vgg16()
    assert not calls
    monkeypatch.setenv("RECONTOUR_ALLOW_DOWNLOAD", "1")
    with pytest.raises(EncoderError, match="no network"):
        load_vgg16()
    expected = str(tmp_path / "weights" / "vgg16-397923af.pth")
    assert calls == [(vgg.URL, expected, "397923af", False)]


def write(path: Path, state: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Makes a file of a narrow network pass for a whole one; its state."""
    monkeypatch.setattr(vgg, "vgg16_shapes", lambda: vgg16_shapes(64))
    return {name: values.clone() for name, values in load_vgg16_small().state.items()}


def load_vgg16_small() -> Vgg16Weights:
    with torch.inference_mode(False):
        state = {name: torch.zeros(shape) for name, shape in vgg16_shapes(64).items()}
    return Vgg16Weights(state, "")


def test_a_file_is_checked_and_its_content_names_the_features(
    tmp_path: Path, small_network: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write(tmp_path / "own.pth", small_network)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    found = load_vgg16(own)
    assert found.name == digest[:12]
    assert list(found.state) == list(PUBLISHED)
    monkeypatch.setenv("RECONTOUR_VGG16_WEIGHTS", str(own))
    assert digest[:12] in Vgg16(device="cpu").identifier

    named = own.rename(tmp_path / f"vgg16-{digest[:8]}.pth")
    assert load_vgg16(named).name == digest[:12]
    wrong = named.rename(tmp_path / "vgg16-397923af.pth")
    with pytest.raises(EncoderError, match=f"begins with {digest[:8]}, not 397923af; get it"):
        load_vgg16(wrong)


def test_a_file_as_old_as_the_published_one_is_read(
    tmp_path: Path, small_network: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # torchvision wrote its file in 2017: no archive that could be mapped, and its values may ask
    # for gradients.
    small_network["classifier.6.bias"] += 3
    old = {name: nn.Parameter(values) for name, values in small_network.items()}
    path = tmp_path / "old.pth"
    torch.save(old, path, _use_new_zipfile_serialization=False)
    found = load_vgg16(path)
    assert found.state["classifier.6.bias"].tolist() == [3] * 15
    assert not any(values.requires_grad for values in found.state.values())
    monkeypatch.setenv("RECONTOUR_VGG16_WEIGHTS", str(path))
    assert Vgg16(device="cpu")(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 392)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("features.5.bias"), r"features.5.bias is missing, not \(2,\)"),
        (lambda s: s.update({"features.3.weight": torch.zeros(4)}), "features.3.weight"),
        (lambda s: s.update({"classifier.6.bias": torch.zeros(7)}), r"is \(7,\), not \(15,\)"),
        (lambda s: s.update({"classifier.6.bias": torch.zeros(15).half()}), "float16"),
        (lambda s: s.update({"classifier.6.bias": 5}), "classifier.6.bias"),
    ],
    ids=["missing", "more", "shape", "type", "no tensor"],
)
def test_another_network_is_refused(
    tmp_path: Path,
    small_network: dict[str, Tensor],
    change: Callable[[dict[str, Tensor]], Any],
    sentence: str,
) -> None:
    change(small_network)
    with pytest.raises(EncoderError, match=sentence):
        load_vgg16(write(tmp_path / "other.pth", small_network))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(EncoderError, match=r"page\.pth cannot be read as weights"):
        load_vgg16(tmp_path / "page.pth")
    write(tmp_path / "list.pth", [1, 2])  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match="is not a VGG16"):
        load_vgg16(tmp_path / "list.pth")


def test_weights_are_looked_for_where_the_user_and_torch_keep_them(tmp_path: Path) -> None:
    assert find_weights() is None
    hub = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"")
    assert find_weights() == hub
    own = tmp_path / "weights" / "vgg16-397923af.pth"
    own.parent.mkdir()
    own.write_bytes(b"")
    assert find_weights() == own


@pytest.mark.parametrize("spec", ["random:", "random:x", "random:0:0", "random:0:65", "random:-1"])
def test_random_weights_are_asked_for_exactly(spec: str) -> None:
    with pytest.raises(UsageError, match="random:SEED:NARROW"):
        load_vgg16(spec)


def test_random_weights_say_so_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    encoder = Vgg16(device="cpu", weights=SMALL)
    assert torch.equal(torch.rand(4), expected)
    assert "random-0-64" in encoder.identifier
    assert encoder.identifier != Vgg16(device="cpu", weights="random:1:64").identifier


# --- learning -------------------------------------------------------------------------------


def conv_like(patches: PatchSet, dim: int = 392, seed: int = 99) -> PatchSet:
    spread = np.random.default_rng(seed).normal(0, 0.25, (patches.features.shape[1], dim))
    features = np.maximum(patches.features @ spread, 0).astype(np.float16)
    return dataclasses.replace(patches, features=features, context=None)


def test_a_step_is_that_of_torchs_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Linear(300, 7)
    nn.init.normal_(plain.weight, generator=generator)
    adam = torch.optim.Adam(plain.parameters(), lr=1e-2, weight_decay=1e-2)
    settings = AdamSettings(1e-2, 1e-2)
    ours = Linear(plain.weight.detach().clone(), plain.bias.detach().clone(), settings)
    for _ in range(20):
        x = torch.rand(4, 300, generator=generator).requires_grad_()
        d_y = torch.randn(4, 7, generator=generator)
        adam.zero_grad()
        plain(x).backward(d_y)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), plain(x))
            d_x = ours.learn(x.detach(), d_y)
        torch.testing.assert_close(d_x, x.grad)
        adam.step()
    torch.testing.assert_close(ours.weight, plain.weight.detach())
    torch.testing.assert_close(ours.bias, plain.bias.detach())


def test_the_gradient_in_tiles_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(10, 30, generator=torch.Generator().manual_seed(0))
    x, d_y = torch.rand(4, 30), torch.rand(4, 10)
    found = []
    for tile in (1, 90, 100_000):
        monkeypatch.setattr("recontour.refiners.fully_connected.TILE", tile)
        layer = Linear(weights.clone(), None, AdamSettings(1e-3, 0))
        layer.learn(x, d_y)
        layer.learn(x, d_y)
        found.append(layer.weight)
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])


class NaiveBags(nn.Module):
    """The model as one would write it from the paper, with autograd."""

    def __init__(self, weights: Vgg16Weights, start: BagModel) -> None:
        super().__init__()
        _, self.classifier = stock(weights)
        self.v = nn.Parameter(start.v.weight.clone())
        self.w = nn.Parameter(start.w.weight.clone())
        self.g = nn.Parameter(start.g.weight.clone())
        assert start.g.bias is not None
        self.c = nn.Parameter(start.g.bias.clone())

    def forward(self, bag: Tensor) -> Tensor:
        h = self.classifier(bag)
        w = torch.softmax((torch.tanh(h @ self.v.T) @ self.w.T)[:, 0], 0)
        score = self.g @ (w[:, None] * h).sum(0) + self.c
        if len(score) > 1:
            return torch.softmax(score, 0)
        return torch.stack([1 - torch.sigmoid(score[0]), torch.sigmoid(score[0])])

    def loss(self, bag: Tensor, side: int, rule: str) -> Tensor:
        probs = self(bag)
        p = probs[side].clamp(1e-5, 1 - 1e-5)
        asked = probs[side] if rule == "code" else 1 - probs[0]
        gamma = 5 if asked.item() < 0.2 else 3
        return -((1 - p) ** gamma) * torch.log(p)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("rule", ["code", "paper"])
def test_one_bag_a_step_is_the_naive_loop(
    k: int, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dropout off, on both sides: torch's own draws other cells than ours.
    monkeypatch.setattr(
        "recontour.refiners.fully_connected.dropout", lambda like, _: torch.ones_like(like)
    )
    patches = conv_like(slide(k=k, noise=0.3)[0])
    weights, cells = load_vgg16(SMALL), table([patches])
    method = LcMilVgg16(seed=5, bags=24, blocks=3, lr=1e-3, focal_gamma=rule, weights=SMALL)

    rng = np.random.default_rng([5, 0])
    start = BagModel(rng, weights, 64, k, AdamSettings(1e-3, 1e-4), torch.device("cpu"))
    naive = NaiveBags(weights, start).eval()
    adam = torch.optim.Adam(naive.parameters(), lr=1e-3, weight_decay=1e-4)
    x = torch.from_numpy(patches.features.astype(np.float32))
    for block in draw_bags(rng, cells, 24, 3, 20):
        bags = np.split(block.index, np.cumsum(block.lengths)[:-1])
        for bag, side in zip(bags, block.sides, strict=True):
            adam.zero_grad()
            naive.loss(x[bag], int(side), rule).backward()
            adam.step()
        for group in adam.param_groups:
            group["lr"] /= 2

    trained = method.train(cells, weights, 0)
    pairs = [(trained.v.weight, naive.v), (trained.w.weight, naive.w), (trained.g.weight, naive.g)]
    for i, layer in enumerate(trained.layers.layers):
        pairs.append((layer.weight, naive.classifier[3 * i].weight))
    for found, expected in pairs:
        torch.testing.assert_close(found, expected.detach(), atol=2e-4, rtol=1e-3)
    probs = method.fit([patches]).predict_proba(patches)
    alone = np.stack([naive(row[None]).detach().numpy() for row in x])
    np.testing.assert_allclose(probs, alone, atol=2e-3)


def test_the_defaults_are_the_papers() -> None:
    method = LcMilVgg16(weights=SMALL)
    assert (method.bags, method.blocks, method.bag_length, method.attention) == (1000, 10, 20, 64)
    assert (method.lr, method.weight_decay, method.n_seeds) == (5e-5, 1e-4, 1)
    neighbours = DeepKnnVgg16(weights=SMALL)
    assert (neighbours.k, neighbours.epochs, neighbours.batch) == (5, 1, 64)
    assert (neighbours.lr, neighbours.weight_decay) == (5e-5, 1e-3)
    assert neighbours.include_self


def quick(name: str, **options: Any) -> Any:
    many = {"bags": 40, "blocks": 2} if name == "lc_mil_vgg16" else {}
    return make_refiner(name, weights=SMALL, lr=1e-3, **{**many, **options})


def test_dropout_stays_on_at_inference_only_where_that_is_asked_for() -> None:
    patches = conv_like(slide()[0])
    plain = quick("lc_mil_vgg16").fit([patches])
    published = quick("lc_mil_vgg16", published_dropout=True).fit([patches])
    expected, found = plain.predict_proba(patches), published.predict_proba(patches)
    assert not np.allclose(expected, found, atol=1e-3)
    np.testing.assert_array_equal(found, published.predict_proba(patches))  # seeded
    # Without it, an answer does not depend on which cells are asked about together.
    part = dataclasses.replace(
        patches,
        grid=dataclasses.replace(
            patches.grid, rows=patches.grid.rows[7:], cols=patches.grid.cols[7:]
        ),
        features=patches.features[7:],
        labels=patches.labels[7:],
    )
    np.testing.assert_allclose(plain.predict_proba(part), expected[7:], atol=1e-6)
    assert not np.allclose(published.predict_proba(part), found[7:], atol=1e-3)


def test_dropout_is_on_while_learning() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = Layers(
        load_vgg16(SMALL).fully_connected(), AdamSettings(0.0, 0), generator, relu_last=False
    )
    x = torch.rand(400, 392, generator=generator)
    plain = torch.nn.functional.linear(x, layers.layers[0].weight, layers.layers[0].bias).relu()
    layers.forward(x)
    (_, gate), (second_input, _), _ = layers._tape
    assert gate is not None
    dropped = (second_input == 0) & (plain > 0)
    assert float(dropped.sum() / (plain > 0).sum()) == pytest.approx(0.5, abs=0.02)
    kept = second_input[second_input > 0]
    torch.testing.assert_close(kept, 2 * plain[second_input > 0])


def test_the_models_share_nothing_with_the_pretrained_weights() -> None:
    weights = load_vgg16(SMALL)
    before = {name: values.clone() for name, values in weights.state.items()}
    patches = conv_like(slide()[0])
    cells = table([patches])
    quick("lc_mil_vgg16").train(cells, weights, 0)
    trained = quick("deep_knn_vgg16").train(cells, np.arange(len(cells)), weights)
    for name, values in weights.state.items():
        assert torch.equal(values, before[name]), name
    assert not torch.equal(trained.layers.layers[0].weight, before["classifier.0.weight"])
    assert not torch.equal(trained.layers.layers[1].weight, before["classifier.3.weight"])


@pytest.mark.parametrize("k", [2, 3])
def test_a_batch_of_labels_is_the_naive_cross_entropy(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "recontour.refiners.fully_connected.dropout", lambda like, _: torch.ones_like(like)
    )
    patches = conv_like(slide(k=k)[0])
    weights, cells = load_vgg16(SMALL), table([patches])
    method = quick("deep_knn_vgg16", seed=2)
    trained = method.train(cells, np.arange(len(cells)), weights)

    rng = np.random.default_rng(2)
    start = LabelModel(rng, weights, k, AdamSettings(1e-3, 1e-3), torch.device("cpu"))
    _, classifier = stock(weights)
    naive = nn.Sequential(*classifier[:6], nn.Linear(64, 1 if k == 2 else 3)).eval()
    assert start.head.bias is not None
    with torch.no_grad():
        naive[6].weight.copy_(start.head.weight)
        naive[6].bias.copy_(start.head.bias)
    adam = torch.optim.Adam(naive.parameters(), lr=1e-3, weight_decay=1e-3)
    x = torch.from_numpy(patches.features.astype(np.float32))
    y = torch.from_numpy(patches.labels.astype(np.int64))
    for rows in torch.from_numpy(rng.permutation(len(x))).split(64):
        adam.zero_grad()
        score = naive(x[rows])
        loss = (
            nn.functional.binary_cross_entropy_with_logits(score[:, 0], y[rows].float())
            if k == 2
            else nn.functional.cross_entropy(score, y[rows])
        )
        loss.backward()
        adam.step()
    for found, expected in (
        (trained.layers.layers[0].weight, naive[0].weight),
        (trained.layers.layers[1].weight, naive[3].weight),
        (trained.head.weight, naive[6].weight),
    ):
        torch.testing.assert_close(found, expected.detach(), atol=2e-4, rtol=1e-3)


def test_neighbours_vote_with_the_cell_itself_among_them() -> None:
    patches = conv_like(slide(noise=0.2)[0])
    method = quick("deep_knn_vgg16", majority=False)
    shares = method.fit([patches]).predict_proba(patches)
    units = method._embed(table([patches]), method._fit.layers)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-5)
    assert units.shape == (len(patches), 64)
    nearest = np.argsort(-(units @ units.T), axis=1, kind="stable")[:, :5]
    same = np.mean([i in row for i, row in enumerate(nearest)])
    assert same > 0.99  # a cell is nearest to itself
    expected = patches.labels[nearest].mean(axis=1)
    assert np.mean(np.abs(shares[:, 1] - expected) < 1e-3) > 0.98  # but for rounding of ties

    hard = quick("deep_knn_vgg16").fit([patches]).predict_proba(patches)
    np.testing.assert_array_equal(hard[:, 1], shares[:, 1] > 0.5)
    others = quick("deep_knn_vgg16", majority=False, include_self=False)
    without = others.fit([patches]).predict_proba(patches)[:, 1]
    own = patches.labels == 1
    assert without[own].mean() < shares[own, 1].mean()  # the own label no longer votes
    assert without[~own].mean() > shares[~own, 1].mean()


@pytest.mark.parametrize("name", ["lc_mil_vgg16", "deep_knn_vgg16"])
def test_features_of_another_encoder_are_refused(name: str) -> None:
    patches, _ = slide()
    with pytest.raises(
        RefinerError, match="needs the 392 features.*given 12; pass --encoder vgg16"
    ):
        quick(name).fit([patches])


@pytest.mark.parametrize("name", ["lc_mil_vgg16", "deep_knn_vgg16"])
def test_too_few_cells_and_options_that_make_no_sense_are_refused(name: str) -> None:
    for option, value in (("lr", 0), ("precision", "fp64"), ("weight_decay", -1)):
        with pytest.raises(UsageError, match=f"{option}="):
            make_refiner(name, **{option: value})
    patches = conv_like(slide(side=2)[0])
    labelled = dataclasses.replace(patches, labels=np.array([0, 0, 1, 1], np.int8))
    if name == "deep_knn_vgg16":
        with pytest.raises(RefinerError, match="needs 5 labelled cells and has 4"):
            quick(name).fit([labelled])


@pytest.mark.parametrize("name", ["lc_mil_vgg16", "deep_knn_vgg16"])
def test_minutes_of_learning_show_how_far_they_are(name: str) -> None:
    seen = []
    method = quick(name)
    method.progress = lambda *step: seen.append(step)
    method.fit([conv_like(slide()[0])])
    total = 40 if name == "lc_mil_vgg16" else 9
    assert seen == [("fit", i + 1, total) for i in range(total)]


@pytest.mark.parametrize("name", ["lc_mil_vgg16", "deep_knn_vgg16"])
def test_what_learning_takes_is_told_before(name: str) -> None:
    seconds, size = quick(name).expect(1000)
    more, larger = quick(name, **({"n_seeds": 3} if name == "lc_mil_vgg16" else {})).expect(9000)
    assert 0 < 2 * seconds < more
    assert larger > size >= 3 * 4 * (392 * 64 + 64 * 64)  # weights and two moments


# --- the whole path -------------------------------------------------------------------------


def test_slides_are_refined_from_the_command_line(
    cli: Callable[..., Answer], scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONTOUR_VGG16_WEIGHTS", "random:0:64")
    options = ["--encoder", "vgg16", "--cell-um", 64, "--device", "cpu"]
    few_bags = ["--method-option", "bags=40", "--method-option", "lr=0.001"]
    runs = {}
    for name, more in (("lc_mil_vgg16", few_bags), ("deep_knn_vgg16", [])):
        out = tmp_path / name
        answer = cli(
            "refine", scene.slide, scene.coarse, "-o", out, *options, "--method", name, *more
        )
        assert answer.code == 0, answer.err
        runs[name] = json.loads((out / "run.json").read_text())
        assert runs[name]["encoder"].startswith("vgg16-conv-random-0-64-")
        assert json.loads((out / "refined.geojson").read_text())["type"] == "FeatureCollection"
    # Both methods learn from the same features, which are computed once.
    assert runs["lc_mil_vgg16"]["embedding"]["cells_from_cache"] == 0
    found = runs["deep_knn_vgg16"]
    assert found["embedding"]["cells_from_cache"] == found["grid"]["n_cells"] > 50
    # With other weights it is another run, which must not pass for the finished one.
    monkeypatch.setenv("RECONTOUR_VGG16_WEIGHTS", "random:1:64")
    again = cli(
        "refine", scene.slide, scene.coarse, "-o", tmp_path / "deep_knn_vgg16", *options,
        "--method", "deep_knn_vgg16",
    )  # fmt: skip
    assert again.code == 2
    assert "holds another run" in again.err
