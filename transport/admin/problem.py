"""Problem: how the administration says no, always in the one shape of RFC 9457, `application/problem+json`."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from transport.exchange import Headers

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was not done."""

    title: str  # the status in words
    status: int
    detail: str  # what was wrong with this request, and what to do
    field: str = ""  # which parameter, or which part of the body, where it is one: `$.addTags[0]`


class Refusal(Exception):
    """Answers a request with a problem."""

    def __init__(self, status: HTTPStatus, detail: str, *, field: str = "", headers: Headers = ()) -> None:
        super().__init__(detail)
        self.problem = Problem(status.phrase, status.value, detail, field)
        self.headers: Headers = ((b"content-type", CONTENT_TYPE.encode()), *headers)

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(self.problem)


def explained(error: msgspec.ValidationError, status: HTTPStatus) -> Refusal:
    """Make the refusal of what does not fit its type: which field, and what was expected.

    msgspec says "Expected `int` - at `$.limit`": what was expected, never what was given, which may be a secret.
    """
    detail, _, path = str(error).partition(" - at `")
    return Refusal(status, detail, field=path.rstrip("`"))
