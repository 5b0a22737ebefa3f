"""Headers for an upstream, from a file and the environment: credentials stay out of command lines.

A command line is seen by every user of the machine, and by whoever reads a process list in a bug report. So a header's
value is named (a file, a variable), never given. No error of this file quotes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from outlast.kinds import Refused
from transport.upstreams.http_target import check_headers

FILE_BYTES_MAX = 64 * 1024


def read_headers(
    files: tuple[Path, ...], token_variable: str | None, environment: Mapping[str, str]
) -> Mapping[str, str]:
    """Read headers that are to be sent with every request.

    Args:
      files: each with one `Name: value` in a line; empty lines and those that begin with '#' are passed over.
      token_variable: names a variable that holds a token, sent as `Authorization: Bearer TOKEN`.

    Raises:
      Refused: with a line for each thing that is wrong.
    """
    headers: dict[str, str] = {}
    problems: list[str] = []
    for file in files:
        try:
            _add(headers, _read_file(file), str(file))
        except Refused as refused:
            problems.extend(refused.problems)
    if token_variable is not None:
        token = environment.get(token_variable, "").strip()
        if token:
            problems += _problems_of(headers, "Authorization", f"Bearer {token}", f"--token-env {token_variable}")
            headers["Authorization"] = f"Bearer {token}"
        else:
            problems.append(f"--token-env {token_variable}: this variable is not set, or empty")
    if problems:
        raise Refused(*problems)
    return headers


def _read_file(file: Path) -> list[tuple[int, str]]:
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(f"--header-file {file}: {error.strerror or error}") from None
    if len(data) > FILE_BYTES_MAX:
        raise Refused(f"--header-file {file}: it has more than {FILE_BYTES_MAX} bytes; headers have a few hundred")
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise Refused(f"--header-file {file}: it is not UTF-8 text") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]


def _add(headers: dict[str, str], lines: list[tuple[int, str]], file: str) -> None:
    problems: list[str] = []
    for number, line in lines:
        place = f"--header-file {file}, line {number}"
        name, colon, value = line.partition(":")
        if not colon:
            problems.append(f"{place}: write NAME: VALUE")
            continue
        problems += _problems_of(headers, name.strip(), value.strip(), place)
        headers[name.strip()] = value.strip()
    if problems:
        raise Refused(*problems)


def _problems_of(headers: Mapping[str, str], name: str, value: str, place: str) -> list[str]:
    try:
        check_headers({name: value})
    except ValueError as error:
        return [f"{place}: {error}"]
    if name.lower() in (known.lower() for known in headers):
        return [f"{place}: header {name!r} is there twice"]
    return []
