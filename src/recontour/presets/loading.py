"""Read a preset; a key it does not know is an error, so that no setting is lost in silence."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from typing import Any

from recontour.errors import UnknownNameError, UsageError
from recontour.recipe import Recipe

_KEYS = {"title", "paper", "dataset", "recipe", "simulation", "pooled", "notes"}
_TUPLES = ("classes", "exclude_classes")


@dataclass(frozen=True)
class Preset:
    """The settings of one method on one data set, as a paper has them.

    Attributes
    ----------
    name : `paper-METHOD-DATASET`
    title : one line for a list
    paper : where the settings come from
    dataset : name of the data set they are for
    recipe : every setting that changes a result
    notes : sentences on what the paper leaves open, and where this departs from it
    simulation : `kind` and severity of the coarse outlines that the paper simulates on this data
        set, where they are not the default ones
    pooled : the paper learns from all slides together, as the benchmark then does too
    """

    name: str
    title: str
    paper: str
    dataset: str
    recipe: Recipe
    notes: tuple[str, ...] = ()
    simulation: Mapping[str, Any] = field(default_factory=dict)
    pooled: bool = False

    def settings(self) -> dict[str, Any]:
        """What the recipe sets differently from the defaults, by name."""
        default, own = Recipe().to_dict(), self.recipe.to_dict()
        return {name: value for name, value in own.items() if value != default[name]}


def names() -> list[str]:
    """Every preset there is, sorted."""
    folder = resources.files(__package__)
    found = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load(name: str) -> Preset:
    """The preset of that name.

    Raises
    ------
    UnknownNameError : no such preset; lists the known ones
    """
    if name not in names():
        raise UnknownNameError.of("preset", name, names())
    return parse(name, (resources.files(__package__) / f"{name}.toml").read_text("utf-8"))


def parse(name: str, text: str) -> Preset:
    """Make a preset of the text of its file.

    Raises
    ------
    UsageError : not TOML, a key is missing or unknown, or a value has the wrong type
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"preset {name}: {error}") from error
    required = {f.name for f in fields(Preset) if f.default is MISSING} - {"name", "simulation"}
    _check_keys(f"preset {name}", set(data), _KEYS, required)
    recipe = dict(data["recipe"])
    _check_keys(f"preset {name}, [recipe]", set(recipe), {f.name for f in fields(Recipe)}, set())
    for key in _TUPLES:
        if key in recipe:
            recipe[key] = tuple(recipe[key])
    for key, value in recipe.items():
        _check_type(f"preset {name}, [recipe] {key}", value, getattr(Recipe(), key))
    _check_type(f"preset {name}, pooled", data.get("pooled", False), False)
    return Preset(
        name=name,
        title=data["title"],
        paper=data["paper"],
        dataset=data["dataset"],
        recipe=Recipe(**recipe),
        notes=tuple(data.get("notes", ())),
        simulation=data.get("simulation", {}),
        pooled=data.get("pooled", False),
    )


def _check_keys(where: str, found: set[str], known: set[str], required: set[str]) -> None:
    for key in sorted(found - known):
        raise UsageError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")
    for key in sorted(required - found):
        raise UsageError(f"{where}: {key!r} is missing")


def _check_type(where: str, value: Any, default: Any) -> None:
    """A value is of the kind of the default; where that is None, anything but a table goes."""
    if default is None:
        right = isinstance(value, str | int | float) and not isinstance(value, bool)
    elif isinstance(default, float):
        right = isinstance(value, int | float) and not isinstance(value, bool)
    elif isinstance(default, Mapping):
        right = isinstance(value, Mapping)
    else:
        right = type(value) is type(default)
    if not right:
        raise UsageError(f"{where} = {value!r} is of the wrong type")
