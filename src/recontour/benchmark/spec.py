"""What is asked of a benchmark: methods, outlines, encoders, repeats, and what may be added later.

Methods are written `NAME` or `NAME:option=value,option=value`, outlines `KIND`, `KIND@SEVERITY` or
`KIND:option=value`; several are separated by commas or spaces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recontour import __version__, registry
from recontour.errors import OutputRefusedError, UnknownNameError, UsageError
from recontour.recipe import Recipe
from recontour.refiners import make_refiner
from recontour.simulation import KINDS, Severity, named_severity

COARSE, ORACLE, BASELINE = "coarse", "oracle", "logistic"
"""In every table: the outline itself, a model that saw the truth, and a plain linear model."""
DRAWN = "drawn"
"""Every outline that comes with a case and was drawn by hand."""
WITHOUT_CHANCE = ("published", "generous", "tight")
"""Kinds of simulated outline that no seed changes, unless the lesion is cut first."""
VGG = "vgg16"
"""Methods that carry this in their name run on encoders that do."""

# The rows of the prototype paper's ablation table: each adds one part to the row above.
ABLATION = ("CA", "LP", "GP", "DDS", "RF")

_SEPARATOR = re.compile(r"[,\s]+")


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options, as it stands in the tables.

    Attributes
    ----------
    label : its name in the tables, unique
    name : a registered refiner
    options : hyper-parameters of the refiner
    pooled : fitted on all slides at once, then asked about each
    encoder : the only encoder it runs on; "": every one it suits
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pooled: bool = False
    encoder: str = ""

    def runs_on(self, encoder: str) -> bool:
        """Whether it can be asked to learn from the features of `encoder`."""
        if self.encoder:
            return self.encoder == encoder
        return VGG not in self.name or VGG in encoder

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "label": self.label,
            "name": self.name,
            "options": dict(self.options),
            "pooled": self.pooled,
            "encoder": self.encoder,
        }


@dataclass(frozen=True)
class OutlineSpec:
    """A kind of coarse outline.

    Attributes
    ----------
    label : its name in the tables, unique
    kind : one of `simulation.KINDS`, the name of an outline that comes with a case, or `drawn`
    severity : how wrong a simulated one becomes, see `simulation.Severity`
    """

    label: str
    kind: str
    severity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether it is made from the truth."""
        return self.kind in KINDS

    def outline_seed(self, seed: int) -> int:
        """The seed of the outline in repeat `seed`: always 0 where chance has no part in it."""
        by_chance = self.kind not in WITHOUT_CHANCE or self.severity.get("cut", 0) > 0
        return seed if self.simulated and by_chance else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"label": self.label, "kind": self.kind, "severity": dict(self.severity)}


@dataclass(frozen=True)
class Plan:
    """Everything a benchmark is to run.

    Attributes
    ----------
    recipe : the settings all runs share; its method, encoder and seed count for nothing
    seeds : repeats; repeat r seeds the simulated outline and the method with r
    preset : name of the preset the recipe came from, "" for none
    keep_all : also cases whose lesion is less than 10 % or more than 90 % of the tissue
    """

    dataset: str
    recipe: Recipe
    methods: tuple[MethodSpec, ...]
    outlines: tuple[OutlineSpec, ...]
    encoders: tuple[str, ...]
    seeds: int
    preset: str = ""
    keep_all: bool = False

    def fixed(self) -> dict[str, Any]:
        """What must be the same in all that is kept in one folder."""
        settings = self.recipe.to_dict()
        for name in ("method", "method_options", "encoder", "seed", "entry"):
            del settings[name]
        return {
            "recontour": __version__,
            "dataset": self.dataset,
            "preset": self.preset,
            "keep_all": self.keep_all,
            "recipe": settings,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **self.fixed(),
            "methods": [m.to_dict() for m in self.methods],
            "outlines": [o.to_dict() for o in self.outlines],
            "encoders": list(self.encoders),
            "seeds": self.seeds,
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` gave."""
        settings = dict(data["recipe"])
        for name, value in settings.items():
            if isinstance(value, list):
                settings[name] = tuple(value)
        return cls(
            dataset=data["dataset"],
            recipe=Recipe(**settings),
            methods=tuple(MethodSpec(**m) for m in data["methods"]),
            outlines=tuple(OutlineSpec(**o) for o in data["outlines"]),
            encoders=tuple(data["encoders"]),
            seeds=int(data["seeds"]),
            preset=data["preset"],
            keep_all=bool(data["keep_all"]),
        )

    def joined(self, earlier: Plan) -> Plan:
        """All that was asked for before, and now.

        Raises
        ------
        OutputRefusedError : a setting differs that all runs must share
        """
        mine, theirs = self.fixed(), earlier.fixed()
        different = [n for n in mine if n != "recipe" and mine[n] != theirs[n]]
        recipe: tuple[dict[str, Any], dict[str, Any]] = (mine["recipe"], theirs["recipe"])
        different += [n for n in recipe[0] if recipe[0][n] != recipe[1].get(n)]
        if different:
            said = ", ".join(_difference(name, mine, theirs) for name in different)
            raise OutputRefusedError(
                f"the folder holds a benchmark with other settings ({said}); pass another folder, "
                "or --overwrite to replace it (methods, outlines, encoders and seeds may be added)"
            )
        return replace(
            self,
            methods=_union("method", earlier.methods, self.methods),
            outlines=_union("kind of outline", earlier.outlines, self.outlines),
            encoders=tuple(dict.fromkeys((*earlier.encoders, *self.encoders))),
            seeds=max(self.seeds, earlier.seeds),
        )


def parse_methods(
    texts: Sequence[str], recipe: Recipe | None = None, *, pooled: bool = False
) -> tuple[tuple[MethodSpec, ...], tuple[str, ...]]:
    """The methods that `--methods` names, and sentences for the user.

    `all` stands for every registered refiner but identity and the VGG16 presets, `ablation` for
    the five rows of the prototype paper's ablation, fitted on all slides together. `logistic` is
    always among them.

    Parameters
    ----------
    recipe : the method it names has its options where it is named without any; of `ablation`, too
    pooled : that method is fitted on all slides together

    Raises
    ------
    UnknownNameError : no such refiner
    UsageError : an option it does not have, or two methods of one name
    """
    found: list[MethodSpec] = []
    for text in split_specs(texts):
        if text == "all":
            names = [n for n in registry.names("refiner") if n != "identity" and VGG not in n]
            found += [MethodSpec(n, n) for n in names]
        elif text == "ablation":
            found += ablation()
        else:
            found.append(parse_method(text))
    notes = []
    if recipe is not None and (recipe.method_options or pooled):
        for i, method in enumerate(found):
            if method.name != recipe.method or set(method.options) - {"ablation"}:
                continue
            options = {**recipe.method_options, **method.options}
            found[i] = replace(method, options=options, pooled=pooled or method.pooled)
            if found[i].pooled and not method.pooled:
                found[i] = replace(found[i], label=f"{method.label} (pooled)")
            how = [_said(recipe.method_options)] if recipe.method_options else []
            how += ["all slides together"] if found[i].pooled and not method.pooled else []
            if how:
                notes.append(f"{method.label} runs with {' and '.join(how)}")
    found = _without_repeats(found)
    if not any(m.name == BASELINE and not m.options and not m.pooled for m in found):
        found.insert(0, MethodSpec(BASELINE, BASELINE))
        notes.append(
            f"{BASELINE} was added: no method is worth much that a plain linear model beats"
        )
    for method in found:
        make_refiner(method.name, **method.options)  # a wrong option shows now, not in an hour
    labels = [m.label for m in found] + [COARSE, ORACLE]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"two methods are called {label!r}; name one with as=NAME")
    return tuple(found), tuple(notes)


def parse_method(text: str) -> MethodSpec:
    """`NAME:option=value,…`; pooled=true, as=LABEL and on=ENCODER are ours, the rest its own.

    Raises
    ------
    UsageError : an option without a value
    """
    name, options = _parse(text, "method")
    pooled = options.pop("pooled", False)
    if not isinstance(pooled, bool):
        raise UsageError(f"{text}: pooled is true or false, not {pooled!r}")
    label = str(options.pop("as", ""))
    encoder = str(options.pop("on", ""))
    said = _said(options)
    label = label or name + (f":{said}" if said else "") + (" (pooled)" if pooled else "")
    return MethodSpec(label, name, options, pooled, encoder)


def parse_outlines(
    texts: Sequence[str], simulation: Mapping[str, Any] | None = None
) -> tuple[tuple[OutlineSpec, ...], tuple[str, ...]]:
    """The kinds of outline that `--coarse` names, and sentences for the user.

    Parameters
    ----------
    simulation : `kind` and severity of the outlines that the paper simulates on this data set
        (PAIP2020: the lesion is cut in half first); they hold where the kind is named without
        options

    Raises
    ------
    UsageError : a severity that there is not, or two kinds of one name
    """
    found: list[OutlineSpec] = []
    notes = []
    for text in split_specs(texts):
        kind, options = _parse(text, "kind of outline")
        label = str(options.pop("as", ""))
        base, at, severity = kind.partition("@")
        recipe: Mapping[str, Any] = {}
        if at and base in KINDS:
            kind, recipe = base, named_severity(severity)
        given = dict(simulation or {})
        if not at and given.pop("kind", "published") == kind and given and not options:
            options, label = given, label or kind
            notes.append(f"outlines {kind!r} are simulated with {_said(given)}, as in the paper")
        if options and kind not in KINDS:
            raise UsageError(f"{text}: only simulated outlines ({', '.join(KINDS)}) have options")
        if options:
            try:
                Severity(**options)
            except TypeError as error:
                known = ", ".join(Severity.__dataclass_fields__)
                raise UsageError(f"{text}: a severity is one of {known}") from error
        name = f"{kind}@{severity}" if recipe else kind
        said = _said(options)
        label = label or name + (f":{said}" if said else "")
        found.append(OutlineSpec(label, kind, {**recipe, **options}))
    found = _without_repeats(found)
    labels = [o.label for o in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"two kinds of outline are called {label!r}; name one with as=NAME")
    return tuple(found), tuple(notes)


def split_specs(texts: Sequence[str]) -> list[str]:
    """Several specs in one text or many: `a,b:x=1,y=2 c` is a, b with x and y, and c."""
    found: list[str] = []
    for text in texts:
        for part in _SEPARATOR.split(text.strip()):
            # What has a "=" and no name before it belongs to the spec it follows.
            name, colon, _ = part.partition(":")
            if "=" in (part if not colon else name):
                if not found:
                    raise UsageError(f"{text}: {part} comes before any name")
                found[-1] += ("," if ":" in found[-1] else ":") + part
            elif part:
                found.append(part)
    if not found:
        raise UsageError("nothing is named: write NAME or NAME:option=value")
    return found


def check_encoders(names: Sequence[str]) -> tuple[str, ...]:
    """The encoders named, each once.

    Raises
    ------
    UnknownNameError : no such encoder
    """
    for name in names:
        if name not in registry.names("encoder"):
            raise UnknownNameError.of("encoder", name, registry.names("encoder"))
    return tuple(dict.fromkeys(names))


def check_places(methods: Sequence[MethodSpec], encoders: Sequence[str]) -> None:
    """Refuse a method that would run on none of the encoders.

    Raises
    ------
    UsageError : names the method and the encoder that is needed
    """
    for method in methods:
        if not any(method.runs_on(encoder) for encoder in encoders):
            needed = method.encoder or VGG
            raise UsageError(
                f"{method.label} runs on the encoder {needed} only, and --encoders is "
                f"{', '.join(encoders)}: add {needed} to it, or leave the method out"
            )


def is_drawn(name: str) -> bool:
    """Whether an outline of this name, of those that come with a case, was drawn by hand.

    The LC-MIL authors released their simulated outlines beside the drawn ones, as `coarse_top1`.
    """
    return not any(word in name.casefold() for word in ("top1", "simulated"))


def ablation() -> list[MethodSpec]:
    """The five rows of the prototype paper's ablation table, from the labels alone to the whole.

    Pooled: of one slide alone, global prototypes are its local ones.
    """
    return [
        MethodSpec(f"prototype {'+' if i else ''}{row}", "prototype", {"ablation": row}, True)
        for i, row in enumerate(ABLATION)
    ]


def _parse(text: str, what: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{what} {text}: write NAME:option=value, not {pair!r}")
        try:
            options[key.replace("-", "_")] = json.loads(value)
        except ValueError:
            options[key.replace("-", "_")] = value
    return name, options


def _said(options: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    return ",".join(f"{key}={text(value)}" for key, value in options.items())


def _without_repeats(specs: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for spec in specs:
        if spec not in kept:
            kept.append(spec)
    return kept


def _union(what: str, earlier: Sequence[Any], now: Sequence[Any]) -> tuple[Any, ...]:
    by_label = {spec.label: spec for spec in earlier}
    for spec in now:
        held = by_label.setdefault(spec.label, spec)
        if held.to_dict() != spec.to_dict():
            raise OutputRefusedError(
                f"the folder holds another {what} called {spec.label!r}; name this one with as=NAME"
            )
    return tuple(by_label.values())


def _difference(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    here, there = (p[name] if name in p else p["recipe"].get(name) for p in (mine, theirs))
    return f"{name.replace('_', ' ')} {there!r}, not {here!r}"
