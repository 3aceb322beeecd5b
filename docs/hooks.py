"""What the site has beside the files of this folder: the choices as they are registered, the public
Python interface, and files elsewhere in the repository that pages name."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from statistics import mean
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

import miras_search
from miras_search import registry
from miras_search.benchmark.table import Table
from miras_search.report import dots, svg
from miras_search.yaml_file import flow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

    from miras_search.component import Component

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files beside this folder that are pages of the site."""

BASES = [f"{package}.base" for package in (*registry.CHOICES, "tasks")]
PYTHON = {
    "python/index.md": ("The package", miras_search.__all__),
    "python/components.md": ("Components", ["registry.register", "component", *BASES]),
    "python/testing.md": ("The testing kit", ["testing"]),
}
"""The public interface: pages, their titles, and what of the package they are about."""

LINK = re.compile(r"(?<=\]\()(?!\w+:)[\w-]*[./][\w./-]*")

TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
}
ENDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
    "multipleOf": "a multiple of",
}
"""How the words of a JSON schema are read out."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page that is made here."""
    made = {page: (ROOT / file).read_text() for file, page in PAGES.items()}
    made |= {f"choices/{group}.md": choices(group) for group in (*registry.CHOICES, "task")}
    for page, (title, names) in PYTHON.items():
        made[page] = "\n\n".join([f"# {title}", *(f"::: miras_search.{name}" for name in names)])
    written = {f"docs/{page.src_uri}": page.content_string for page in files.documentation_pages()}
    written |= {file: made[page] for file, page in PAGES.items()}
    for file, text in written.items():
        for path in (normpath(join(dirname(file), link[0])) for link in LINK.finditer(text)):
            if path not in PAGES and not path.startswith("docs/"):
                made[site(path)] = f"# {path}\n\n~~~~{path.rpartition('.')[2]}\n{read(path)}~~~~\n"
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files become links between pages."""
    here = page.file.src_uri
    file = next((file for file, made in PAGES.items() if made == here), f"docs/{here}")
    if file.startswith("docs/") and page.file.generated_by:
        return markdown
    return LINK.sub(
        lambda link: relpath(site(normpath(join(dirname(file), link[0]))), dirname(here) or "."),
        markdown,
    )


def site(path: str) -> str:
    """The page, below docs/, of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path, f"source/{path}.md")


def read(path: str) -> str:
    """A file of the repository."""
    return (ROOT / path).read_text()


def choices(group: str) -> str:
    """A page on all kinds of an axis, or on all tasks."""
    told = [f"# {'Tasks' if group == 'task' else group.capitalize()}", *recorded(group)]
    for kind, cls in registry.kinds(group).items():
        equation = cls.equation.replace(";  ", "\n")
        told += [f"## {kind}", prose(inspect.getdoc(cls) or "")]
        told += [f"``` {{ .text .no-copy }}\n{equation}\n```", f"Source: {cited(cls.source)}."]
        told += ["\n".join(settings(group, cls))]
    return "\n\n".join(told)


def recorded(group: str) -> Iterator[str]:
    """A figure of what is known of the kinds of an axis: the scores of the table that ships."""
    table = Table.load("recall")
    if group not in table.trials.column_names or len(set(table.trials[group].to_pylist())) == 1:
        return
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    columns = (table.trials[name].to_pylist() for name in (group, "digest", "score"))
    for choice, digest, score in zip(*columns, strict=True):
        scores[choice.partition("(")[0], digest].append(score)
    kinds: dict[str, list[float]] = defaultdict(list)
    for (kind, _), found in scores.items():
        if None not in found:
            kinds[kind].append(mean(found))
    best_first = sorted(kinds.items(), key=lambda kind: -max(kind[1]))
    rows = []
    for kind, found in best_first:
        *others, best = map(dots.Dot, sorted(found))
        rows.append(dots.Row(kind, others, best))
    title = f"Accuracy by {group}"
    drawing = dots.draw(group, title, rows, "validation accuracy (higher is better)", {})
    yield (
        f"The {len(scores)} variants of the [recorded table](../search.md#recorded-tables) by "
        f"{group}, each at its mean over three seeds; filled: the best. Variants in a row differ "
        "in their other choices as well: a hint, not an effect. Other kinds are not in the table."
    )
    yield f"<figure>{' '.join(svg.on_page(drawing).split())}</figure>"


def settings(group: str, cls: type[Component]) -> Iterator[str]:
    """The lines of a table of the fields, with what each means where that is told."""
    fields = cls.model_json_schema(mode="serialization")["properties"] if cls.model_fields else {}
    told = meanings(group).get(cls.kind, {})
    if fields:
        yield "| setting | values | default |" + (" meaning |" if told else "")
        yield "| --- | --- | --- |" + (" --- |" if told else "")
    for name, schema in fields.items():
        *most, last = values(schema)
        taken = f"{', '.join(most)} or {last}" if most else last
        row = f"| `{name}` | {taken} | `{flow(schema['default'])}` |"
        yield row + (f" {told.get(name, '')} |" if told else "")


def values(schema: dict[str, Any]) -> list[str]:
    """What a field takes, in words, from its JSON schema."""
    if "anyOf" in schema:
        return [value for each in schema["anyOf"] for value in values(each)]
    if "enum" in schema:
        return [f"`{value}`" for value in schema["enum"]]
    if "items" in schema:
        inside = [
            value for each in schema["items"].get("prefixItems", []) for value in values(each)
        ]
        return [f"a list of [{', '.join(inside)}]" if inside else "a list"]
    ends = " and ".join(f"{word} {schema[key]:g}" for key, word in ENDS.items() if key in schema)
    return [f"{TYPES[schema['type']]} {ends}".strip()]


@cache
def meanings(group: str) -> dict[str, dict[str, str]]:
    """What docs/spaces.md says of the fields of each kind, with links from a folder below."""
    section = read("docs/spaces.md").partition(f"\n#### {group}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| .* \| .* \| (.*) \|$", section, re.MULTILINE)
    found: dict[str, dict[str, str]] = {}
    for kind, field, meaning in rows:
        found.setdefault(kind, {})[field] = LINK.sub(r"../\g<0>", meaning)
    return found


def prose(text: str) -> str:
    """A docstring as Markdown: outside of code, signs of mathematics stand for themselves."""
    sign = re.compile(r"^ {4}.*$|`[^`]*`|[<_*]", re.MULTILINE)
    return sign.sub(lambda m: f"&#{ord(m[0])};" if len(m[0]) == 1 else m[0], text)


def cited(source: str) -> str:
    """A source with its arXiv numbers as links."""
    return re.sub(r"\b(\d{4}\.\d{4,5})\b", r"[\1](https://arxiv.org/abs/\1)", source)
