"""The command line: `outlast serve`, `stdio`, `doctor`, `health`, `export`, `import`, `keygen`, `rekey`, `--version`.

Every refusal is one line on stderr for each thing that is wrong, saying what to do, with exit code 2. What a
command does not need is not imported (trio costs 170 ms, structlog 180, the gateway more): asking for the
version or for help must not wait.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from outlast import __version__, operators
from outlast.kinds import SWITCH
from outlast.refusing import PROGRAM
from outlast.refusing import refuse as _refuse
from outlast.settings import NOT_YET, Facts, facts
from outlast.stdio_command import stdio_command
from outlast.urls import redacted

if TYPE_CHECKING:
    from outlast.process import Serve, Serving
    from outlast.rekey import Rekeyed
    from outlast.settings import Settings

_EXIT_CODES = """\b
Exit codes:
  0         stopped as asked
  1         a defect: please report the traceback
  2         bad input (flags, configuration, store, port, a server's
            program); nothing was written
  3         the store was lost; stderr says whether to start again
  130, 143  ended at once by a second SIGINT or SIGTERM"""


def main(arguments: Sequence[str] | None = None, *, serve: Serve | None = None) -> int:
    """Run a command and give its exit code.

    Args:
      arguments: the command line without the program; None: this process's.
      serve: what `outlast serve` runs; None: the gateway.
    """
    try:
        code = _program.main(
            args=None if arguments is None else list(arguments),
            prog_name=PROGRAM,
            standalone_mode=False,
            obj=serve,
        )
    except click.ClickException as error:
        return _refuse(_about_usage(error))
    except (click.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


def _show_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    click.echo(f"{PROGRAM} {__version__}")
    context.exit()


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
@click.pass_context
def _program(context: click.Context) -> None:
    """MCP sessions that outlast restarts, crashes and deploys."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_program.add_command(stdio_command)


def _setting_flag(fact: Facts) -> Callable[[Callable[..., int]], Callable[..., int]]:
    if fact.kind is SWITCH:
        form: dict[str, Any] = {"is_flag": True, "flag_value": "true", "default": None}  # None: it was not given
    else:
        form = {"multiple": fact.name == "servers", "metavar": fact.kind.metavar}
    return click.option(
        fact.flag,
        fact.name,
        **form,
        help=f"{fact.about[0].upper()}{fact.about[1:]}.  [{fact.variable}; {fact.default_text}]",
    )


def _setting_flags(command: Callable[..., int]) -> Callable[..., int]:
    """Add a flag for each setting that has one; click only splits them, their kinds judge them."""
    for fact in reversed([fact for fact in facts().values() if fact.flag]):
        command = _setting_flag(fact)(command)
    return command


def _other_settings() -> str:
    others = [fact for fact in facts().values() if not fact.flag]
    lines = [f"  {fact.variable} [{fact.default_text}]\n      {fact.about}" for fact in others]
    if NOT_YET:
        lines.append(f"Not in this version: {', '.join(not_yet.variable for not_yet in NOT_YET.values())}")
    return "\n".join(["\b", "Further settings, in the environment:", *lines])


_config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),  # whether it can be read shows when it is read, in one way
    metavar="FILE",
    help="A TOML file with a table [outlast] of settings.  [OUTLAST_CONFIG]",
)


@_program.command(
    "serve",
    short_help="Serve MCP sessions in front of one or more MCP servers.",
    epilog=f"{_other_settings()}\n\n{_EXIT_CODES}",
)
@_config_option
@_setting_flags
@click.option("--check", "only_check", is_flag=True, help="Only look whether it would start: exit code 0 or 2.")
@click.pass_context
def _serve_command(context: click.Context, /, config: Path | None, only_check: bool, **given: object) -> int:
    """Serve MCP sessions in front of one or more MCP servers.

    A TARGET is http(s)://HOST/PATH (Streamable HTTP; HTTP+SSE where the server speaks nothing newer),
    sse+http(s)://HOST/PATH (HTTP+SSE), ws(s)://HOST/PATH (WebSocket) or "stdio:COMMAND ARG..." (a program, one
    process for each session); a lone one needs no NAME. Flags win over the environment, over the file, over
    defaults; a setting comes whole from one of them. When ready, one line on stdout says where it listens; logs
    go to stderr.
    """
    from outlast.advice import advice
    from outlast.endings import StartRefused
    from outlast.preflight import check_start
    from outlast.sources import SettingsInvalid, load_settings

    flags = {name: value for name, value in given.items() if value not in (None, ())}
    try:
        settings = load_settings(config=config, environment=os.environ, flags=flags)
        check_start(settings)
    except (SettingsInvalid, StartRefused) as error:
        return _refuse(*error.lines)
    advised = advice(settings, config, os.environ)
    if only_check:
        for line in advised:
            _tell(line)
        _tell("the configuration is in order, and nothing stands against a start; nothing was changed")
        return 0
    return _run(settings, context.obj, advised)


def _run(settings: Settings, serve: Serve | None, advised: Sequence[str]) -> int:
    import structlog
    import trio

    from outlast.endings import OK, StartRefused, ending_of, tell_defect
    from outlast.process import announce_on_stdout, serve_until_told
    from outlast.service_manager import ServiceManager
    from persistence.store import StoreError

    ready = False

    def announce(serving: Serving) -> None:
        nonlocal ready
        ready = True
        announce_on_stdout(serving)

    _log_as(settings)
    for line in advised:
        structlog.get_logger("outlast").warning("look at the configuration", advice=line)
    try:
        manager = ServiceManager.of(os.environ)
        trio.run(functools.partial(serve_until_told, settings, serve or _gateway(), announce, manager=manager))
    except (StoreError, StartRefused, OSError, KeyboardInterrupt, BaseExceptionGroup) as error:
        ending = ending_of(error, listen=settings.listen, ready=ready)
        if ending is None:
            return tell_defect(error)
        return _refuse(*ending.lines, code=ending.code)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends the process here, as a line like all others
        return tell_defect(error)
    return OK


def _log_as(settings: Settings) -> None:
    from outlast.logs import log_as

    log_as(settings, os.environ)


def _gateway() -> Serve:
    """Give the one thing that `outlast serve` runs."""
    from outlast.serving import serve

    return serve


_take_over_flag = click.option(
    "--take-over", is_flag=True, help="Take the store from a gateway that is serving from it; that one ends."
)


def _store_flags(command: Callable[..., int]) -> Callable[..., int]:
    """Add what says which store is meant, in the same words as `serve`."""
    return _config_option(_setting_flag(facts()["store"])(command))


_MOVING_EXIT_CODES = """\b
Exit codes:
  0  done
  1  done, but for some sessions; stderr says which
  2  bad input (flags, document, store); nothing was written,
     or stderr says what was
  3  the store's device failed, its contents have gone, or it was taken over"""


@_program.command("export", short_help="Write all sessions of a store as one JSON document.", epilog=_MOVING_EXIT_CODES)
@_store_flags
@click.option("--output", default="-", metavar="FILE", help="Where to write; - is stdout.  [-]")
@click.option("--with-secrets", is_flag=True, help="Leave nothing out, so that the document can be imported.")
def _export_command(config: Path | None, store: str | None, output: str, with_secrets: bool) -> int:
    """Write all sessions of a store as one JSON document.

    Without --with-secrets it is for looking at: ids of sessions, messages and credentials are left out. With it, the
    document can be imported, and who has it has the sessions. The store must not be in use by a gateway.
    """
    settings = _store_settings(config, store)
    if isinstance(settings, int):
        return settings
    from outlast.moving import run_export

    return run_export(settings, output, with_secrets=with_secrets, tell=_tell, refuse=_refuse)


@_program.command("import", short_help="Write the sessions of a document into a store.", epilog=_MOVING_EXIT_CODES)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_store_flags
@click.option("--replace", is_flag=True, help="Replace sessions that the store has already.")
@_take_over_flag
def _import_command(file: Path, config: Path | None, store: str | None, replace: bool, take_over: bool) -> int:
    """Write the sessions of a document into a store.

    All of the document is checked before anything is written; what is wrong is named by its path in it. The store
    must not be in use by a gateway. With --store memory: the document is checked, and nothing else.
    """
    settings = _store_settings(config, store)
    if isinstance(settings, int):
        return settings
    from outlast.moving import run_import

    return run_import(settings, file, replace=replace, take_over=take_over, tell=_tell, refuse=_refuse)


def _store_settings(config: Path | None, store: str | None) -> Settings | int:
    from outlast.sources import SettingsInvalid, load_settings

    try:
        settings = load_settings(config=config, environment=os.environ, flags={} if store is None else {"store": store})
    except SettingsInvalid as error:
        return _refuse(*error.lines)
    _log_as(settings)
    return settings


def _tell(line: str) -> None:
    click.echo(f"{PROGRAM}: {line}", err=True)  # stdout may be the document


@_program.command("health", short_help="Ask a running gateway how it is, and what to do about it.")
@click.option("--url", metavar="URL", help="The gateway's URL.  [http:// and OUTLAST_LISTEN, or its default]")
@click.option("--cafile", type=click.Path(path_type=Path), metavar="FILE", help="Whom to trust (PEM), for https.")
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
def _health_command(url: str | None, cafile: Path | None, as_json: bool) -> int:
    """Ask a running gateway how it is, and what to do about what is not well.

    The report in full is for operators: from the gateway's own machine, or with its token in
    OUTLAST_OPERATORS_TOKEN.

    \b
    Exit codes:
      0  healthy
      1  degraded: it serves, and somebody should act; or it is starting or stopping
      2  down: what it is for does not work; or no answer, or bad input
    """
    import json

    import trio

    from outlast.health import ask_health, health_base, trust
    from outlast.kinds import Refused
    from outlast.urls import local_url, read_address

    try:
        listen = os.environ.get(facts()["listen"].variable) or facts()["listen"].default_text
        base = health_base(url if url is not None else local_url(read_address(listen)))
    except Refused as refused:
        return _refuse(f"--url {redacted(url)}: {refused}" if url is not None else f"OUTLAST_LISTEN: {refused}")
    try:
        context = None if cafile is None else trust(cafile)
    except Refused as refused:
        return _refuse(f"--cafile {cafile}: {refused}")
    token = os.environ.get(facts()["operators_token"].variable) or None
    health = trio.run(functools.partial(ask_health, base, token=token, context=context))
    if as_json:
        click.echo(json.dumps(health.as_json(), indent=2))
        return health.code
    click.echo(f"{PROGRAM}: {health}")
    for line in health.lines():
        click.echo(line)
    return health.code


@_program.command("doctor", short_help="Look at what a gateway would rest on, before it runs.")
@_config_option
@_setting_flags
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
def _doctor_command(config: Path | None, as_json: bool, **given: object) -> int:
    """Look at what a gateway with these settings would rest on, before it runs; nothing is changed.

    The configuration, the file system and its syncs, the store and its key, Redis and how it is set up, the clock, the
    open-file limit.

    \b
    Exit codes:
      0  all is well
      1  it would run, and somebody should act
      2  it would not run, or bad input
    """
    from outlast.sources import SettingsInvalid, load_settings

    flags = {name: value for name, value in given.items() if value not in (None, ())}
    try:
        settings = load_settings(config=config, environment=os.environ, flags=flags)
    except SettingsInvalid as error:
        return _refuse(*error.lines)
    _log_as(settings)
    import json

    import trio

    from outlast import finding
    from outlast.doctor import examine

    findings = trio.run(examine, settings)
    if as_json:
        click.echo(json.dumps(finding.as_json(findings), indent=2))
    else:
        for line in finding.lines_of(findings):
            click.echo(line)
    return int(finding.worst(findings))


@_program.command("keygen", short_help="Make a key for SESSION_ENCRYPTION_KEY.")
def _keygen_command() -> int:
    """Make a key for SESSION_ENCRYPTION_KEY, on stdout; what to do with it, on stderr."""
    from outlast.keygen import make_key

    key, about = make_key()
    click.echo(key)
    click.echo(f"{PROGRAM}: {about}", err=True)
    return 0


@_program.command("rekey", short_help="Encrypt all stored records with the newest key.")
@_config_option
@_setting_flag(facts()["data_directory"])
@_setting_flag(facts()["store"])
@click.option("--count", "only_count", is_flag=True, help="Only count the records by key; change nothing.")
@_take_over_flag
def _rekey_command(config: Path | None, only_count: bool, take_over: bool, **given: object) -> int:
    """Encrypt all stored records with the newest key of SESSION_ENCRYPTION_KEY, its first one.

    The gateway must not be running on that store. To change a key: put the new one in front of the old one,
    and start the gateway with both; records get under the new one as sessions are used. When it can be
    stopped, run this; then the old key can be taken out.

    
    Exit codes:
      0  done
      1  some records could not be rewritten (their key is missing, or they are newer or damaged); they are
         as they were
      2  bad input, or a store that cannot be used
    """
    from outlast.endings import StartRefused, ending_of
    from outlast.rekey import describe
    from outlast.sources import SettingsInvalid, load_settings
    from persistence.store import StoreError

    flags = {name: value for name, value in given.items() if value is not None}
    try:
        settings = load_settings(config=config, environment=os.environ, flags=flags)
    except SettingsInvalid as error:
        return _refuse(*error.lines)
    _log_as(settings)
    try:
        rekeyed = _rekey(settings, only_count=only_count, take_over=take_over)
    except (StartRefused, StoreError, KeyboardInterrupt) as error:
        ending = ending_of(error, listen=settings.listen, ready=False)
        assert ending is not None, "these are known"
        return _refuse(*ending.lines, code=ending.code)
    for line in describe(rekeyed.counts, settings.encryption_keys):
        click.echo(line)
    if rekeyed.left:
        return _refuse(f"{rekeyed.left} records could not be rewritten; they are as they were", code=1)
    return 0


def _rekey(settings: Settings, *, only_count: bool, take_over: bool) -> Rekeyed:
    import trio

    from outlast.rekey import Rekeyed, count_by_key, rekey

    if only_count:
        return Rekeyed(trio.run(count_by_key, settings), rewritten=0, left=0)
    with click.progressbar(length=0, label=f"{PROGRAM}: rewriting records", file=sys.stderr) as bar:

        def tell(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        return trio.run(functools.partial(rekey, settings, take_over=take_over, tell=tell))


for _command in (operators.sessions, operators.analytics, operators.top):
    _program.add_command(_command)


def _about_usage(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    if not isinstance(error, click.UsageError):
        return message
    # An option without its value is found while click still splits the words: it does not say of which command.
    path = error.ctx.command_path if error.ctx is not None else f"{PROGRAM} COMMAND"
    return f"{message}; see {path} --help"
