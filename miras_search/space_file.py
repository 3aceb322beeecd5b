"""From the files of a space to its parts: includes merged, unions spread, problems gathered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path as File
from typing import Any

from miras_search import parsing, shipped
from miras_search.errors import InvalidValues, Path, UserError, nearest
from miras_search.node_parsing import parse_choice, parse_field
from miras_search.nodes import Node
from miras_search.registry import AXES, CHOICES
from miras_search.space import Part, Space
from miras_search.variant import Variant
from miras_search.where import Rule
from miras_search.yaml_file import Document, Override

COMPOSITION = ("name", "source", "include", "union", "where")
KEYS = (*COMPOSITION, *Variant.model_fields)
"""The top-level keys of a space."""


def load(file: str | File, overrides: Iterable[str | Override] = ()) -> Space:
    """See `Space.load`."""
    file = shipped.space(file)
    document = Document.load(file, overrides)
    return _space(_Source(document.data, document, stack=(file.resolve(),)), file.stem)


def from_dict(data: Mapping[str, Any], name: str) -> Space:
    """See `Space.from_dict`."""
    if not isinstance(data, Mapping):
        raise InvalidValues([((), f"expected keys and values, got {data!r}")])
    return _space(_Source(data, Document("", dict(data), {})), name)


@dataclass(frozen=True)
class _Source:
    """A mapping to read, the place `at` which its document has it, and the files being read."""

    data: Mapping[str, Any]
    document: Document
    at: Path = ()
    stack: tuple[File, ...] = ()


@dataclass
class _Draft:
    """A part being put together; a node is None where its value was wrong."""

    label: str = ""
    nodes: dict[str, Node | None] = field(default_factory=dict)
    where: dict[Rule, None] = field(default_factory=dict)

    def over(self, other: _Draft, label: str) -> _Draft:
        """Both, with the nodes of this one where both have them."""
        return _Draft(label, other.nodes | self.nodes, other.where | self.where)

    def part(self) -> Part:
        nodes = [(name, self.nodes.get(name)) for name in Variant.model_fields]
        given = tuple((name, node) for name, node in nodes if node is not None)
        return Part(self.label, given, tuple(self.where))


def _space(source: _Source, name: str) -> Space:
    reader = _Reader()
    drafts = reader.read(source)
    for draft in drafts if reader.complete else ():
        missing = [axis for axis in AXES if axis not in draft.nodes]
        at, of = (("union",), f" in {draft.label}") if draft.label else ((), "")
        reader.tell(source, *(((*at,), f"the axis '{axis}' is required{of}") for axis in missing))
    for i, draft in enumerate(drafts):
        if draft.label in [other.label for other in drafts[:i]]:
            reader.tell(source, (("union",), f"two sub-spaces are called '{draft.label}'"))
    if not reader.problems:
        data, parts = source.data, tuple(draft.part() for draft in drafts)
        space = Space(data.get("name", name), parts, data.get("source"))
        try:
            space.require_feasible()
            return space
        except UserError as error:
            at = ("where",) if "where" in source.data else ()
            reader.tell(source, (at, str(error)))
    raise UserError(dict.fromkeys(reader.problems))


@dataclass
class _Reader:
    """Reads mappings and the files they name; keeps every problem as a finished line."""

    problems: list[str] = field(default_factory=list)
    complete: bool = True
    """Whether every file that was named could be read."""

    def read(self, source: _Source) -> list[_Draft]:
        """The parts of a mapping: one, or those of its union."""
        draft = _Draft()
        self.tell(source)
        for place, name in self.listed(source, "include"):
            included = self.named(source, place, name)
            if len(included) > 1:
                self.tell(source, (place, f"'{name}' is a union: name it under union"))
            for other in included[:1]:
                draft = other.over(draft, "")
        draft = self.own(source).over(draft, "")
        if "union" not in source.data:
            return [draft]
        drafts: list[_Draft] = []
        for place, item in self.listed(source, "union"):
            if isinstance(item, Mapping):
                label = str(item.get("name", place[-1]))
                below = self.read(replace(source, data=item, at=(*source.at, *place)))
            else:
                label, below = str(item), self.named(source, place, item)
            drafts += [
                other.over(draft, f"{label}/{other.label}" if len(below) > 1 else label)
                for other in below
            ]
        return drafts

    def own(self, source: _Source) -> _Draft:
        """What the mapping itself says of nodes and rules."""
        draft = _Draft()
        for key, value in source.data.items():
            place = (*source.at, key)
            try:
                if key in Variant.model_fields:
                    draft.nodes[key] = None
                    draft.nodes[key] = _node(key, value, place)
                elif key not in COMPOSITION:
                    raise InvalidValues([(place, parsing.unknown_key(key, KEYS))])
                elif key in ("name", "source") and not (isinstance(value, str) and value):
                    raise InvalidValues([(place, f"expected text, got {value!r}")])
            except InvalidValues as error:
                self.problems += source.document.problems(error)
        for place, text in self.listed(source, "where"):
            try:
                draft.where[Rule.parse(text, (*source.at, *place))] = None
            except InvalidValues as error:
                self.problems += source.document.problems(error)
        return draft

    def named(self, source: _Source, place: Path, name: Any) -> list[_Draft]:
        """The parts of the file that an include or a union names; none if it has none."""
        try:
            file = _found(name, source.stack)
            document = Document.load(file)
        except InvalidValues as error:
            self.tell(source, (place, str(error)))
        except UserError as error:
            self.problems += error.problems
        else:
            return self.read(_Source(document.data, document, stack=(*source.stack, file)))
        self.complete = False
        return []

    def listed(self, source: _Source, key: str) -> list[tuple[Path, Any]]:
        """The items under a key, each with its place; a single text may stand without a list."""
        if key not in source.data:
            return []
        items = source.data[key]
        if isinstance(items, str):
            return [((key,), items)]
        if not isinstance(items, list) or not items:
            self.tell(source, ((key,), f"expected a list, got {items!r}"))
            return []
        return [((key, i), item) for i, item in enumerate(items)]

    def tell(self, source: _Source, *found: tuple[Path, str]) -> None:
        """Keep problems, each at a place below the source."""
        error = InvalidValues([((*source.at, *place), text) for place, text in found])
        self.problems += source.document.problems(error)


def _node(key: str, value: Any, place: Path) -> Node:
    if key in CHOICES:
        return parse_choice(key, value, place)
    return parse_field(value, place, partial(parsing.field_value, Variant, key))


def _found(name: Any, stack: tuple[File, ...]) -> File:
    """The file of a named sub-space: beside the file that names it, or shipped.

    Raises:
        InvalidValues: there is none, or it is being read already.
    """
    if not isinstance(name, str):
        raise InvalidValues([((), f"expected the name of a space, got {name!r}")])
    spelled = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    folders = dict.fromkeys([*(file.parent for file in stack[-1:]), shipped.SPACES])
    file = next((f for folder in folders if (f := (folder / spelled).resolve()).is_file()), None)
    if file is None:
        known = [
            shown.relative_to(folder).with_suffix("").as_posix()
            for folder in folders
            for shown in [*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]
        ]
        raise InvalidValues([((), f"no space '{name}': {nearest(name, known)}")])
    if file in stack:
        cycle = " -> ".join(seen.stem for seen in (*stack[stack.index(file) :], file))
        raise InvalidValues([((), f"'{name}' includes itself: {cycle}")])
    return file
