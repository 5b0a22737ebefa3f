"""A talk with a server over its own standard input and output: what "direct" is for a stdio server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence

import trio

from tests.e2e.peers.raw_json import RawMessage
from tests.e2e.peers.talk import Talk

_CHUNK_BYTES = 65536


class StdioTalk(Talk):
    """One process, one session."""

    def __init__(self, nursery: trio.Nursery, process: trio.Process) -> None:
        super().__init__(nursery)
        self._process = process
        self._writing = trio.Lock()  # answers to questions are sent beside the scenario
        self._waiting: dict[str, trio.MemorySendChannel[bytes]] = {}

    async def listen(self) -> None:
        """Nothing to do: there is one stream."""

    async def send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        async with self._writing:
            await self._process.stdin.send_all(message + b"\n")

    async def _exchange(self, request: bytes, under_way: trio.Event) -> tuple[int | None, list[bytes]]:
        answer_in, answer_out = trio.open_memory_channel[bytes](1)
        self._waiting[RawMessage.of(request).part("id")] = answer_in
        await self.send(request)
        under_way.set()
        return None, [await answer_out.receive()]

    async def read(self) -> None:
        """Read what the server says until it ends."""
        assert self._process.stdout is not None
        pending = b""
        while chunk := await self._process.stdout.receive_some(_CHUNK_BYTES):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    self._hear(line)

    def _hear(self, line: bytes) -> None:
        message = RawMessage.of(line)
        if message.method:
            self._take(line, aside=True)
        else:
            self._waiting.pop(json.dumps(json.loads(message.part("id")))).send_nowait(line)


@contextlib.asynccontextmanager
async def stdio_talk(command: Sequence[str]) -> AsyncIterator[StdioTalk]:
    """Start a server and talk with it; it is killed at the end of the block."""
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ
        )
        try:
            talk = StdioTalk(nursery, process)
            nursery.start_soon(talk.read)
            yield talk
        finally:
            nursery.cancel_scope.cancel()
            process.kill()
            with trio.CancelScope(shield=True):  # short: it was killed
                await process.wait()
