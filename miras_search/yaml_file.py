"""YAML from strangers: read without running anything, every problem with its file and line.

OmegaConf reads the values (so that 1e-3 is a number) and resolves `${a.b}`; PyYAML's node tree
gives the lines. Aliases, tags and resolvers such as `${oc.env:HOME}` are refused: a file can
neither read its surroundings nor grow beyond its size.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import OmegaConf

from miras_search.errors import InvalidValues, Path, UserError, dotted, nearest

MAX_BYTES = 64 * 1024
"""Far above any space or recipe; it bounds what references can multiply to."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+|\[\d+\])*)\}")


@dataclass(frozen=True)
class Override:
    """One `key=value` of the command line: the place it sets and the value it gives."""

    text: str
    path: Path
    value: Any

    @classmethod
    def parse(cls, text: str) -> Override:
        """Read `size.width=64` or `memory[1].depth=[1, 2]`; the value is YAML on one line.

        Raises:
            UserError: no key, or a value that is not YAML.
        """
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+|\[\d+\])*", key):
            raise UserError(f"command line '{text}': expected key=value, such as size.width=64")
        try:
            read = _read(f"value: {value}")
        except _Unreadable as error:
            raise UserError(f"command line '{text}': {told}" for _, told in error.found) from None
        return cls(text, _split(key), read[0]["value"])


@dataclass(frozen=True)
class Document:
    """The values of one file under the overrides, and where each of them was written."""

    file: str
    """Empty for data that is from no file."""
    data: dict[str, Any]
    lines: dict[Path, int]
    overrides: tuple[Override, ...] = ()
    found: tuple[tuple[Path, str], ...] = ()
    """Overrides that set nothing and references to nothing: to be told with what else is wrong."""

    @classmethod
    def load(cls, file: str | pathlib.Path, overrides: Iterable[str | Override] = ()) -> Document:
        """Read a file whose top level is a mapping, and set what the overrides say.

        Raises:
            UserError: all problems of the file and of the overrides, one line each.
        """
        problems: list[str] = []
        parsed: list[Override] = []
        for item in overrides:
            try:
                parsed.append(item if isinstance(item, Override) else Override.parse(item))
            except UserError as error:
                problems += error.problems
        try:
            data, lines = _read(_text(pathlib.Path(file)))
        except _Unreadable as error:
            problems += [f"{file}:{line}: {told}" for line, told in error.found]
            raise UserError(problems) from None
        if problems:
            raise UserError(problems)
        found = [problem for override in parsed for problem in _set(data, override)]
        for path, told in [*_dangling(data)]:
            found.append((path, told))
            _put(data, path, None)
        resolved: Any = OmegaConf.to_container(OmegaConf.create(data), resolve=True)
        return cls(str(file), resolved, lines, tuple(parsed), tuple(found))

    def problems(self, error: InvalidValues) -> list[str]:
        """One line for each problem: `FILE:LINE: dotted.path: text`, in the file's order.

        Those of `found` are always among them.
        """
        known = {path for path, _ in self.found}
        found = [*self.found, *(item for item in error.found if item[0] not in known)]
        return [told for _, told in sorted((self._told(*item) for item in found), key=_by_line)]

    def _told(self, path: Path, text: str) -> tuple[int, str]:
        for override in reversed(self.overrides):
            inside_it = path[: len(override.path)] == override.path
            made_by_it = path not in self.lines and override.path[: len(path)] == path
            if inside_it or made_by_it:
                inside = f"{dotted(path)}: " if path != override.path else ""
                return 0, f"command line '{override.text}': {inside}{text}"
        line = self.line(path)
        place = f"{self.file}:{line}: " if self.file else ""
        return line, place + (f"{dotted(path)}: {text}" if path else text)

    def line(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it that the file has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def dump(data: Any) -> str:
    """YAML that `Document.load` reads back as equal data."""
    return yaml.dump(
        data, Dumper=_Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True
    )


def flow(value: Any) -> str:
    """A value on one line, as YAML spells it."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # pyright: ignore
    """Repeats what is given twice, and quotes text that YAML 1.1 takes for text and OmegaConf for a
    number: 1e-3."""

    def ignore_aliases(self, data: Any) -> bool:
        """An alias is not read back."""
        return True

    def text(self, data: str) -> yaml.Node:
        """A string that is read as a string."""
        try:
            float(data)
        except ValueError:
            return self.represent_scalar("tag:yaml.org,2002:str", data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="'")


_Dumper.add_representer(str, _Dumper.text)


class _Unreadable(Exception):
    """Lines of a text that cannot be read, and why."""

    def __init__(self, found: Sequence[tuple[int, str]]) -> None:
        super().__init__(found)
        self.found = found


def _by_line(item: tuple[int, str]) -> int:
    return item[0]


def _text(file: pathlib.Path) -> str:
    try:
        if not file.is_file():
            if file.exists():
                raise UserError(f"{file}: expected a YAML file")
            beside = [p.name for p in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
            raise UserError(
                f"{file}: no such file" + (f"; {nearest(file.name, beside)}" if beside else "")
            )
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file}: expected at most {MAX_BYTES} bytes of YAML")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: expected text in UTF-8") from None


def _read(text: str) -> tuple[dict[str, Any], dict[Path, int]]:
    """The unresolved values of a text, and the line of each."""
    try:
        found = [*_refused(text)]
        root = None if found else yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _Unreadable([(line, f"not valid YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise _Unreadable([(1, f"not valid YAML: {str(error).splitlines()[0]}")]) from None
    except RecursionError:
        raise _Unreadable([(1, "nested too deeply")]) from None
    lines: dict[Path, int] = {(): 1}
    if isinstance(root, yaml.MappingNode):
        found = [*_walk(root, (), lines)]
    elif not found:
        given = (
            "nothing"
            if root is None
            else "a list"
            if isinstance(root, yaml.SequenceNode)
            else "a value"
        )
        found = [(1, f"expected keys and values, got {given}")]
    if found:
        raise _Unreadable(found)
    try:
        data: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except ValueError as error:  # A number of more digits than Python reads.
        raise _Unreadable([(1, f"not valid YAML: {error}")]) from None
    return data, lines


def _refused(text: str) -> Iterator[tuple[int, str]]:
    """What a file of plain values has no use for and a hostile one has."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            yield line, f"alias '*{event.anchor}' is not read: write ${{path.to.value}}"
        elif getattr(event, "tag", None) is not None:
            yield line, f"tag '{event.tag}' is not read"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > 20:
            yield line, "nested too deeply"
            return


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Iterator[tuple[int, str]]:
    """Fill in the line of each value; yield bad keys and references as they come."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            lines[*path, i] = item.start_mark.line + 1
            yield from _walk(item, (*path, i), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            place = (*path, key.value) if isinstance(key, yaml.ScalarNode) else path
            if not key.tag.endswith(":str"):
                given = key.value if isinstance(key, yaml.ScalarNode) else "a collection"
                yield line, f"expected a name as key, got {given}"
            elif place in lines:
                yield line, f"{dotted(place)}: key given twice, first on line {lines[place]}"
            else:
                lines[place] = line
                yield from _walk(value, place, lines)
    elif "${" in _REFERENCE.sub("", node.value):
        line = node.start_mark.line + 1
        yield line, f"{dotted(path)}: only plain references such as ${{a.b}} are read"


def _split(key: str) -> Path:
    parts = re.findall(r"\w+", key)
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _set(data: Any, override: Override) -> Iterator[tuple[Path, str]]:
    """Set one value in place, making mappings on the way; yield why it cannot be."""
    try:
        _put(data, override.path, override.value)
    except (TypeError, IndexError):
        yield override.path, f"there is no {dotted(override.path)} to set"


def _put(data: Any, path: Path, value: Any) -> None:
    *parents, last = path
    for part in parents:
        data = data.setdefault(part, {}) if isinstance(data, dict) else data[part]
    data[last] = value


def _dangling(data: Any) -> Iterator[tuple[Path, str]]:
    """References to nothing, and to other references: chains could multiply without end."""
    for path, value in _leaves(data, ()):
        for key in _REFERENCE.findall(value) if isinstance(value, str) else ():
            target = data
            try:
                for part in _split(key):
                    if isinstance(target, str):
                        raise TypeError
                    target = target[part]
            except (KeyError, IndexError, TypeError):
                yield path, f"'${{{key}}}' refers to nothing in this file"
                continue
            if any("${" in leaf for _, leaf in _leaves(target, ()) if isinstance(leaf, str)):
                yield path, f"'${{{key}}}' refers to a reference: name what that refers to"


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from _leaves(item, (*path, key))
    else:
        yield path, value
