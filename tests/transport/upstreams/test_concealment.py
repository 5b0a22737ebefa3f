"""What a server is shown of ours is not told to others, though the server repeats it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

import pytest

from transport.upstreams.concealment import HIDDEN, Concealment
from transport.upstreams.http_answers import describe
from transport.upstreams.http_response import ResponseHead

TOKEN = "tok<&>en-0123456789"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "X-Env": "prod"}
QUERY = "key=pass%20word%2Bmore&v=1"
SECRETS = (TOKEN, "pass word+more", "pass%20word%2Bmore")


def page(headers: Mapping[str, str] = HEADERS) -> str:
    lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
    return f"no: GET /mcp?{QUERY} (key is 'pass word+more')\n{lines}"


@pytest.mark.parametrize("written", [str, escape, json.dumps, repr])
def test_an_error_page_that_repeats_the_request_is_quoted_without_credentials(written: object) -> None:
    assert callable(written)
    head = ResponseHead(403, {b"retry-after": TOKEN.encode()})
    said = describe(head, written(page()).encode(), Concealment.of(HEADERS, QUERY))
    assert said.startswith(f"HTTP 403, retry after {HIDDEN}")
    assert [secret for secret in (*SECRETS, escape(TOKEN)) if secret in said] == []
    assert "GET /mcp" in said, "the rest is quoted"
    assert "prod" in said, "what is too short to be a secret is no secret"


def test_without_them_it_is_quoted_whole() -> None:
    """The negative control."""
    said = describe(ResponseHead(403, {}), page().encode(), Concealment())
    assert [secret for secret in SECRETS if secret not in said] == []


@pytest.mark.parametrize("before", range(0, 240, 7))
def test_no_part_of_one_is_left_where_the_excerpt_is_cut(before: int) -> None:
    secret = "S" * 3000
    body = ("." * before + secret + "|") * 90  # so often that what is looked at ends, too, within one
    excerpt = Concealment.of({"X-Key": secret}, "").excerpt(body.encode(), 200)
    assert "S" not in excerpt
    assert len(excerpt) <= 200


def test_they_are_not_shown() -> None:
    shown = repr(Concealment.of(HEADERS, QUERY))
    assert [secret for secret in SECRETS if secret in shown] == []
