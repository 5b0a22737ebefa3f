"""Where settings come from: a TOML file's [outlast] table, the environment, flags; the later wins.

A setting comes whole from one source: `--server` replaces the file's servers, it does not add to them.

All of them are read to the end and every mistake is reported at once, each with its place, its key, its value
and what is allowed. A name that is not known is a mistake too: a limit that silently is not in force is worse
than a start that fails. An empty variable counts as absent (that is how compose files write "not set").
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from outlast.kinds import Refused
from outlast.settings import NOT_YET, VARIABLE_PREFIX, Facts, Settings, facts
from persistence.redis_url import EXPECTED, is_redis_url, with_sentinel_password

TABLE = "outlast"  # the file's one table
CONFIG_VARIABLE = "OUTLAST_CONFIG"  # names the file where no flag does
REDIS_VARIABLE = "REDIS_URL"
SENTINEL_PASSWORD_VARIABLE = "REDIS_SENTINEL_PASSWORD"

_LINE = re.compile(r"\(at line (\d+),")  # in tomllib's errors
_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_FILE_BYTES_MAX = 1024 * 1024  # a configuration is a few lines; whatever is larger is another file

# In the cluster of a service called "outlast" (or "outlast-anything") Kubernetes gives every container
# variables of these shapes. They are no spelling mistakes of ours: failing on them would break the most
# natural deployment.
_KUBERNETES = re.compile(
    r"OUTLAST_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


@attrs.frozen
class Mistake:
    """One thing that is wrong with the configuration."""

    where: str  # the file, "environment" or "command line"
    key: str  # as written there; "" when it is about the whole
    shown: str  # the value without secrets; "" when it adds nothing
    problem: str  # what is wrong and what is allowed

    def __str__(self) -> str:
        value = f"{self.key} = {self.shown}" if self.key and self.shown else self.key
        return ": ".join(part for part in (self.where, value, self.problem) if part)


class SettingsInvalid(Exception):
    """The configuration has mistakes; all of them are in `mistakes`."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """Each mistake in a line."""
        return tuple(str(mistake) for mistake in self.mistakes)


def load_settings(
    *,
    config: Path | None = None,
    environment: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings from all their sources: flags win over the environment, over the file, over defaults.

    Args:
      config: the TOML file; None: the one that OUTLAST_CONFIG names, if any.
      environment: `os.environ`.
      flags: values from the command line by the setting's name; only those that were given.

    Raises:
      SettingsInvalid: with every mistake that was found.
    """
    mistakes: list[Mistake] = []
    named = environment.get(CONFIG_VARIABLE, "")
    if config is None and named:
        config = Path(named)
    values: dict[str, object] = {}
    if config is not None:
        values |= _from_file(config, mistakes)
    values |= _from_environment(environment, mistakes)
    values |= _from_flags(flags or {}, mistakes)
    if environment.get(REDIS_VARIABLE) and "store" not in values:
        _read_redis(environment[REDIS_VARIABLE], values, mistakes)
    if mistakes:
        raise SettingsInvalid(mistakes)
    password = environment.get(SENTINEL_PASSWORD_VARIABLE, "")
    if password and "store" in values:  # which is kept beside URLs as often as in them
        values["store"] = with_sentinel_password(str(values["store"]), password)
    return Settings(**values)  # type: ignore[arg-type]  # each was read by its own field's kind


def _from_file(path: Path, mistakes: list[Mistake]) -> dict[str, object]:
    try:
        table = _table(path)
    except Refused as refused:
        mistakes.extend(Mistake(str(path), "", "", problem) for problem in refused.problems)
        return {}
    values: dict[str, object] = {}
    for key, raw in table.items():
        if key in NOT_YET:
            _refuse_not_yet(str(path), key, key, raw, mistakes)
        elif key in facts():
            _read(facts()[key], raw, where=str(path), key=key, values=values, mistakes=mistakes)
        else:
            problem = f"there is no such setting{_nearest(key, [*facts(), *NOT_YET])}"
            mistakes.append(Mistake(str(path), key, "", problem))
    return values


def _table(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(f"the configuration cannot be read: {error.strerror}") from None
    if len(content) > _FILE_BYTES_MAX:
        raise Refused(f"the configuration is larger than {_FILE_BYTES_MAX} bytes: is this the right file?")
    try:
        tables = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise Refused("this is not TOML: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(_about_toml(str(error), content.decode())) from None
    strangers = [_about_stranger(name) for name in tables if name != TABLE]
    table: object = tables.get(TABLE, {})
    if not isinstance(table, dict):
        strangers.append(f"{TABLE!r} must be a table: write [{TABLE}] above the settings")
    if strangers or not isinstance(table, dict):
        raise Refused(*strangers)
    return table


def _about_toml(error: str, text: str) -> str:
    """Say what is wrong with a text that is not TOML; a key that is there twice is named."""
    line = _LINE.search(error)
    if line is not None and "overwrite" in error:
        key = text.split("\n")[int(line[1]) - 1].partition("=")[0].strip()
        if _KEY.fullmatch(key):
            return f"line {line[1]}: {key} is there twice"
    return f"this is not TOML: {error}"


def _about_stranger(name: str) -> str:
    if name in facts() or name in NOT_YET:
        return f"{name}: settings stand in a table: write [{TABLE}] above them"
    return f"{name}: there is no such table{_nearest(name, [TABLE])}; settings stand in [{TABLE}]"


def _from_environment(environment: Mapping[str, str], mistakes: list[Mistake]) -> dict[str, object]:
    where = "environment"
    values: dict[str, object] = {}
    known = {fact.variable: fact for fact in facts().values()}
    for variable, fact in known.items():
        if environment.get(variable):
            text = environment[variable]
            _read(fact, text, where=where, key=variable, values=values, mistakes=mistakes)
    for name, not_yet in NOT_YET.items():
        if environment.get(not_yet.variable):
            _refuse_not_yet(where, not_yet.variable, name, environment[not_yet.variable], mistakes)
    for variable in sorted(environment):
        if not variable.startswith(VARIABLE_PREFIX) or variable in known or variable == CONFIG_VARIABLE:
            continue
        if not _KUBERNETES.fullmatch(variable):
            mistakes.append(Mistake(where, variable, "", _about_unknown_variable(variable, known)))
    return values


def _read_redis(url: str, values: dict[str, object], mistakes: list[Mistake]) -> None:
    """Take the variable that platforms set for their Redis as the store, where no store was chosen.

    One that says `memory:` or names a file is a mistake there, not a choice.
    """
    if not is_redis_url(url):
        mistakes.append(Mistake("environment", REDIS_VARIABLE, "", f"it must be {EXPECTED}, or unset"))
        return
    _read(facts()["store"], url, where="environment", key=REDIS_VARIABLE, values=values, mistakes=mistakes)


def _about_unknown_variable(variable: str, known: Iterable[str]) -> str:
    name = variable.removeprefix(VARIABLE_PREFIX).lower()
    if name in facts():
        return f"this setting's variable is {facts()[name].variable}"
    return f"there is no such setting{_nearest(variable, [*known, CONFIG_VARIABLE])}"


def _from_flags(flags: Mapping[str, object], mistakes: list[Mistake]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, raw in flags.items():
        fact = facts()[name]
        _read(fact, raw, where="command line", key=fact.flag, values=values, mistakes=mistakes)
    return values


def _read(
    fact: Facts,
    raw: object,
    *,
    where: str,
    key: str,
    values: dict[str, object],
    mistakes: list[Mistake],
) -> None:
    try:
        values[fact.name] = fact.kind.read(raw)
    except Refused as refused:
        shown = fact.kind.show(raw)
        mistakes.extend(Mistake(where, key, shown, problem) for problem in refused.problems)


def _refuse_not_yet(where: str, key: str, name: str, raw: object, mistakes: list[Mistake]) -> None:
    not_yet = NOT_YET[name]
    if str(raw).lower() in not_yet.harmless:
        return
    # The value is not shown: it may be a key.
    problem = f"this version cannot {not_yet.promise} yet; leave it out"
    mistakes.append(Mistake(where, key, "", problem))


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""
