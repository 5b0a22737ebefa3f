"""A child process with piped standard streams, in a process group of its own, that is ended for certain.

Rules:

- The whole group is ended with it: `npx`, `uvx` and shells start the real server as a child of their own.
- The group is signalled only while its leader is unreaped. A reaped leader's number may belong to somebody else.
- Ending asks first (end of file on stdin, then SIGTERM), and kills only what does not go.

When the gateway itself is killed, the child reads end of file on stdin, which every MCP server ends on.
PR_SET_PDEATHSIG (by way of `setpriv`) would cover those that do not, and was weighed: it fires when the *thread* that
started the child ends, and processes are started in worker threads here (starting one takes milliseconds, which the
loop does not have); such a thread ends after ten idle seconds and would take a healthy server along.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

import structlog
import trio

_READ_BYTES = 64 * 1024
_PIPE_BYTES = 256 * 1024  # the default of 64 KiB makes both sides switch four times as often for large answers
_KILL_SECONDS_MAX = 5.0  # a killed process goes at once, unless it hangs in the kernel

_starts = trio.CapacityLimiter(4)  # of its own: the common one is shared with name look-ups

_log = structlog.get_logger(__name__)


class ChildProcess:
    """A running child. Whoever starts it must `end` it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._popen = popen
        self._exit_fd = os.pidfd_open(popen.pid)
        self._stdin, self._stdout, self._stderr = popen.stdin, popen.stdout, popen.stderr
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    def __repr__(self) -> str:
        return f"<ChildProcess {self.pid}>"

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code once it was ended; negative: the signal that killed it."""
        return self._popen.returncode

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write as much to its stdin as fits. Returns how many bytes that was.

        Raises:
          OSError: it does not read any more.
        """
        try:
            return os.write(self._stdin.fileno(), data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        """Wait until `write_nowait` can write something.

        Raises:
          trio.ClosedResourceError
        """
        await trio.lowlevel.wait_writable(self._stdin.fileno())

    async def read_output(self) -> bytes:
        """Read some of its stdout; b"" at the end."""
        return await _read(self._stdout.fileno())

    async def read_errors(self) -> bytes:
        """Read some of its stderr; b"" at the end."""
        return await _read(self._stderr.fileno())

    async def wait_exited(self) -> None:
        """Wait until the process has exited; it stays unreaped until `end`."""
        await trio.lowlevel.wait_readable(self._exit_fd)

    def kill_group(self) -> None:
        """Kill whatever is left of its group, at once."""
        self._signal_group(signal.SIGKILL)

    async def end(self, *, close_seconds: float, terminate_seconds: float) -> int | None:
        """Make the process and its group end, and reap it. Takes the sum of both times, and a little, at most.

        Returns:
          Its exit code, as `exit_code`; None if it hangs in the kernel.

        Cancellation: none; this is what runs when everything is cancelled, and the times bound it.
        """
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                # It may have to get rid of what it is writing before it looks at its stdin.
                nursery.start_soon(_discard, self._stdout.fileno())
                nursery.start_soon(_discard, self._stderr.fileno())
                await self._ask_then_kill(close_seconds, terminate_seconds)
                nursery.cancel_scope.cancel()
            self._release()
        return self._popen.returncode

    async def _ask_then_kill(self, close_seconds: float, terminate_seconds: float) -> None:
        _close(self._stdin)
        if not await self._exits_within(close_seconds):
            self._signal_group(signal.SIGTERM)
            await self._exits_within(terminate_seconds)
        self._signal_group(signal.SIGKILL)  # also after a polite exit: of what it has left behind
        if await self._exits_within(_KILL_SECONDS_MAX):
            self._popen.wait()
        else:
            _log.error("child_process_not_reaped", pid=self.pid)

    async def _exits_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.wait_exited()
            return True
        return False

    def _signal_group(self, number: signal.Signals) -> None:
        if self._popen.returncode is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        with suppress(ProcessLookupError):  # it may have moved to another group
            signal.pidfd_send_signal(self._exit_fd, number)

    def _release(self) -> None:
        for pipe in (self._stdout, self._stderr):
            _close(pipe)
        trio.lowlevel.notify_closing(self._exit_fd)
        os.close(self._exit_fd)


async def start_child(
    command: Sequence[str], *, environment: Mapping[str, str], directory: str | None = None
) -> ChildProcess:
    """Start a process.

    Args:
      environment: the whole of it.

    Raises:
      OSError: there is no such command, or it may not be started.

    Cancellation: takes effect when the process has been started; the caller gets it, to end it.
    """
    popen = await trio.to_thread.run_sync(_start, command, environment, directory, limiter=_starts)
    try:
        return ChildProcess(popen)
    except OSError:  # no file descriptor is left to watch it by
        popen.kill()
        popen.wait()
        raise


def _start(command: Sequence[str], environment: Mapping[str, str], directory: str | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        env=dict(environment),
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        pipesize=_PIPE_BYTES,
    )


async def _read(fd: int) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(fd)
        try:
            return os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue


async def _discard(fd: int) -> None:
    with suppress(OSError):
        while await _read(fd):
            pass


def _close(pipe: IO[bytes]) -> None:
    """Close a pipe; whoever waits for it gets `trio.ClosedResourceError`."""
    if not pipe.closed:
        trio.lowlevel.notify_closing(pipe.fileno())
        with suppress(BrokenPipeError):
            pipe.close()
