"""Whatever JSON either side writes, the other side gets these bytes: through real processes, over both transports.

One exchange carries a notification, a request and an answer towards the server, and a notification, a question and an
answer towards the client. Line breaks between tokens are left out: neither stdio nor event streams can carry them.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator

import attrs
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.e2e.gateway import Gateway
from tests.e2e.peers import json_texts
from tests.e2e.peers.peers_bed import GATEWAY_ROADS
from tests.e2e.peers.raw_upstream import SEEN_METHOD
from tests.e2e.process import ChildProcess
from tests.e2e.raw_client import RawClient

_MODULE = "tests.e2e.peers.raw_upstream"
_REQUEST_ID = '"request"'
_QUESTION_ID = '"question"'
_EVERY_UPSTREAM = pytest.mark.parametrize("upstream", ["stdio", "http"])


@attrs.frozen
class Exchange:
    """What both sides write: whole messages; of the request what is in it beside the script."""

    notification: bytes
    request_extras: str
    said: bytes
    question: bytes
    reply: bytes
    answer: bytes


def exchanges() -> st.SearchStrategy[Exchange]:
    """Any exchange; results and errors can be any value, params are objects."""

    def told(method: str) -> st.SearchStrategy[bytes]:
        params = json_texts.OBJECTS
        return params.flatmap(lambda text: json_texts.envelopes(("method", f'"{method}"'), ("params", text)))

    def asked(params: str) -> st.SearchStrategy[bytes]:
        return json_texts.envelopes(("id", _QUESTION_ID), ("params", params), ("method", '"relay/question"'))

    def answered(id: str) -> st.SearchStrategy[bytes]:
        errors = json_texts.VALUES.map(lambda data: ("error", f'{{"data":{data},"code":-32000,"message":"\\u00fc"}}'))
        outcomes = json_texts.VALUES.map(lambda result: ("result", result)) | errors
        return outcomes.flatmap(lambda outcome: json_texts.envelopes(("id", id), outcome))

    return st.builds(
        Exchange,
        notification=told("relay/told"),
        request_extras=json_texts.VALUES,
        said=told("relay/said"),
        question=json_texts.OBJECTS.flatmap(asked),
        reply=answered(_QUESTION_ID),
        answer=answered(_REQUEST_ID),
    )


def _all_with(value: str) -> Exchange:
    """An exchange that says one value everywhere."""
    return Exchange(
        notification=f'{{"params":{{"v":{value}}},"method":"relay/told","jsonrpc":"2.0"}}'.encode(),
        request_extras=value,
        said=f'{{"params":{{"v":{value}}},"method":"relay/said","jsonrpc":"2.0"}}'.encode(),
        question=f'{{"params":[{value}],"id":{_QUESTION_ID},"method":"relay/question","jsonrpc":"2.0"}}'.encode(),
        reply=f'{{"result":{value},"jsonrpc":"2.0","id":{_QUESTION_ID}}}'.encode(),
        answer=f'{{"error":{{"code":1,"message":"","data":{value}}},"jsonrpc":"2.0","id":{_REQUEST_ID}}}'.encode(),
    )


class RelayBed:
    """Gateways, each in front of raw servers that relay bytes, and of one that does not."""

    def __init__(self, gateways: dict[str, Gateway]) -> None:
        self._gateways = gateways
        self._clients: dict[tuple[str, str], RawClient] = {}

    async def client(self, road: str, upstream: str) -> RawClient:
        """The client of one session, which is opened when it is first asked for."""
        self._gateways[road].assert_is_well()
        if (road, upstream) not in self._clients:
            client = self._clients[road, upstream] = RawClient(self._gateways[road].url(upstream))
            await client.open_session()
        return self._clients[road, upstream]


@pytest.fixture(scope="session")
def relay_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayBed]:
    directory = tmp_path_factory.mktemp("raw-relay")
    stdio = [sys.executable, "-m", _MODULE]
    # A server over HTTP knows one session here: one for each gateway.
    http = {road: ChildProcess(_MODULE, ["--http"]) for road in GATEWAY_ROADS}
    gateways: dict[str, Gateway] = {}
    try:
        for road in GATEWAY_ROADS:
            port = http[road].wait_line(r"^port (\d+)$")[1]
            servers = {
                "stdio": f"stdio:{shlex.join(stdio)}",
                "http": f"http://127.0.0.1:{port}/mcp",
                "encoding": f"stdio:{shlex.join([*stdio, '--encode-again'])}",
            }
            gateways[road] = Gateway(directory / road, servers, road=road)
            gateways[road].start_blocking()
        yield RelayBed(gateways)
    finally:
        for gateway in gateways.values():
            gateway.kill()
        for process in http.values():
            process.kill()


async def carried(client: RawClient, exchange: Exchange) -> dict[str, tuple[bytes, bytes]]:
    """Have one exchange; gives for each message what was written, and what arrived."""
    script = {"notified": 1, "say": [exchange.said.hex(), exchange.question.hex()], "answer": exchange.answer.hex()}
    params = f'{{"script":{json.dumps(script)}, "extras" : {exchange.request_extras}}}'
    request = f'{{"method":"relay/play","params":{params},"jsonrpc":"2.0","id":{_REQUEST_ID}}}'.encode()
    assert (await client.whole("POST", exchange.notification)).status == 202
    arrived: list[bytes] = []
    async with client.exchange("POST", request) as stream:
        assert stream.status == 200, await stream.body()
        for number in range(4):
            frame = await stream.next_frame()
            while frame is not None and not frame.data:
                frame = await stream.next_frame()
            assert frame is not None, "the stream ended early"
            arrived.append(frame.data.encode())
            if number == 1:
                assert (await client.whole("POST", exchange.reply)).status == 202
    said, question, seen, answer = arrived
    assert json.loads(seen)["method"] == SEEN_METHOD
    notification, request_seen, reply = (bytes.fromhex(text) for text in json.loads(seen)["params"]["raw"])
    return {
        "notification to the server": (exchange.notification, notification),
        "request": (request, request_seen),
        "answer to the server": (exchange.reply, reply),
        "notification to the client": (exchange.said, said),
        "question": (exchange.question, question),
        "answer to the client": (exchange.answer, answer),
    }


def changed(messages: dict[str, tuple[bytes, bytes]]) -> set[str]:
    """Which messages did not arrive as they were written."""
    return {name for name, (written, arrived) in messages.items() if written != arrived}


@pytest.mark.parametrize("through", GATEWAY_ROADS)
@_EVERY_UPSTREAM
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@example(_all_with('"\\ud800 alone, \\u007F\\u0000"'))
@example(_all_with('{"a":1,"a":2,"A":3,"\\u0061":4}'))
@example(_all_with("[1e9999,-0,-0.0,1.0,10000000000000000000000001,0.1e-7]"))
@example(_all_with(json_texts.nested(200)))
@example(_all_with("null"))
@given(exchange=exchanges())
async def test_what_either_side_writes_arrives_byte_for_byte(
    relay_bed: RelayBed, through: str, upstream: str, exchange: Exchange
) -> None:
    client = await relay_bed.client(through, upstream)
    messages = await carried(client, exchange)
    assert not changed(messages), {name: messages[name] for name in changed(messages)}


@pytest.mark.parametrize("value", ['"\\u00fc"', "1.50", "1E2", '{"a":1,"a":2}', "[1 ,2]", '"\\/"'])
async def test_a_relay_that_encodes_again_is_noticed_in_every_message(relay_bed: RelayBed, value: str) -> None:
    """The control: behind the gateway, a server that treats what it reads and says as such relays do."""
    client = await relay_bed.client(GATEWAY_ROADS[0], "encoding")
    with trio.fail_after(30):
        messages = await carried(client, _all_with(value))
    assert changed(messages) == set(messages)
