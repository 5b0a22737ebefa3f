"""The administration, wired to a gateway's runtime and servers."""

from __future__ import annotations

from collections.abc import Sequence

from actors.portable_redaction import without_credentials
from actors.runtime import Runtime
from outlast import __version__
from outlast.upstreams import Upstreams
from transport.admin.operation import administration
from transport.admin.routes import Seen
from transport.admin.shapes import UpstreamShown
from transport.operation import Operation


def administration_of(runtime: Runtime, upstreams: Upstreams) -> Operation:
    """Make what answers below `/admin/`."""

    def fare() -> Sequence[UpstreamShown]:
        return [
            UpstreamShown(
                server=health.name,
                transport=health.transport,
                state=health.state.value,
                since=health.since_unix_s,
                last_error=without_credentials(health.last_error),
                refuses_credentials=health.refuses_credentials,
            )
            for health in upstreams.health()
        ]

    return administration(Seen(runtime, fare, __version__))
