"""The operation /health: the health report as JSON. In full for operators; for others, which areas are well.

It answers 503 when something is down, so that whoever looks at the status alone sees that, too; but restarting mends
little of what is reported here: `/healthz` is for those who restart, `/readyz` for those who route.
"""

from __future__ import annotations

import attrs
import msgspec

from outlast import finding
from outlast.finding import State
from outlast.health_facts import HealthFacts
from outlast.health_report import areas, report
from outlast.vitals import Vitals
from transport.exchange import Exchange, Headers
from transport.handler import JSON_HEADERS, error_body
from transport.operation import Operation

HEALTH_PATH = "/health"
NOT_STORED = (b"cache-control", b"no-store")

_to_json = msgspec.json.Encoder().encode


def health_operation(vitals: Vitals) -> Operation:
    """Make the operation that reports how this gateway is."""

    async def operate(exchange: Exchange, is_operator: bool, extra: Headers) -> None:
        if exchange.head.method not in ("GET", "HEAD"):
            await exchange.respond(405, (*JSON_HEADERS, (b"allow", b"GET, HEAD"), *extra), error_body("use GET"))
            return
        facts = await vitals.probed()
        state, document = document_of(facts, in_full=is_operator)
        status = 503 if state is State.DOWN else 200
        await exchange.respond(status, (*JSON_HEADERS, NOT_STORED, *extra), _to_json(document))

    return Operation(HEALTH_PATH, operate, operators_only=False)


def document_of(facts: HealthFacts, *, in_full: bool) -> tuple[State, dict[str, object]]:
    """Make the document, and give the state of the whole.

    Args:
      in_full: with findings and facts; else without names, numbers or versions.
    """
    findings = report(facts)
    state, ready = finding.worst(findings), not facts.not_ready_reason
    if not in_full:
        known = {area: str(one) for area, one in areas(findings).items()}
        return state, {"status": str(state), "ready": ready, "areas": known}
    return state, {**finding.as_json(findings), "ready": ready, **attrs.asdict(facts)}
