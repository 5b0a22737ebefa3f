"""The gateway is killed while a published server works: the client hears what it would have heard without that.

server-everything has an event store, so its stream can be resumed. It replays well, but says nothing live on a stream
that was resumed (its store gives the SDK an event's id where a stream's is asked for: servers#4099). So the operation
ends while the gateway is away: all that is missing is then replayed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.e2e.gateway import Gateway
from tests.e2e.peers.http_talk import HttpTalk, http_talk
from tests.e2e.peers.peers_bed import GATEWAY_ROADS, PeersBed
from tests.e2e.peers.raw_json import RawMessage
from tests.e2e.raw_client import AnswerStream
from tests.e2e.waiting import DEADLINE_SECONDS

_OPERATION_SECONDS = 1.6
_OPERATION = (
    b'{"jsonrpc":"2.0","id":"long","method":"tools/call","params":{"name":"trigger-long-running-operation",'
    b'"arguments":{"duration":1.6,"steps":8},"_meta":{"progressToken":"t"}}}'
)


@pytest.mark.parametrize("through", GATEWAY_ROADS)
async def test_a_kill_in_the_middle_of_an_operation_is_not_heard(
    npm_bed: PeersBed, tmp_path: Path, through: str
) -> None:
    async with http_talk(npm_bed.urls["everything_http"]) as direct:
        await direct.open()
        await direct.ask_raw("operation", _OPERATION)
    gateway = Gateway(tmp_path, {"only": npm_bed.urls["everything_http"]}, road=through)
    await gateway.start()
    try:
        async with http_talk(gateway.url()) as talk:
            await talk.open()
            heard = await _first_messages(talk, count=2)
            gateway.kill()
            await trio.sleep(_OPERATION_SECONDS)
            await gateway.start()
            async with talk.client.get(talk.event_ids[-1]) as resumed:
                assert resumed.status == 200
                with trio.fail_after(DEADLINE_SECONDS):
                    await talk.read(resumed, heard, _OPERATION)
            assert (
                tuple(RawMessage.of(raw).masked() for raw in heard) == direct.transcript.replies["operation"].messages
            )
            await talk.call("afterwards", "echo", message="still here")
        gateway.assert_is_well()
    finally:
        gateway.kill()


async def _first_messages(talk: HttpTalk, count: int) -> list[bytes]:
    heard: list[bytes] = []
    async with talk.client.exchange("POST", _OPERATION) as stream:
        while len(heard) < count:
            await _next(talk, stream, heard)
    return heard


async def _next(talk: HttpTalk, stream: AnswerStream, heard: list[bytes]) -> None:
    frame = await stream.next_frame()
    assert frame is not None
    talk.event_ids.append(frame.id)
    if frame.data:
        heard.append(frame.data.encode())
