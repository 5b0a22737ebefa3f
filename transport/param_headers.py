"""`Mcp-Param-*`: which parameters of a tool headers mirror, and whether a call's headers say what its body says.

A tool says so in its input schema: a property with `x-mcp-header: Region` is mirrored by `Mcp-Param-Region`. Whoever
routes by the header and whoever runs the call by the body must not be told two things (MCP 2026-07-28,
basic/transports/streamable-http, Custom Headers from Tool Parameters). Pure.

The rules are the specification's; where it is silent, those of the reference server (the Python SDK): a header whose
parameter is absent is refused too, and a schema that breaks the rules declares nothing, since clients drop its tool.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import msgspec

from actors.reading import reader
from transport.modern import PARAM_PREFIX, ModernRequest, decode_value
from transport.upstreams.renaming import value_at

KEY = "x-mcp-header"
_TYPES = ("string", "integer", "boolean")  # `number` is not allowed: its texts differ between languages
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_CHARACTERS_MAX = 64  # longer ones are compared as texts
_SHOWN_CHARACTERS = 60

# Where JSON Schema 2020-12 (and 7, of which many schemas are) has schemas within a schema, besides `properties`. All
# other keywords hold data, in which the key may stand by chance.
_SUBSCHEMAS = frozenset(
    ("items", "contains", "additionalItems", "additionalProperties", "propertyNames", "contentSchema")
    + ("unevaluatedItems", "unevaluatedProperties", "not", "if", "then", "else", "allOf", "anyOf", "oneOf")
    + ("prefixItems",)
)
_NAMED_SUBSCHEMAS = frozenset(("patternProperties", "dependentSchemas", "$defs", "definitions", "dependencies"))

_decode = reader(Any)
_decode_text = reader(str)

Path = tuple[str, ...]


class InvalidDeclaration(ValueError):
    """A schema's annotations break the rules; clients must not use its tool."""


@attrs.frozen
class Declared:
    """A parameter that a header mirrors."""

    header: str  # its name, in lower case
    path: Path  # where its value is in the call's arguments


def declared_in(schema: bytes) -> tuple[Declared, ...]:
    """Read which parameters of a tool are mirrored.

    Args:
      schema: the tool's input schema, as JSON.

    Raises:
      InvalidDeclaration
    """
    if KEY.encode() not in schema:
        return ()
    try:
        root = _decode(schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDeclaration(f"the input schema cannot be read: {error}") from None
    found: dict[str, Declared] = {}
    for path, node in _schemas_in(root):
        if KEY not in node:
            continue
        declared = _declared(path, node)
        if declared.header in found:
            raise InvalidDeclaration(f"two parameters have the header {declared.header}")
        found[declared.header] = declared
    return tuple(found.values())


def difference(declared: Sequence[Declared], request: ModernRequest) -> str:
    """Say in what a call's headers and its arguments differ; "" if they agree."""
    headers = dict(request.headers)
    for each in declared:
        value = value_at(request.message.raw, ("params", "arguments", *each.path))
        problem = _problem(headers, each, b"null" if value is None else value.strip())
        if problem:
            return problem
    return ""


def _schemas_in(root: object) -> Iterator[tuple[Path | None, Mapping[str, Any]]]:
    """Give every schema within a schema, with the names of the properties that lead to it; None: others do, too."""
    waiting: list[tuple[Path | None, object]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for keyword, value in node.items():
            if keyword == "properties" and isinstance(value, dict):
                waiting += [(None if path is None else (*path, name), each) for name, each in value.items()]
            elif keyword in _NAMED_SUBSCHEMAS and isinstance(value, dict):
                waiting += [(None, each) for each in value.values()]
            elif keyword in _SUBSCHEMAS:
                waiting += [(None, each) for each in (value if isinstance(value, list) else [value])]


def _declared(path: Path | None, node: Mapping[str, Any]) -> Declared:
    if not path:
        raise InvalidDeclaration(f"{KEY} stands where no chain of `properties` leads to")
    where, token = ".".join(path)[:_SHOWN_CHARACTERS], node[KEY]
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise InvalidDeclaration(f"{KEY} of {where} is no name of a header")
    if node.get("type") not in _TYPES:
        raise InvalidDeclaration(f"{KEY} of {where}: its type must be one of {', '.join(_TYPES)}")
    return Declared(PARAM_PREFIX + token.lower(), path)


def _problem(headers: Mapping[str, str], declared: Declared, value: bytes) -> str:
    header, where = headers.get(declared.header), f"the body's params.arguments.{'.'.join(declared.path)}"
    has_text = value != b"null" and value[:1] not in (b"{", b"[")  # what is no text has no header, either
    if header is None:
        return f"the {declared.header} header is missing; it must be {where}" if has_text else ""
    if not has_text:
        return f"the {declared.header} header is there, {where} is not"
    decoded = decode_value(header)
    if decoded is None:
        return f"the {declared.header} header is not correctly base64-encoded"
    if not _is_same(decoded, value):
        return f"{declared.header} is {decoded[:_SHOWN_CHARACTERS]!r}, {where} is something else"
    return ""


def _is_same(header: str, value: bytes) -> bool:
    if value[:1] == b'"':
        return header == _decode_text(value)
    text = value.decode()
    return header == text or _is_same_number(header, text)


def _is_same_number(one: str, other: str) -> bool:
    """Whether both are the same number, however written: 42.0 is 42 (Server Validation, note)."""
    if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
        return False
    if max(len(one), len(other)) > _NUMBER_CHARACTERS_MAX:
        return False
    try:
        return decimal.Decimal(one) == decimal.Decimal(other)
    except decimal.InvalidOperation:  # an exponent that no machine has
        return False
