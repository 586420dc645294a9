"""Shows this project's docstrings as they are meant.

Where numpydoc has a type, ours have a sentence (`grid : n cells, level-0 px`), and the types
stand in the signature. So the sentence becomes the description, and the type the annotation.
"""

from __future__ import annotations

from typing import Any

import griffe


class ProseTypes(griffe.Extension):
    """Moves the sentences, once a whole package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Visit everything in the package."""
        self._visit(pkg)

    def _visit(self, thing: Any) -> None:
        for member in thing.members.values():
            if member.is_alias:
                continue
            self._visit(member)
        if thing.docstring is None:
            return
        for section in thing.docstring.parsed:
            kind = section.kind.value
            if kind not in ("parameters", "attributes", "returns", "raises"):
                continue
            for item in section.value:
                if kind == "raises" and ":" in str(item.annotation):
                    name, _, sentence = str(item.annotation).partition(" : ")
                    item.annotation, item.description = name.strip(), sentence.strip()
                elif kind != "raises" and item.annotation is not None:
                    sentence = f"{item.annotation} {item.description}".strip()
                    item.description = sentence.removeprefix("(").removesuffix(")")
                    item.annotation = self._annotation(thing, kind, getattr(item, "name", ""))

    def _annotation(self, thing: Any, kind: str, name: str) -> Any:
        if kind == "returns":
            return getattr(thing, "returns", None)
        if kind == "parameters" and name in getattr(thing, "parameters", ()):
            return thing.parameters[name].annotation
        member = thing.members.get(name)
        return getattr(member, "annotation", None) or getattr(member, "returns", None)
