"""Writes the golden records of the present schema version, once:

    python -m tests.persistence.make_golden

into `golden/vN/`: one file of bytes for each record, as a store would hold it, and `expected.json`, which says what
each is about and what it has to hold when it is opened. They are written in every way there is: plain, compressed,
encrypted, both. Released records are decoded by `test_golden.py` for ever, so what is there is never written again
(the command refuses); a new version of the schema, a new dictionary or another way of sealing gets records beside them.

Bytes stand in the JSON as {"base64": "..."}. The key is a test's and guards nothing.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from persistence.codec import Codec
from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.schema import SCHEMA_VERSION
from tests.persistence.sealed_codecs import CODECS

GOLDEN = Path(__file__).parent / "golden"

_REQUEST = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":"golden","version":"1"}}}'
)
_RESULT = (
    b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},'
    b'"serverInfo":{"name":"golden-server","version":"1"}}}'
)

# A session in the middle of its life, under the names that version 1 keeps (`actors/snapshots.py`).
FIELDS: dict[str, object] = {
    "principal": ["https://issuer.example", "client-7", "ada"],
    "created": 1763700000.25,
    "last_active": 1763700100.5,
    "ttl": 86400.0,
    "opened": True,
    "failure": ["", "", 0.0],
    "transports": ["streamable-http", "streamable-http"],
    "handshake": [
        _REQUEST,
        _RESULT,
        "upstream-session-1",
        True,
    ],
    "setup": {"logging/setLevel": b'{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"info"}}'},
    "streams": [[0, None, 3, False], [1, 7, 2, False]],
    "next_stream": 2,
    "log": [3735928559, 4, 1, [[3, 512]]],
    "calls": [[7, "tools/call", "search", 1763700090.0, None, 1, 0.0, "cursor-9"]],
    "asks": [["ask-1", 12, "sampling/createMessage", 1, False]],
    "standalone_cursor": "cursor-3",
    "shown": 2,
    "listening": True,
    "metrics": [12, 9, 1],
    "values": {"dataFetched": True, "rows": [1, 2.5, None, "zażółć", b"\x00\xff"], "by_number": {7: "seven"}},
    "context": {"tenant": "example"},
    "metadata": {"user_agent": "golden/1", "origin": ""},
}
HEADER = SnapshotHeader(
    "golden-session-0001", 42, "linear", "a3f1" * 16, "upstream_rejected", 1763700100.5, 1763786500.5
)
ENTRY = LogEntry(
    HEADER.session_id,
    3,
    1,
    2,
    1763700095.125,
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":50,"total":100}}' * 4,
)


def make(folder: Path) -> None:
    """Write all golden records of the present version into a folder that does not exist yet."""
    folder.mkdir(parents=True)
    expected: dict[str, Any] = {
        "header": asdict(HEADER),
        "fields": to_json(FIELDS),
        "entry": {
            "session_id": ENTRY.session_id,
            "sequence": ENTRY.sequence,
            "stream": ENTRY.stream,
            "offset": ENTRY.offset,
            "at_unix_s": ENTRY.at_unix_s,
            "body": to_json(ENTRY.body),
        },
        "snapshots": [],
        "entries": [],
    }
    for name, codec in CODECS.items():
        for kind, record in (("snapshot", _snapshot(codec)), ("entry", codec.seal_entry(ENTRY))):
            file = f"{name.replace(' ', '_')}.{kind}"
            (folder / file).write_bytes(record)
            expected["snapshots" if kind == "snapshot" else "entries"].append(file)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


def to_json(value: object) -> object:
    """Write builtins so that JSON gives back the same ones: bytes, and keys that are numbers, are marked."""
    match value:
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case dict():
            return {"map": [[to_json(key), to_json(item)] for key, item in value.items()]}
        case list():
            return [to_json(item) for item in value]
    return value


def from_json(value: object) -> Any:
    """Read what `to_json` wrote."""
    match value:
        case {"base64": str(text)}:
            return base64.b64decode(text)
        case {"map": list(pairs)}:
            return {from_json(key): from_json(item) for key, item in pairs}
        case list():
            return [from_json(item) for item in value]
    return value


def _snapshot(codec: Codec) -> bytes:
    return codec.seal_snapshot(Snapshot(HEADER, FIELDS))


if __name__ == "__main__":
    place = GOLDEN / f"v{SCHEMA_VERSION}"
    if place.exists():
        sys.exit(f"{place} is there already, and what was released is never written again")
    make(place)
    print(f"written: {place}; commit it, and never change it")
