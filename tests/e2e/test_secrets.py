"""No secret is said: secrets are put wherever somebody can put one, and all that is said is searched for each.

Method: one gateway with everything configured, logging all it can; clients that talk rightly, wrongly and to others'
sessions; upstreams that crash or are not there; a kill and a restart; then logs, answers to others, operations, the
other commands and the process table are searched. docs/secrets.md has the table of what counts as a secret.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.secrets_bed import SecretsBed
from tests.e2e.secrets_commands import ask_by_commands, start_wrongly
from tests.e2e.secrets_roads import make_roads_bed
from tests.e2e.secrets_roads_talk import ask_about_sessions
from tests.e2e.secrets_roads_talk import say_everything as say_everything_elsewhere
from tests.e2e.secrets_talk import say_everything

SOURCES = {
    *("logs", "stdout", "GET /readyz", "answers to eve", "answers to a stranger", "there are children"),
    *("outlast export", "outlast doctor", "outlast rekey"),
}

SOURCES_ELSEWHERE = {
    *("logs", "stdout", "GET /readyz", "answers to eve", "answers to a stranger", "refused sockets", "refused change"),
    *("answers from gone-events", "answers from refused-socket", "sessions as operators see them"),
    *("outlast sessions", "outlast health", "outlast stdio", "outlast serve", "outlast doctor", "outlast export"),
}

# A program gets the gateway's environment, without the gateway's own settings: that is how it is given its credentials.
MEANT = {
    "variable of the gateway is in environment of a child",
    "variable for a program is in environment of a child",
}


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_secret_is_said_anywhere(road: str, form: str, tmp_path: Path) -> None:
    bed = SecretsBed.make(tmp_path, road=road, form=form)
    try:
        await bed.gateway.start()
        await say_everything(bed)
        await bed.look_at_processes()
        await bed.ask_operations(bed.planted.plant("token of operators"))
        await bed.ask_operations(bed.planted.plant("token of nobody"))
        bed.gateway.kill()
        await bed.gateway.start()
        await say_everything(bed)
        await bed.stop()
        bed.run_command("export", "--output", "-", *bed.stored)
        bed.run_command("doctor", *bed.stored)
        bed.run_command("rekey", "--count", *bed.stored)
    finally:
        bed.close()

    assert set(bed.said) >= SOURCES
    assert "request answered" in bed.said["logs"]  # so it did log what it could
    assert len(bed.planted.by_place) > 20
    assert set(bed.planted.found_in(bed.said)) <= MEANT


async def test_the_search_finds_a_planted_secret(road: str, tmp_path: Path) -> None:
    """The control: an export that is asked for its secrets has them, and the search says which."""
    bed = SecretsBed.make(tmp_path, road=road, form="json")
    try:
        await bed.gateway.start()
        client = bed.client("ada", "web")
        await client.open_session()
        bed.planted.keep("session of ada", client.session_id)
        await bed.stop()
        bed.run_command("export", "--output", "-", "--with-secrets", *bed.stored)
    finally:
        bed.close()

    assert bed.planted.found_in(bed.said) == ["session of ada is in outlast export"]


@pytest.fixture
def form_of_road(road: str) -> str:
    """Another form of logs on each road, where both on both would take twice as long and show no more."""
    return "json" if road == "hot" else "console"


async def test_nor_over_the_other_transports(road: str, form_of_road: str, tmp_path: Path) -> None:
    """Over 2026-07-28, HTTP+SSE and WebSocket, on both sides; behind TLS; in a Redis with a password."""
    bed = make_roads_bed(tmp_path, road=road, form=form_of_road)
    try:
        await bed.gateway.start()
        await say_everything_elsewhere(bed)
        bed.gateway.kill()
        await bed.gateway.start()
        await say_everything_elsewhere(bed)
        await ask_about_sessions(bed)
        await bed.ask_operations(bed.planted.plant("token of operators"))
        await bed.ask_operations(bed.planted.plant("token of nobody"))
        ask_by_commands(bed, tmp_path)
        await bed.stop()
        start_wrongly(bed, tmp_path)
    finally:
        bed.close()

    assert set(bed.said) >= SOURCES_ELSEWHERE
    assert "request answered" in bed.said["logs"]  # so it did log what it could
    for server in ("repeats-403", "oauth-403", "exchange-403"):
        assert "cannot serve" in bed.said[f"answers from {server}"]  # so what repeats them is quoted
    assert "token 0 for a server" in bed.planted.by_place  # so there were some
    for server in ("oauth-refused", "exchange-refused"):
        assert "HTTP 400: look at its token endpoint" in bed.said[f"answers from {server}"]
    assert len(bed.planted.by_place) > 80
    assert set(bed.planted.found_in(bed.said)) == set()
