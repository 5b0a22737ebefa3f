"""Servers from PyPI, asked directly and through the gateway: the answers are the same bytes.

The scenarios are raw, so that no client hides a difference; `peers/scenarios.py` has what is asked.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.peers import scenarios
from tests.e2e.peers.peers_bed import PeersBed, assert_same
from tests.e2e.peers.raw_json import RawMessage
from tests.e2e.peers.talk import Heard, Transcript


async def test_time_server_is_heard_as_it_is(python_bed: PeersBed) -> None:
    await python_bed.compare("time", scenarios.time_server, together=True)


async def test_git_server_is_heard_as_it_is(python_bed: PeersBed) -> None:
    repository = Path(python_bed.commands["git"][-1])
    await python_bed.compare("git", scenarios.git(repository))


async def test_an_answer_that_was_encoded_again_would_be_noticed(python_bed: PeersBed) -> None:
    """The control: the comparison is by bytes, so the same JSON in other bytes is a difference."""
    direct = await python_bed.transcript("time", scenarios.time_server, None)
    through = Transcript(asides=direct.asides)
    for label, heard in direct.replies.items():
        encoded = (json.dumps(json.loads(text), separators=(", ", ":")) for text in heard.messages)
        through.replies[label] = Heard(heard.status, tuple(encoded))
    with pytest.raises(AssertionError):
        assert_same(direct, through, one_stream=True)


def test_only_what_is_new_each_time_is_masked() -> None:
    question = RawMessage.of(
        b'{"id": 7, "method":"a/b" ,"params":{"id":7,"at":"2026-11-22T02:29:18.292579Z"},"x":{"id":1}}'
    )
    assert question.masked() == '{"id": <id>, "method":"a/b" ,"params":{"id":7,"at":"<time>"},"x":{"id":1}}'
    answer = RawMessage.of(b'{"id":"7","result":{"taskId":"00112233445566778899aabbccddeeff","n":1.50}}')
    assert answer.masked() == '{"id":"7","result":{"taskId":"<hex>","n":1.50}}'
