"""Analytics: what this process's sessions were used for. Counted as calls end; nothing is kept, and nothing is sampled.

Figures about calls are of this process, since it started: per tool and in all. A session's own totals survive restarts
with it (`SessionState.metrics`). Figures about sessions are of all that are known.

Labels are bounded: clients choose the names of tools. The first `TOOLS_MAX` tools of a server, and the first
`SERVERS_MAX` servers, are counted by name; what comes after is counted as `OTHER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from actors.histogram import Histogram, merged
from actors.messages import CallEnded
from actors.state import Call, SessionState
from persistence.buckets import Buckets
from persistence.records import SnapshotHeader

TOOLS_MAX = 200  # of one server, by name
SERVERS_MAX = 200  # by name
LABEL_CHARACTERS_MAX = 256
OTHER = "other"
ACTIVE_SECONDS = 300.0  # a session is active for so long after it was used


@attrs.frozen
class ToolUsage:
    """How one tool was used."""

    server_id: str
    tool: str
    calls: int
    errors: int  # answered with an error, interrupted, or given up; not those that clients cancelled
    error_rate: float  # of all calls, 0 to 1
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float


@attrs.frozen
class AnalyticsReport:
    """What is known of usage now."""

    sessions: int  # of which the store or this process knows
    sessions_active: int  # used within the last `ACTIVE_SECONDS`
    sessions_ended: int  # while they were in memory, since the start
    session_mean_seconds: float  # from creation to last use: of those in memory, and of those that have ended
    requests: int  # ended since the start, of all methods
    errors: int
    error_rate: float  # 0 to 1
    tools_p50_seconds: float  # of all tool calls
    tools_p95_seconds: float
    tools: tuple[ToolUsage, ...]  # most used first


class _Tool:
    """The counts of one tool."""

    __slots__ = ("errors", "histogram")

    def __init__(self) -> None:
        self.errors = 0
        self.histogram = Histogram()


class ServerUsage:
    """The counts of one server, for whoever watches the gateway."""

    __slots__ = ("errors", "requests", "seconds", "tool_calls")

    def __init__(self) -> None:
        self.requests = 0  # that have ended
        self.tool_calls = 0  # among them
        self.errors = 0  # among them
        self.seconds = Buckets()  # how long they took

    def note(self, seconds: float, *, failed: bool, tool: bool) -> None:
        """Count a request that has ended."""
        self.requests += 1
        self.tool_calls += tool
        self.errors += failed
        self.seconds.add(seconds)


class Analytics:
    """Counts, for one runtime."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self._servers: dict[str, dict[str, _Tool]] = {}
        self._usage: dict[str, ServerUsage] = {}
        self._sessions_ended = 0
        self._ended_seconds = 0.0

    def note(self, server_id: str, call: Call, ended: CallEnded) -> None:
        """Count a call that has ended."""
        self.requests += 1
        failed = ended.failed and ended.ending != "cancelled"
        self.errors += failed
        usage = self._usage.get(server_id) or self.server(server_id)
        usage.note(ended.at_unix_s - call.started_unix_s, failed=failed, tool=bool(call.label))
        if call.label:
            tool = self._tool(server_id, call.label)
            tool.errors += failed
            tool.histogram.add(ended.at_unix_s - call.started_unix_s)

    def server(self, server_id: str) -> ServerUsage:
        """Give the counts of a server."""
        if server_id not in self._usage and len(self._usage) >= SERVERS_MAX:
            server_id = OTHER
        return self._usage.setdefault(server_id, ServerUsage())

    def servers(self) -> Mapping[str, ServerUsage]:
        """Give the counts of each server that was asked something."""
        return self._usage

    def _tool(self, server_id: str, label: str) -> _Tool:
        tools = self._servers.get(server_id)
        if tools is None:
            if len(self._servers) >= SERVERS_MAX:
                server_id = OTHER
            tools = self._servers.setdefault(server_id, {})
        tool = tools.get(label)
        if tool is None:
            known = len(label) <= LABEL_CHARACTERS_MAX and len(tools) < TOOLS_MAX
            tool = tools.setdefault(label if known else OTHER, _Tool())
        return tool

    def note_session_ended(self, state: SessionState) -> None:
        """Count a session that has ended."""
        self._sessions_ended += 1
        self._ended_seconds += _lasted_seconds(state)

    def tools(self) -> tuple[ToolUsage, ...]:
        """Give each tool's figures, the most used first."""
        used = [
            _usage(server_id, name, tool) for server_id, tools in self._servers.items() for name, tool in tools.items()
        ]
        return tuple(sorted(used, key=lambda usage: (-usage.calls, usage.server_id, usage.tool)))

    def report(
        self, headers: Iterable[SnapshotHeader], resident: Iterable[SessionState], *, now_unix_s: float
    ) -> AnalyticsReport:
        """Put together what is known.

        Args:
          headers: of all sessions.
          resident: those in memory.
          now_unix_s: wall clock.
        """
        active_from = now_unix_s - ACTIVE_SECONDS
        last_uses = [header.last_active_unix_s for header in headers]
        lasted = [_lasted_seconds(state) for state in resident]
        calls = merged(tool.histogram for tools in self._servers.values() for tool in tools.values())
        counted = len(lasted) + self._sessions_ended
        return AnalyticsReport(
            sessions=len(last_uses),
            sessions_active=sum([used >= active_from for used in last_uses]),
            sessions_ended=self._sessions_ended,
            session_mean_seconds=(sum(lasted) + self._ended_seconds) / counted if counted else 0.0,
            requests=self.requests,
            errors=self.errors,
            error_rate=self.errors / self.requests if self.requests else 0.0,
            tools_p50_seconds=calls.quantile_seconds(0.50),
            tools_p95_seconds=calls.quantile_seconds(0.95),
            tools=self.tools(),
        )


def _lasted_seconds(state: SessionState) -> float:
    return max(0.0, state.last_active_unix_s - state.created_unix_s)


def _usage(server_id: str, name: str, tool: _Tool) -> ToolUsage:
    histogram = tool.histogram
    calls = histogram.count
    return ToolUsage(
        server_id=server_id,
        tool=name,
        calls=calls,
        errors=tool.errors,
        error_rate=tool.errors / calls if calls else 0.0,
        mean_seconds=histogram.mean_seconds,
        p50_seconds=histogram.quantile_seconds(0.50),
        p95_seconds=histogram.quantile_seconds(0.95),
    )
