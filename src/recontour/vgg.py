"""VGG16 as both source papers use it: the network, and where its weights come from.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015),
configuration D. Names and shapes of the parameters are those of torchvision's ImageNet weights.
Nothing is downloaded unless `RECONTOUR_ALLOW_DOWNLOAD=1` says so.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recontour.errors import EncoderError, MissingFileError, UsageError

FILE = "vgg16-397923af.pth"  # torchvision ends names in the first digits of the SHA-256
URL = f"https://download.pytorch.org/models/{FILE}"
SIZE = "528 MB"
WEIGHTS_VARIABLE = "RECONTOUR_VGG16_WEIGHTS"
DOWNLOAD_VARIABLE = "RECONTOUR_ALLOW_DOWNLOAD"

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions of each
POOLED = 7  # the last map is averaged to 7 x 7; of a 224-px patch it is that already
HIDDEN = 4096
CLASSES = 1000
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # positions in `features`
FULLY_CONNECTED = (0, 3, 6)  # positions in `classifier`; between them ReLU and dropout


@dataclass(frozen=True)
class Vgg16Weights:
    """The weights of a VGG16.

    Attributes
    ----------
    state : parameters by torchvision's name; of a file that torch can map they are read only when
        they are used
    name : names exactly these weights, for the cache
    """

    state: Mapping[str, Tensor]
    name: str

    @property
    def conv_dim(self) -> int:
        """Numbers a patch has after the convolutional part: 25,088."""
        return self.state["classifier.0.weight"].shape[1]

    def convolutions(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of the thirteen convolutions, in order."""
        return [self._pair(f"features.{i}") for i in CONVOLUTIONS]

    def fully_connected(self) -> list[tuple[Tensor, Tensor]]:
        """(weight (out, in), bias) of the three fully connected layers, in order."""
        return [self._pair(f"classifier.{i}") for i in FULLY_CONNECTED]

    def _pair(self, layer: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{layer}.weight"], self.state[f"{layer}.bias"]


def vgg16_shapes(narrow: int = 1) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, all widths divided by `narrow`."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels, position = 3, iter(CONVOLUTIONS)
    for width, count in STAGES:
        for _ in range(count):
            at = f"features.{next(position)}"
            shapes[f"{at}.weight"] = (width // narrow, channels, 3, 3)
            shapes[f"{at}.bias"] = (width // narrow,)
            channels = width // narrow
    widths = (channels * POOLED**2, HIDDEN // narrow, HIDDEN // narrow, CLASSES // narrow)
    for i, n_in, n_out in zip(FULLY_CONNECTED, widths[:-1], widths[1:], strict=True):
        shapes[f"classifier.{i}.weight"] = (n_out, n_in)
        shapes[f"classifier.{i}.bias"] = (n_out,)
    return shapes


def load_vgg16(weights: str | Path | None = None) -> Vgg16Weights:
    """Weights from a file, or random ones where that is asked for.

    Parameters
    ----------
    weights : a file; or `random:SEED`, or `random:SEED:NARROW` with all widths divided by NARROW
        (1 to 64), which learn nothing from ImageNet and are for tests and timing; or None: what
        `RECONTOUR_VGG16_WEIGHTS` says, else the file where `find_weights` finds it

    Raises
    ------
    MissingFileError : there is no such file; says where to get it
    EncoderError : the file is damaged or holds another network
    UsageError : `random:` is followed by something else
    """
    given = str(weights if weights is not None else os.environ.get(WEIGHTS_VARIABLE, ""))
    if given.startswith("random:"):
        return _random(given)
    path = find_weights(given or None)
    if path is None:
        if given or os.environ.get(DOWNLOAD_VARIABLE) != "1":
            raise MissingFileError(_advice(given))
        path = _download(weights_folder() / FILE)
    return _read(path)


def find_weights(given: str | None = None) -> Path | None:
    """The file of weights: as `given`, else in `weights_folder()`, else where torch keeps its own.

    None where there is none.
    """
    if given:
        path = Path(given).expanduser()
        return path if path.is_file() else None
    folders = (weights_folder(), Path(torch.hub.get_dir()) / "checkpoints")
    return next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)


def weights_folder() -> Path:
    """Where the user may put weights: `weights` in the platform's folder for application data."""
    from platformdirs import user_data_dir

    return Path(user_data_dir("recontour", appauthor=False)) / "weights"


def _advice(given: str) -> str:
    missing = f"{given} does not exist" if given else "the ImageNet weights of VGG16 are not here"
    return (
        f"{missing}: download {URL} ({SIZE}) and put it into {weights_folder()}, or name the file "
        f"in {WEIGHTS_VARIABLE}; {DOWNLOAD_VARIABLE}=1 lets recontour download it there"
    )


def _download(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(path), hash_prefix="397923af", progress=False)
    except (OSError, RuntimeError) as error:
        raise EncoderError(f"cannot download {URL} to {path}: {error}") from error
    return path


def _read(path: Path) -> Vgg16Weights:
    stat = path.stat()
    sha256 = _sha256(path, stat.st_size, stat.st_mtime_ns)
    promised = re.search(r"-([0-9a-f]{8})\.\w+$", path.name)
    if promised and not sha256.startswith(promised[1]):
        raise EncoderError(
            f"{path} is damaged: its SHA-256 begins with {sha256[:8]}, not {promised[1]}; "
            f"get it again from {URL}"
        )
    try:
        # Mapped, not read: the encoder never touches the nine tenths that are fully connected.
        # Files written before 2020, torchvision's among them, are no archives and must be read.
        archive = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # torch raises a different type for each kind of damage
        raise EncoderError(f"{path} cannot be read as weights; get it from {URL}") from error
    _check_network(state, path)
    return Vgg16Weights({name: values.detach() for name, values in state.items()}, sha256[:12])


def _check_network(state: object, path: Path) -> None:
    expected = vgg16_shapes()
    tensors = state if isinstance(state, Mapping) else {}
    for name in (*expected, *tensors):
        found = getattr(tensors.get(name), "shape", None)
        if name not in expected or found is None or tuple(found) != expected[name]:
            raise EncoderError(
                f"{path} is not a VGG16 without batch norms: {name} is "
                f"{'missing' if found is None else tuple(found)}, not {expected.get(name, 'there')}"
            )
        if tensors[name].dtype != torch.float32:
            raise EncoderError(f"{path}: {name} is {tensors[name].dtype}, not torch.float32")


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Of the file; size and time of change are there so that a new file is read anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _random(spec: str) -> Vgg16Weights:
    found = re.fullmatch(r"random:(\d{1,9})(?::(\d{1,2}))?", spec)
    narrow = int(found[2] or 1) if found else 0
    if found is None or not 1 <= narrow <= 64:
        raise UsageError(
            f"weights {spec!r}: write random:SEED or random:SEED:NARROW, NARROW from 1 to 64"
        )
    generator = torch.Generator().manual_seed(int(found[1]))
    state = {}
    with torch.inference_mode(False):
        for name, shape in vgg16_shapes(narrow).items():
            state[name] = torch.zeros(shape)
            if name.endswith("weight"):
                # He et al. (2015): signals keep their size through thirteen layers.
                spread = (2 / state[name][0].numel()) ** 0.5
                state[name].normal_(0, spread, generator=generator)
    return Vgg16Weights(state, f"random-{int(found[1])}-{narrow}")
