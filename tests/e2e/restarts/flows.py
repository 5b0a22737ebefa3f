"""The flows of the matrix: what a client does, and the points in it at which a fault may strike.

A flow says once what is done, for all faults, transports and servers. Where something may have been lost with
the fault its client does what clients do: it looks at how that ended, and asks again. At the end of each the
session is used once more. What is right is not said here: the judge compares with a run without a gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs

from tests.e2e.raw_client import LATEST
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.transcript import Due
from tests.e2e.sdk_client import ROOT_URI
from tests.e2e.upstream_server import RESOURCE_URI

_UPDATED = "notifications/resources/updated"
_STEPS = 2
_SAMPLED = {"role": "assistant", "model": "tried", "content": {"type": "text", "text": "sampled"}}
_ELICITED = {"action": "accept", "content": {"answer": "elicited"}}
_ROOTS = {"roots": [{"uri": ROOT_URI, "name": "tried"}]}


async def _opening(client: Client, stage: Stage) -> None:
    asked = client.handshake(held=True)
    await stage.held()
    await stage.at("asked")
    stage.release()
    await client.ended(asked)
    if not asked.is_answered:
        await client.ended(client.handshake())
    await stage.at("answered")
    await client.confirm()
    await stage.at("confirmed")
    await client.works()


async def _short_call(client: Client, stage: Stage) -> None:
    await client.open()
    call = client.call("hold", held=True)
    await stage.running(call.key)
    await stage.at("running")
    stage.release()
    await client.ended(call)
    await stage.at("answered")
    await client.works()


async def _long_call(client: Client, stage: Stage) -> None:
    await client.open()
    call = client.call("progress", held=True, count=_STEPS)
    await client.progress(2 * _STEPS)  # each step is told twice: as progress and as a log message
    await stage.at("in progress")
    await stage.at("answered meanwhile", meanwhile=stage.release)
    stage.release()
    await client.ended(call)
    await stage.at("answered")
    await client.replay(call)
    await client.works()


async def _sampling(client: Client, stage: Stage) -> None:
    await client.open()
    call = client.call("sample", held=True, prompt=f"{stage.key}: a word?")
    question = await client.question("sampling/createMessage")
    await stage.at("asked")
    await client.reply(question, _SAMPLED)
    await stage.at("replied")
    stage.release()
    await client.ended(call)
    await client.works()


async def _elicitation(client: Client, stage: Stage) -> None:
    await client.open()
    call = client.call("elicit", held=True, question=f"{stage.key}: a word?")
    question = await client.question("elicitation/create")
    await stage.at("asked")
    await client.reply(question, _ELICITED)
    await stage.at("replied")
    stage.release()
    await client.ended(call)
    await client.works()


async def _subscription(client: Client, stage: Stage) -> None:
    await client.open()
    await client.listening()
    asked = client.ask("subscribe", "resources/subscribe", {"uri": RESOURCE_URI}, held=True)
    await stage.held()
    await stage.at("asked")
    stage.release()
    await client.ended(asked)
    await client.works()
    if not asked.is_answered:
        await client.ended(client.ask("subscribe", "resources/subscribe", {"uri": RESOURCE_URI}))
    await stage.at("subscribed")
    await client.connected()
    await client.told_once_more(_UPDATED, "update_resource", uri=RESOURCE_URI)
    await stage.at("updated")
    await client.connected()
    await client.told_once_more(_UPDATED, "update_resource", uri=RESOURCE_URI)


async def _roots(client: Client, stage: Stage) -> None:
    await client.open()
    await client.listening()
    await client.tell("roots changed", "notifications/roots/list_changed")
    await stage.at("changed")
    await client.connected()
    await client.works()
    call = client.call("list_roots", held=True)
    question = await client.question("roots/list")
    await stage.at("asked")
    await client.reply(question, _ROOTS)
    await stage.at("replied")
    stage.release()
    await client.ended(call)
    await client.works()


async def _own_stream(client: Client, stage: Stage) -> None:
    await client.open()
    await client.ended(client.ask("subscribe", "resources/subscribe", {"uri": RESOURCE_URI}))
    client.listen()
    await client.connected()
    await stage.at("idle")
    await client.listening()
    await client.told_once_more(_UPDATED, "update_resource", uri=RESOURCE_URI)
    await stage.at("heard")
    await client.connected()
    await client.told_once_more(_UPDATED, "update_resource", uri=RESOURCE_URI)


async def _deletion(client: Client, stage: Stage) -> None:
    await client.open()
    deleted = client.delete()
    await stage.at("asked")
    await client.ended(deleted)
    if not deleted.is_answered:
        await client.ended(client.delete())
    await stage.at("deleted")
    call = client.call("echo", name="after the end", text="anybody?")
    call.due = Due.GONE
    await client.ended(call)


async def _batch(client: Client, stage: Stage) -> None:
    await client.open()
    echoed, *held = client.batch(
        ("echo", {"text": "at once"}), ("hold", {"held": True}), ("progress", {"held": True, "count": _STEPS})
    )
    await client.ended(echoed)
    for call in held:
        await stage.running(call.key)
    await client.progress(2 * _STEPS)
    await stage.at("partly answered")
    await stage.at("answered meanwhile", meanwhile=stage.release)
    stage.release()
    await client.ended(*held)
    await stage.at("answered")
    await client.works()


async def _cancellation(client: Client, stage: Stage) -> None:
    await client.open()
    call = client.call("progress", held=True, count=_STEPS)
    await client.progress(2 * _STEPS)
    await client.cancel(call)
    await stage.at("withdrawn")
    stage.release()
    await client.ended(call)
    await client.works()


async def _log_level(client: Client, stage: Stage) -> None:
    await client.open()
    level = {"level": "error"}
    asked = client.ask("set level", "logging/setLevel", level, held=True)
    await stage.held()
    await stage.at("asked")
    stage.release()
    await client.ended(asked)
    await client.works()
    if not asked.is_answered:
        await client.ended(client.ask("set level", "logging/setLevel", level))
    await stage.at("set")
    await client.ended(client.call("log_level"))


@attrs.frozen
class Flow:
    """One flow, and the points at which it can stand still."""

    run: Callable[[Client, Stage], Awaitable[None]]
    points: tuple[str, ...]
    revision: str = LATEST


FLOWS: Mapping[str, Flow] = {
    "opening": Flow(_opening, ("asked", "answered", "confirmed")),
    "short call": Flow(_short_call, ("running", "answered")),
    "long call": Flow(_long_call, ("in progress", "answered meanwhile", "answered")),
    "sampling": Flow(_sampling, ("asked", "replied")),
    "elicitation": Flow(_elicitation, ("asked", "replied")),
    "subscription": Flow(_subscription, ("asked", "subscribed", "updated")),
    "roots": Flow(_roots, ("changed", "asked", "replied")),
    "own stream": Flow(_own_stream, ("idle", "heard")),
    "deletion": Flow(_deletion, ("asked", "deleted")),
    "batch": Flow(_batch, ("partly answered", "answered meanwhile", "answered"), revision="2025-03-26"),
    "cancellation": Flow(_cancellation, ("withdrawn",)),
    "log level": Flow(_log_level, ("asked", "set")),
}
