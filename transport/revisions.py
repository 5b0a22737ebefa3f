"""The protocol's revisions: which there are, which one a message is of, and what depends on that.

Pure. Nothing else in the gateway names a revision; what is particular to the one without sessions is in `modern.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from actors.jsonrpc import Message
from actors.reading import reader

HANDSHAKE_REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_REVISIONS = ("2026-07-28",)  # without sessions: every request stands for itself
REVISION_WITHOUT_HEADER = "2025-03-26"  # what a missing MCP-Protocol-Version means, if nothing else tells
BATCH_REVISION = "2025-03-26"  # the one that has batches: receivers MUST take them (basic, Batching)
PRIMED_SINCE = "2025-11-25"  # older clients would parse the empty data of a priming event as JSON

VERSION_HEADER = "mcp-protocol-version"


def is_modern(method: str, headers: Mapping[str, str]) -> bool:
    """Say whether a request is of a revision without sessions: its header tells, for each request by itself.

    A POST with a version that nobody knows is one, too: those revisions have an answer to it that names what is
    supported. A GET or a DELETE with such a version may be a session's, and gets the answer that sessions have.
    """
    version = headers.get(VERSION_HEADER)
    if version is None or version in HANDSHAKE_REVISIONS:
        return False
    return method == "POST" or version in MODERN_REVISIONS


def wants_priming(headers: Mapping[str, str], negotiated: str) -> bool:
    """Whether this client takes priming events: since 2025-11-25, by the header, else by what was negotiated."""
    return headers.get(VERSION_HEADER, negotiated) >= PRIMED_SINCE  # revisions are dates: they sort


def negotiated_revision(initialize_answer: bytes) -> str:
    """Read the protocol revision from the answer to `initialize`."""
    try:
        result = _decode_initialize_answer(initialize_answer).result
    except msgspec.MsgspecError:
        return REVISION_WITHOUT_HEADER
    return REVISION_WITHOUT_HEADER if result is msgspec.UNSET else result.protocolVersion


def offered(message: Message) -> Message:
    """Give the opening as the upstream is to see it: with a revision that the gateway carries.

    One that it does not know becomes the newest that it does, which is also what a server would answer (lifecycle,
    Version Negotiation). Otherwise client and upstream might agree on what is not understood in between. Everything
    else stays as it is; what is malformed is for the upstream to refuse.
    """
    try:
        params = _decode_opening(message.raw).params
        if params is msgspec.UNSET or params.protocolVersion in HANDSHAKE_REVISIONS:
            return message
        fields = _decode_fields(message.raw)
        inner = _decode_fields(fields["params"])
    except msgspec.MsgspecError:
        return message
    inner["protocolVersion"] = msgspec.Raw(_encode(HANDSHAKE_REVISIONS[-1]))
    fields["params"] = msgspec.Raw(_encode(inner))
    return msgspec.structs.replace(message, raw=_encode(fields))


class _VersionOnly(msgspec.Struct, gc=False):
    protocolVersion: str = REVISION_WITHOUT_HEADER


class _InitializeAnswer(msgspec.Struct, gc=False):
    result: _VersionOnly | msgspec.UnsetType = msgspec.UNSET


class _OpeningParams(msgspec.Struct, gc=False):
    params: _VersionOnly | msgspec.UnsetType = msgspec.UNSET


_decode_initialize_answer = reader(_InitializeAnswer)
_decode_opening = reader(_OpeningParams)
_decode_fields = reader(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
