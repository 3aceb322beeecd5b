"""What the site has beside the files of this folder: the choices as they are registered, the public
Python interface, and files elsewhere in the repository that pages name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

import miras_search
from miras_search import registry
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

LINK = re.compile(r"(?<=\]\()(?!\w+:)[\w-]*[./][\w./-]*")

TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
}
ENDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
    "multipleOf": "in steps of",
}
"""How the words of a JSON schema are read out."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page that is made here."""
    made = {page: (ROOT / file).read_text() for file, page in PAGES.items()}
    made |= {f"choices/{group}.md": choices(group) for group in (*registry.CHOICES, "task")}
    made["python.md"] = python()
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
    return (ROOT / path).read_text()


def choices(group: str) -> str:
    """A page on all kinds of an axis, or on all tasks."""
    title = "Tasks" if group == "task" else group.capitalize()
    told = [
        f"# {title}",
        f"What the fields mean together: [Spaces and recipes](../spaces.md#{group}).",
    ]
    for kind, cls in registry.kinds(group).items():
        told += [f"## {kind}", plain(cls.__doc__), f"```text\n{cls.equation}\n```"]
        told += [f"Source: {cls.source}.", "\n".join(settings(group, cls))]
    return "\n\n".join(filter(None, told))


def settings(group: str, cls: type[Component]) -> Iterator[str]:
    """The lines of a table of the fields."""
    if cls.model_fields:
        yield "| setting | values | default | meaning |"
        yield "| --- | --- | --- | --- |"
    fields = cls.model_json_schema(mode="serialization")["properties"] if cls.model_fields else {}
    for name, schema in fields.items():
        default = flow(schema["default"])
        meaning = meanings(group).get((cls.kind, name), "")
        yield f"| `{name}` | {values(schema)} | `{default}` | {meaning} |"


def values(schema: dict[str, Any]) -> str:
    """What a field takes, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(values(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "items" in schema:
        inside = ", ".join(values(each) for each in schema["items"].get("prefixItems", []))
        return f"a list of [{inside}]" if inside else "a list"
    ends = [f"{word} {schema[key]:g}" for key, word in ENDS.items() if key in schema]
    return " ".join([TYPES[schema["type"]], ", ".join(ends)]).strip()


@cache
def meanings(group: str) -> dict[tuple[str, str], str]:
    """What docs/spaces.md says of the fields of each kind."""
    section = read("docs/spaces.md").partition(f"\n#### {group}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| .* \| .* \| (.*) \|$", section, re.MULTILINE)
    return {(kind, field): meaning for kind, field, meaning in rows}


def plain(docstring: str | None) -> str:
    return re.sub(r"\n +", "\n", docstring or "").strip()


def python() -> str:
    """The public Python interface, from its docstrings."""
    told = ["# Python"]
    told += [f"::: miras_search.{module}.{name}" for name, module in miras_search._PUBLIC.items()]
    return "\n\n".join(told)
