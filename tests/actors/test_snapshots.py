"""Snapshots: what is kept comes back, under any id a client may choose; what a newer version adds does no harm.

That all of a state but what is forgotten comes back is a property in `test_evolve.py`.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import jsonrpc
from actors import messages as say
from actors.ids import Principal
from actors.link import About
from actors.snapshots import from_snapshot, to_header, to_snapshot
from persistence.codec import Codec
from tests.actors.making import Session, opened

ids = st.one_of(st.text(max_size=10), st.integers(-(2**63) + 1, 2**63 - 1))


def through_bytes(session: Session) -> Session:
    """Give the session as another process reads it from the store."""
    snapshot = to_snapshot(session.state)
    codec = Codec()
    return Session(from_snapshot(codec.open_snapshot(snapshot.header, codec.seal_snapshot(snapshot))))


@given(ids, ids)
def test_ids_of_calls_and_questions_come_back_as_they_were(request_id: int | str, question_id: int | str) -> None:
    session = opened()
    session.stream(request_id)
    session.take(say.Receive(jsonrpc.request(question_id, "sampling"), about=About.NOTHING))
    again = through_bytes(session).state

    assert list(again.calls) == [request_id]
    assert list(again.asks) == [question_id]
    assert again.asks[question_id].upstream_id == question_id
    assert again.streams[1].request_id == request_id
    assert again.streams == session.state.streams


def test_1_and_text_1_stay_two() -> None:
    session = opened()
    for id in (1, "1"):
        session.stream(id)

    assert list(through_bytes(session).state.calls) == [1, "1"]


def test_fields_of_a_newer_version_do_no_harm() -> None:
    snapshot = to_snapshot(opened().state)
    newer = attrs.evolve(snapshot, fields={**snapshot.fields, "invented_later": [1, 2]})

    assert to_snapshot(from_snapshot(newer)) == snapshot


def test_header_tells_what_the_index_needs() -> None:
    principal = Principal("issuer", "client", "subject")
    session = opened(principal=principal)
    session.take(say.Abandon("crash_loop", "bug"))
    header = to_header(session.state)

    assert (header.revision, header.owner, header.failure) == (session.state.revision, principal.digest, "crash_loop")
    assert header.expires_unix_s == session.state.last_active_unix_s + 3600.0


@pytest.mark.parametrize("ready", [False, True])
def test_handshake_is_kept_as_it_was_said(ready: bool) -> None:
    session = opened()
    if ready:
        session.take(say.SendNotification(session.ticket(), jsonrpc.notification("x"), None, confirms=True))
    again = through_bytes(session).state

    assert again.handshake == session.state.handshake
    assert again.handshake is not None
    assert again.handshake.ready is ready


def test_what_is_equal_in_sessions_read_from_the_store_is_one_object() -> None:
    session = opened(principal=Principal("issuer", "client", "alice"))
    one, another = through_bytes(session).state, through_bytes(session).state

    assert one.principal is another.principal
    assert one.client_transport is another.client_transport
    assert one.upstream_transport is another.upstream_transport
    assert one.handshake is not None
    assert another.handshake is not None
    assert one.handshake.request is another.handshake.request
    assert one.handshake.result is another.handshake.result
