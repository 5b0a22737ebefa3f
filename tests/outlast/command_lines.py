"""Command lines as documents and files for deploying show them: cut out of shell, and judged without being run.

A program that is not known here is found wrong, so that whoever shows a new one says how it is checked. Of programs
that are not ours nothing is checked but that they are meant (`FOREIGN`).
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import click

from outlast.cli import _program

ROOT = Path(__file__).parents[2]
FOREIGN = {"claude", "journalctl", "kubectl", "npx", "pip", "podman", "systemctl"}
# Shell's own, and the tools that scripts in documents are put together with.
PLAIN = {"cat", "cd", "cp", "done", "echo", "export", "for", "kill", "mkdir", "printf", "sed", "sleep", "wait"}
CURL_FLAGS = {"-s", "-sf", "-f", "-N", "-D", "-H", "-d", "-X", "-i", "-o", "-w"}

_CONTINUED = re.compile(r"\\\n\s*")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_HERE_DOCUMENT = re.compile(r"<<'?(\w+)'?\n.*?^\1$", re.DOTALL | re.MULTILINE)
_REDIRECTED = re.compile(r"(?<=\s)2?[<>]{1,2} ?[^\s;|&]+")
_SUBSTITUTED = re.compile(r"\$\(([^()]+)\)")
_IN_FRONT = {"{", "}", "do", "exec", "then", "until"}  # of a command, in the same line
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_FUNCTION = re.compile(r"^(\w+)\(\) \{", re.MULTILINE)
_MAKE_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
_MAKE_VARIABLE = re.compile(r"^([A-Z]+) \?=", re.MULTILINE)


def parses(arguments: Sequence[str], program: click.Group = _program) -> bool:
    """Whether a click program would understand this command line; nothing is run."""
    context = click.Context(program, info_name="outlast")
    if list(arguments) in (["--version"], ["--help"]):
        return True
    try:
        name, command, rest = program.resolve_command(context, list(arguments))
        assert command is not None
        if isinstance(command, click.Group):
            return parses(rest, command)
        command.make_context(name, rest, parent=context, resilient_parsing=False).close()
    except click.BadParameter as error:
        return "does not exist" in error.format_message()  # a file that is named need not be there
    except click.exceptions.Exit:
        return True  # it was asked for help
    except click.UsageError:
        return False
    return True


def commands_of(script: str) -> Iterator[list[str]]:
    """Give each simple command of a script, those in substitutions, too; without assignments and redirections.

    Args:
      script: shell; what it feeds to its commands (here-documents) is left out.
    """
    plain = _CONTINUED.sub(" ", script)
    for pattern in (_HERE_DOCUMENT, _COMMENT, _FUNCTION, _REDIRECTED):
        plain = pattern.sub("", plain)
    for inner in _SUBSTITUTED.findall(plain):
        yield from commands_of(inner)
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=";|&()\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    command: list[str] = []
    for token in [*lexer, "\n"]:
        if token and set(token) <= set(";|&()\n"):
            if command:
                yield command
            command = []
        elif command or not (_ASSIGNMENT.match(token) or token in _IN_FRONT):
            command.append(token)


def wrong_commands(script: str) -> list[str]:
    """Find the commands of a script that their programs would not understand."""
    functions = set(_FUNCTION.findall(script))
    return [" ".join(command) for command in commands_of(script) if not is_understood(command, functions)]


def is_understood(command: Sequence[str], functions: Collection[str] = ()) -> bool:
    """Whether the program of a command exists, and its arguments say something to it."""
    program, arguments = command[0].removeprefix("/opt/outlast/bin/"), list(command[1:])
    if program in FOREIGN | PLAIN or program in functions:
        return True
    judge = _JUDGES.get(program)
    return judge is not None and judge(arguments)


def _make(arguments: list[str]) -> bool:
    makefile = (ROOT / "Makefile").read_text()
    known = {"target": _MAKE_TARGET.findall(makefile), "variable": _MAKE_VARIABLE.findall(makefile)}
    return all(
        argument.partition("=")[0] in known["variable"] if "=" in argument else argument in known["target"]
        for argument in arguments
    )


def _curl(arguments: list[str]) -> bool:
    return {argument for argument in arguments if argument.startswith("-")} <= CURL_FLAGS


def _python(arguments: list[str]) -> bool:
    match arguments:
        case ["-m", "pytest", *_]:
            return True
        case ["-c", program]:
            return bool(compile(program, "<command line>", "exec"))
        case ["-m", "venv", _]:
            return True
        case ["-m", ("bench" | "tests.faults") as module, *rest]:
            return _module(module, rest)
        case [path, *_] if path.endswith(".py"):
            return (ROOT / path).exists()
    return False


def _module(name: str, arguments: list[str]) -> bool:
    program = importlib.import_module(f"{name}.__main__").main
    if isinstance(program, click.Group):
        return parses(arguments, program)
    try:
        program.make_context(name, list(arguments)).close()
    except click.UsageError:
        return False
    return True


_JUDGES: Mapping[str, Callable[[list[str]], bool]] = {
    "outlast": parses,
    "make": _make,
    "curl": _curl,
    "python": _python,
    "python3": _python,
    ".venv/bin/python": _python,
}
