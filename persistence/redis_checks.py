"""What a server must be to keep sessions: judged by what it says of itself (INFO). Pure.

Measured: a server with an evicting policy removed 66 % of what it had acknowledged, without a word; one without an
append-only file comes back empty. Both are refused, with the commands that mend it. Server software that hides its
configuration is believed, with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from persistence.redis_url import EVICTION, NO_AOF

VERSION_MIN = (7, 0)  # before, a script cannot be told apart by what it may do when there is no room

# What is looked at, as metrics name it. "hidden": the server does not say.
CHECKS = ("version", "role", "eviction", "append_only", "replicas", "sentinels", "hidden")

Facts = Mapping[str, str]


@attrs.frozen
class Judgement:
    """What was found."""

    refusals: tuple[str, ...] = ()  # it cannot be used; each says what to do
    warnings: tuple[str, ...] = ()  # it can, and someone should know
    troubles: frozenset[str] = frozenset()  # of `CHECKS`, what is not as it should be, or not known


def read_info(text: str) -> dict[str, str]:
    """Read what INFO answers."""
    lines = [line.partition(":") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value for name, colon, value in lines if colon}


def judge(facts: Facts, unsafe: frozenset[str] = frozenset()) -> Judgement:
    """Judge a server.

    Args:
      facts: what it says of itself; {} if it does not say.
      unsafe: which dangers somebody has chosen to live with.
    """
    if not facts:
        return Judgement(
            warnings=("the server does not say how it is set up (INFO is denied): eviction and AOF are not checked",),
            troubles=frozenset(("hidden",)),
        )
    looks = {"version": _version(facts), "role": _role(facts)}
    refusals = [refusal for found in looks.values() for refusal in found]
    dangers = {EVICTION: _eviction(facts), NO_AOF: _append_only(facts)}
    warnings = [] if "aof_enabled" in facts else ["the server does not say whether it has an append-only file"]
    looks |= {"eviction": dangers[EVICTION], "append_only": dangers[NO_AOF], "hidden": warnings}
    troubles = frozenset(name for name, found in looks.items() if found)
    for word, found in dangers.items():
        if found and word in unsafe:
            warnings.append(f"{found[0].partition('. Set')[0]}; accepted with unsafe={word}")
        else:
            refusals += found
    return Judgement(tuple(refusals), tuple(warnings), troubles)


def replicas_missing(facts: Facts, replicas: int) -> str:
    """Say that fewer replicas are connected than are to be waited for; "" when there are enough."""
    connected = facts.get("connected_slaves", "")
    if not replicas or not connected.isdecimal() or int(connected) >= replicas:
        return ""
    return f"{connected} of {replicas} replicas are connected: nothing can be acknowledged until the others are"


def _version(facts: Facts) -> Sequence[str]:
    version = facts.get("redis_version", "")
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if len(numbers) == 2 and tuple(numbers) < VERSION_MIN:
        return [f"the server is Redis {version}; Redis 7.0, Valkey 7.2 or newer is needed"]
    return []


def _role(facts: Facts) -> Sequence[str]:
    if "sentinel" in (facts.get("redis_mode"), facts.get("server_mode")):
        return ["the server is a sentinel, and keeps nothing: say redis+sentinel://HOST:PORT/DATABASE?service=NAME"]
    if facts.get("role") == "slave":
        primary = f"{facts.get('master_host', '')}:{facts.get('master_port', '')}"
        return [f"the server is a replica of {primary}: name the primary"]
    return []


def _eviction(facts: Facts) -> Sequence[str]:
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return []
    said = f"the server's maxmemory-policy is {policy}: when its memory is full it removes sessions without a word"
    return [f'{said}. Set "CONFIG SET maxmemory-policy noeviction" (and the same in its configuration file)']


def _append_only(facts: Facts) -> Sequence[str]:
    if facts.get("aof_enabled", "1") != "0":
        return []
    said = "the server has no append-only file: when it ends, sessions are gone"
    commands = '"CONFIG SET appendonly yes" and "CONFIG SET appendfsync everysec", or always'
    return [f"{said}. Set {commands} (and the same in its configuration file)"]
