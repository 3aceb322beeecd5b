"""The command line: what is typed becomes a call of a command, and an error one clear line."""

from __future__ import annotations

import argparse
import os
import sys
from errno import (
    EACCES,
    EDQUOT,
    EEXIST,
    EFBIG,
    EIO,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENOSPC,
    ENOTDIR,
    EPERM,
    EROFS,
    ESTALE,
)
from functools import partial
from importlib import metadata
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from miras_search.commands import ARGUMENTS, COMMANDS, MANY, unread
from miras_search.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

OF_FILES = {EACCES, EPERM, EEXIST, EISDIR, ENOTDIR, EROFS, ENOSPC, EDQUOT, EFBIG, EIO, ESTALE}
OF_FILES |= {ENAMETOOLONG, ELOOP}
"""Rights, something else in the way, no room, a disk that fails, a name that can be none: no fault
of this program."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 is done, 1 no trial completed or a replay differs, 2 bad input, 130 stopped
    by Ctrl-C."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # which may know fewer letters than we use
        sys.stdout.reconfigure(errors="replace")
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(parser)
    # Flags first: argparse takes none between a positional argument and a list of them.
    flags = [word for word in words if word.startswith("-") and not word[1:].isdecimal()]
    try:
        _check_command(words)
        options = parser.parse_args([*words[:1], *flags, *(w for w in words[1:] if w not in flags)])
        code = options.run(options)
        sys.stdout.flush()  # here, where it may be that nobody reads
        return code
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        unread()
        return 0
    except OSError as error:
        if error.errno not in OF_FILES:
            raise
        where = error.filename2 or error.filename
        print(f"error: {f'{where}: ' if where else ''}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: run it again to go on", file=sys.stderr)
        return 130


def _check_command(words: Sequence[str]) -> None:
    known = [command.name for command in COMMANDS]
    if words and not words[0].startswith("-") and words[0] not in known:
        raise UserError(f"unknown command '{words[0]}': {nearest(words[0], known)}")


def _parser() -> argparse.ArgumentParser:
    def parser(make: Callable[..., Any], told: str, more: str, **how: Any) -> Any:
        raw = argparse.RawDescriptionHelpFormatter
        return make(description=told, epilog=more, formatter_class=raw, **how)

    examples = "\n".join(f"  miras-search {command.example}" for command in COMMANDS)
    told = "Search the MIRAS design space of memories that learn while they read."
    more = f"examples:\n{examples}\n\nmiras-search COMMAND --help says more of each."
    root = parser(argparse.ArgumentParser, told, more, prog="miras-search")
    root.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        more = f"example:\n  miras-search {command.example}\n\nresults:\n  {command.results}"
        make = partial(commands.add_parser, command.name, help=command.told)
        added = parser(make, f"{command.told[0].upper()}{command.told[1:]}.", more)
        added.set_defaults(run=command.run)
        for name in command.arguments:
            how: dict[str, Any] = {"metavar": MANY.get(name, name.upper())}
            how |= {"nargs": "*"} if name in MANY else {}
            # With a default argparse does not call it required.
            how |= {"default": []} if MANY.get(name) == "key=value" else {}
            if name == "what":
                how |= {"nargs": "?", "choices": ["axes", "tasks", "published"], "default": "axes"}
            argument = added.add_argument(name, help=ARGUMENTS[name], **how)
            if name != "what":
                argument.completer = partial(_offered, name)
        if command.json:
            added.add_argument("--json", action="store_true", help="print JSON")
    return root


def _version() -> str:
    try:
        return metadata.version("miras-search")
    except metadata.PackageNotFoundError:
        return "from a folder that is not installed"


def _offered(argument: str, **asked: Any) -> Iterable[str]:
    from miras_search.completion import offered

    return offered(argument, **asked)
