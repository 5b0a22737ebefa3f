"""Which revision a message is of, and what depends on that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import jsonrpc
from transport import revisions


@pytest.mark.parametrize(
    ("method", "version", "is_modern"),
    [
        ("POST", "2026-07-28", True),
        ("GET", "2026-07-28", True),
        ("DELETE", "2026-07-28", True),
        ("POST", "2027-01-01", True),
        ("GET", "2027-01-01", False),
        ("POST", "2025-11-25", False),
        ("POST", None, False),
        ("GET", None, False),
    ],
)
def test_header_tells_the_era(method: str, version: str | None, is_modern: bool) -> None:
    headers = {} if version is None else {"mcp-protocol-version": version}
    assert revisions.is_modern(method, headers) is is_modern


@pytest.mark.parametrize(
    ("header", "negotiated", "wanted"),
    [
        (None, "2025-11-25", True),
        (None, "2025-06-18", False),
        ("2025-11-25", "2025-06-18", True),
        ("2025-03-26", "2025-11-25", False),
    ],
)
def test_priming_is_for_those_who_know_it(header: str | None, negotiated: str, wanted: bool) -> None:
    headers = {} if header is None else {"mcp-protocol-version": header}

    assert revisions.wants_priming(headers, negotiated) is wanted


@given(st.binary(max_size=80))
def test_any_answer_to_initialize_gives_a_revision(raw: bytes) -> None:
    assert revisions.negotiated_revision(raw)


def test_revision_is_read_from_the_answer() -> None:
    assert revisions.negotiated_revision(jsonrpc.result(1, {"protocolVersion": "2025-06-18"}).raw) == "2025-06-18"
    assert revisions.negotiated_revision(jsonrpc.error(1, -1, "no").raw) == revisions.REVISION_WITHOUT_HEADER
