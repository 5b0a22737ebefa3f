"""What is said to published servers: all that each of them offers, and what none of them does.

A scenario ends only when it has heard all that was to come, so that two transcripts of it can be compared.
"""

from __future__ import annotations

from pathlib import Path

from tests.e2e.peers.talk import Scenario, Talk

# ---- server-everything ----


async def everything_lists(talk: Talk) -> None:
    """Handshake, roots, every kind of list, reading, completion."""
    await talk.open()
    await talk.wait("roots/list")  # asked a third of a second after the handshake
    await talk.wait("notifications/message")
    await talk.ask("ping", "ping")
    await talk.ask("tools", "tools/list")
    await talk.ask("prompts", "prompts/list")
    await talk.ask("resources", "resources/list")
    await talk.ask("templates", "resources/templates/list")
    await talk.ask("static", "resources/read", {"uri": "demo://resource/static/document/features.md"})
    await talk.ask("dynamic", "resources/read", {"uri": "demo://resource/dynamic/blob/3"})
    await talk.ask("no resource", "resources/read", {"uri": "demo://nowhere"})
    await talk.ask("simple prompt", "prompts/get", {"name": "simple-prompt"})
    await talk.ask("prompt", "prompts/get", {"name": "args-prompt", "arguments": {"city": "Zürich"}})
    await talk.ask("prompt without its argument", "prompts/get", {"name": "args-prompt"})
    embedded = {"name": "resource-prompt", "arguments": {"resourceType": "Text", "resourceId": "2"}}
    await talk.ask("prompt with a resource", "prompts/get", embedded)
    reference = {"type": "ref/prompt", "name": "completable-prompt"}
    await talk.ask(
        "completion", "completion/complete", {"ref": reference, "argument": {"name": "department", "value": "S"}}
    )
    in_context = {
        "ref": reference,
        "argument": {"name": "name", "value": ""},
        "context": {"arguments": {"department": "Sales"}},
    }
    await talk.ask("completion in context", "completion/complete", in_context)
    template = {"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"}
    await talk.ask(
        "template", "completion/complete", {"ref": template, "argument": {"name": "resourceId", "value": "1"}}
    )


async def everything_tools(talk: Talk) -> None:
    """Tools of each shape, their errors, and methods that nobody knows."""
    await talk.open()
    await talk.wait("notifications/message")
    await talk.call("echo", "echo", message='grüße 🌍 \u2028 \\ " </script>')
    await talk.call("sum", "get-sum", a=2**53, b=0.1)
    await talk.call("wrong arguments", "get-sum", a="one")
    await talk.call("no such tool", "no-such-tool")
    await talk.call("image", "get-tiny-image")
    await talk.call("annotated", "get-annotated-message", messageType="error", includeImage=True)
    await talk.call("links", "get-resource-links", count=4)
    await talk.call("reference", "get-resource-reference", resourceType="Blob", resourceId=2)
    await talk.call("structured", "get-structured-content", location="Chicago")
    await talk.call("operation", "trigger-long-running-operation", duration=0.4, steps=4)
    await talk.call("short operation", "trigger-long-running-operation", duration=0.05, steps=5)
    await talk.ask("unknown method", "vendor/unknown", {"deep": [[[[None]]]]})
    await talk.ask("method of nobody", "tools/unknown")
    await talk.ask("params of another shape", "tools/call", {"name": 7})
    await talk.ask("modern method", "server/discover", {})
    await talk.tell("notifications/vendor", {"x": 1})
    await talk.ask_raw(
        "odd spacing",
        b'{ "params" : {"name":"echo","arguments":{"message":"\\u00fc\\/"} } ,"id":"text 1",'
        b'"method":"tools/call", "jsonrpc" : "2.0"}',
    )
    await talk.ask_raw("large id", b'{"jsonrpc":"2.0","id":9007199254740991,"method":"ping"}')


async def everything_questions(talk: Talk) -> None:
    """Sampling, elicitation and roots: the server asks while it is asked."""
    await talk.open()
    await talk.wait("roots/list")
    await talk.wait("notifications/message")
    await talk.call("sampling", "trigger-sampling-request", prompt="louder", maxTokens=7)
    await talk.call("elicitation", "trigger-elicitation-request")
    await talk.call("roots", "get-roots-list")
    await talk.tell("notifications/roots/list_changed")
    await talk.wait("roots/list", 2)
    await talk.wait("notifications/message", 2)


async def everything_updates(talk: Talk) -> None:
    """Log levels, subscriptions and their updates, a cancelled call."""
    await talk.open()
    await talk.wait("notifications/message")
    await talk.ask("level", "logging/setLevel", {"level": "info"})
    await talk.ask("no such level", "logging/setLevel", {"level": "loud"})
    uri = {"uri": "demo://resource/dynamic/text/1"}
    await talk.ask("subscribe", "resources/subscribe", uri)
    await talk.call("updates on", "toggle-subscriber-updates")
    await talk.wait("notifications/resources/updated")
    await talk.call("updates off", "toggle-subscriber-updates")
    await talk.ask("unsubscribe", "resources/unsubscribe", uri)
    await talk.wait("notifications/message", 3)
    arguments = {"name": "trigger-long-running-operation", "arguments": {"duration": 0.6, "steps": 1}}
    request_id = await talk.begin("tools/call", arguments)
    await talk.tell("notifications/cancelled", {"requestId": request_id, "reason": "enough"})
    await talk.call("outlives it", "trigger-long-running-operation", duration=0.7, steps=1)


async def everything_tasks(talk: Talk) -> None:
    """A task: made, looked at, its question answered on the stream of its result."""
    await talk.open()
    await talk.wait("notifications/message")
    arguments = {"name": "simulate-research-query", "arguments": {"topic": "python", "ambiguous": True}}
    made = await talk.ask("made", "tools/call", {**arguments, "task": {"ttl": 60000}})
    task = {"taskId": made["result"]["task"]["taskId"]}
    await talk.ask("listed", "tasks/list")
    await talk.ask("looked at", "tasks/get", task)
    await talk.ask("its result", "tasks/result", task)
    await talk.ask("done", "tasks/get", task)
    await talk.ask("too late to cancel", "tasks/cancel", task)
    await talk.ask("unknown", "tasks/get", {"taskId": "0" * 32})
    await talk.ask("not as a task", "tools/call", arguments)


# ---- server-memory, server-filesystem ----


async def memory(talk: Talk) -> None:
    """What was written is read again, with every character."""
    await talk.open("2025-06-18")
    await talk.ask("tools", "tools/list")
    entity = {"name": "Ünï 🌍", "entityType": "thing", "observations": ["first\nline", "tab\t", "\u2028"]}
    await talk.call("create", "create_entities", entities=[entity])
    await talk.call("observe", "add_observations", observations=[{"entityName": "Ünï 🌍", "contents": ["more"]}])
    await talk.call("nobody", "add_observations", observations=[{"entityName": "nobody", "contents": ["x"]}])
    await talk.call("graph", "read_graph")
    await talk.call("found", "search_nodes", query="more")
    await talk.call("delete", "delete_entities", entityNames=["Ünï 🌍"])
    await talk.call("empty", "read_graph")


def filesystem(folder: Path) -> Scenario:
    """Files in a folder, and one outside it."""

    async def scenario(talk: Talk) -> None:
        await talk.open(capabilities={})
        await talk.ask("tools", "tools/list")
        path = str(folder / "note.txt")
        await talk.call("write", "write_file", path=path, content="grüße\n" * 2000)
        await talk.call("read", "read_text_file", path=path)
        await talk.call("head", "read_text_file", path=path, head=1)
        await talk.call("edit", "edit_file", path=path, edits=[{"oldText": "nothing", "newText": "x"}])
        await talk.call("list", "list_directory", path=str(folder))
        await talk.call("outside", "read_text_file", path="/etc/hostname")
        await talk.call("media", "read_media_file", path=path)
        await talk.call("allowed", "list_allowed_directories")

    return scenario


# ---- servers on version 1 of the Python SDK ----


async def time_server(talk: Talk) -> None:
    """Two tools, and questions that it cannot answer."""
    await talk.open("2025-03-26")
    await talk.ask("tools", "tools/list")
    arguments = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    converted = await talk.call("convert", "convert_time", **arguments)
    assert "+9.0h" in str(converted)
    await talk.call("nowhere", "convert_time", **{**arguments, "target_timezone": "Nowhere/Here"})
    await talk.call("wrong time", "convert_time", **{**arguments, "time": "noon"})
    await talk.call("no such tool", "no_such_tool")
    await talk.ask("no prompts", "prompts/list")
    await talk.ask("unknown", "vendor/unknown")
    await talk.ask("ping", "ping")
    await talk.ask("malformed", "tools/call", {"name": []})


def git(repository: Path) -> Scenario:
    """A repository: written, committed, looked at."""

    async def scenario(talk: Talk) -> None:
        await talk.open("2025-11-25")
        await talk.ask("tools", "tools/list")
        here = {"repo_path": str(repository)}
        await talk.call("status", "git_status", **here)
        await talk.call("add", "git_add", files=["file.txt"], **here)
        await talk.call("staged", "git_diff_staged", **here)
        await talk.call("reset", "git_reset", **here)
        await talk.call("branches", "git_branch", branch_type="local", **here)
        await talk.call("log", "git_log", max_count=1, **here)
        await talk.call("no revision", "git_show", revision="nowhere", **here)
        await talk.call("no repository", "git_status", repo_path="/nowhere")

    return scenario
