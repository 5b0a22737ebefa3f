"""The administration over HTTP: answers, refusals in one shape, and nothing secret in either."""

from __future__ import annotations

import json

import pytest
from trio.testing import MockClock

from actors.ids import Principal, reference_of
from tests.actors.worlds import World, open_session, open_world, send
from tests.transport.admin.asking import Asking
from transport.admin import shown

ANN = Principal("https://issuer.example", "app", "ann")
SECRETS = ("Bearer abcdefgh", "s3cret-value", "upstream-0", "needle-in-arguments")


async def secretive(world: World) -> str:
    """Open a session that is full of secrets; give its id."""
    session = await world.runtime.create(
        server_id="linear",
        principal=ANN,
        context={"authorization": "Bearer abcdefgh", "user": "ann"},
        metadata={"user-agent": "test", "note": "see Bearer abcdefgh"},
    )
    async with session.update() as values:
        values["password"] = "s3cret-value"
        values["dataFetched"] = True
    await send(session, 1, params={"arguments": "needle-in-arguments"}, label="search").wait()
    return session.id


async def test_list_show_and_history_tell_no_secret(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session_id = await secretive(world)
        await open_session(world)
        ask = Asking(world)
        reference = reference_of(session_id)
        told = [
            await ask.get("/admin/sessions?records=true"),
            await ask.get(f"/admin/sessions/{reference}"),
            await ask.get(f"/admin/sessions/{reference}/history"),
            await ask.get("/admin/analytics"),
        ]

        for secret in (*SECRETS, session_id):
            assert secret not in json.dumps(told)
        details = told[1]["details"]
        assert details["values"] == {"password": "[redacted]", "dataFetched": True}
        assert details["context"] == {"authorization": "[redacted]", "user": "ann"}
        assert (details["principal"]["subject"], details["requests"]) == ("ann", 1)
        assert [call["tool"] for call in told[2]["calls"]] == ["search"]
        assert (told[3]["calls"]["requests"], told[3]["upstreams"][0]["server"]) == (2, "linear")


async def test_without_redaction_they_would_be_told(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "redact", lambda session: session)
    async with open_world() as world:
        session_id = await secretive(world)
        text = json.dumps(await Asking(world).get(f"/admin/sessions/{session_id}"))

        assert "s3cret-value" in text


async def test_a_session_goes_by_its_id_or_its_reference_and_only_the_reference_is_told(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        session = await open_session(world)
        ask = Asking(world)
        by_id, by_reference = [
            await ask.get(f"/admin/sessions/{name}") for name in (session.id, reference_of(session.id))
        ]

        assert by_id == by_reference
        assert by_id["id"] == f"{session.id[:6]}…"
        assert by_id["reference"] == reference_of(session.id)


async def test_pages_are_followed_by_their_cursors(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        for _ in range(5):
            await open_session(world)
        ask = Asking(world)
        path, seen = "/admin/sessions?limit=2&order=expires", []
        page = await ask.get(path)
        seen += page["sessions"]
        while page["next"] is not None:
            page = await ask.get(f"{path}&cursor={page['next']}")
            seen += page["sessions"]

        assert len({one["reference"] for one in seen}) == len(seen) == 5


async def test_metadata_is_changed_and_told(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        ask = Asking(world)
        path = f"/admin/sessions/{reference_of(session.id)}"
        changed = await ask("PATCH", path, {"addTags": ["beta"], "set": {"owner": "ops", "tier": 2}})

        assert changed.status == 200
        assert changed.json["details"]["metadata"] == {"owner": "ops", "tier": 2, "tags": ["beta"]}
        assert (await session.state()).metadata == {"owner": "ops", "tier": 2, "tags": ["beta"]}
        full = await ask("PATCH", path, {"addTags": [f"tag-{number}" for number in range(32)]})
        assert (full.status, full.json["title"]) == (409, "Conflict")


async def test_closing_and_reinitializing(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        ask = Asking(world)
        path = f"/admin/sessions/{reference_of(session.id)}"
        again = await ask("POST", f"{path}/reinitialize")
        closed = await ask("DELETE", path)
        gone = await ask("DELETE", path)

        assert (again.status, len(world.upstream.links)) == (200, 2)
        assert (closed.status, closed.json) == (200, {"upstream": "sent", "detail": ""})
        assert gone.status == 404


async def test_an_upstream_that_is_away_is_try_again(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.upstream.down = "no route to Bearer abcdefgh"
        ask = Asking(world)
        away = await ask("POST", f"/admin/sessions/{session.id}/reinitialize")
        assert (away.status, away.headers["retry-after"]) == (503, "1")


SESSION = "/admin/sessions/" + "0" * 24


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field", "words"),
    [
        ("GET", "/admin/nothing", None, 404, "", "openapi.json"),
        ("GET", "/admin/sessions/", None, 404, "", "nothing at this path"),
        ("GET", SESSION, None, 404, "", "no session"),
        ("GET", f"{SESSION}/history", None, 404, "", "no session"),
        ("PATCH", SESSION, {}, 404, "", "no session"),
        ("POST", f"{SESSION}/reinitialize", None, 404, "", "no session"),
        ("DELETE", "/admin/sessions", None, 405, "", "use GET or HEAD"),
        ("PUT", SESSION, {}, 405, "", "use DELETE or GET or HEAD or PATCH"),
        ("GET", "/admin/sessions?limit=many", None, 400, "$.limit", "`int`"),
        ("GET", "/admin/sessions?limit=0", None, 400, "$.limit", ">= 1"),
        ("GET", "/admin/sessions?limit=201", None, 400, "$.limit", "<= 200"),
        ("GET", "/admin/sessions?limit=1&limit=2", None, 400, "$.limit", "more than once"),
        ("GET", "/admin/sessions?color=red", None, 400, "$.color", "known: created"),
        ("GET", "/admin/sessions?state=null", None, 400, "$.state", ""),
        ("GET", "/admin/sessions?state=asleep", None, 400, "$.state", ""),
        ("GET", "/admin/sessions?cursor=next", None, 400, "$.cursor", "regex"),
        ("GET", "/admin/sessions?idleSecondsMin=nan", None, 400, "$.idleSecondsMin", ""),
        ("GET", "/admin/sessions?%ff=1", None, 400, "", "malformed"),
        ("GET", "/admin/sessions?limit", None, 400, "", "malformed"),
        ("GET", "/admin/analytics?x=1", None, 400, "$.x", "known: none"),
        ("PATCH", SESSION, b"{", 400, "", "no JSON"),
        ("PATCH", SESSION, b'{"addTags": ["\xff"]}', 400, "", "no JSON"),
        ("PATCH", SESSION, {"addTags": [""]}, 422, "$.addTags[0]", ">= 1"),
        ("PATCH", SESSION, {"addTags": ["x"] * 33}, 422, "$.addTags", "<= 32"),
        ("PATCH", SESSION, {"tags": ["x"]}, 422, "", "unknown field `tags`"),
        ("PATCH", SESSION, {"set": {"nested": {}}}, 422, "$.set[...]", ""),
    ],
)
async def test_refusals_have_one_shape_and_name_the_field(
    method: str, path: str, body: object, status: int, field: str, words: str, autojump_clock: MockClock
) -> None:
    async with open_world() as world:
        refused = await Asking(world)(method, path, body)

        assert (refused.status, refused.headers["content-type"]) == (status, "application/problem+json")
        assert refused.json["status"] == status
        assert refused.json.get("field", "") == field
        assert words in refused.json["detail"]


async def test_body_of_another_kind_is_415(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        refused = await Asking(world)("PATCH", SESSION, b"a=1", **{"content-type": "text/plain"})

        assert refused.status == 415


async def test_405_names_what_is_allowed(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        refused = await Asking(world)("POST", "/admin/analytics", {})

        assert refused.headers["allow"] == "GET, HEAD"


async def test_description_names_every_route_and_its_parameters(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        document = await Asking(world).get("/admin/openapi.json")

        operations = {(method, path) for path, item in document["paths"].items() for method in item}
        assert operations == {
            ("get", "/admin/sessions"),
            ("get", "/admin/sessions/{session}"),
            ("delete", "/admin/sessions/{session}"),
            ("patch", "/admin/sessions/{session}"),
            ("get", "/admin/sessions/{session}/history"),
            ("post", "/admin/sessions/{session}/reinitialize"),
            ("get", "/admin/analytics"),
            ("get", "/admin/openapi.json"),
        }
        parameters = {one["name"]: one for one in document["paths"]["/admin/sessions"]["get"]["parameters"]}
        assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
        assert parameters["state"]["schema"]["enum"] == ["initialized", "uninitialized"]
        assert document["info"]["version"] == "1.2.3"
