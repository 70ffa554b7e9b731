"""Ctrl-C, SIGTERM and SIGHUP as requests to save and stop.

A command that such a signal ends has the exit code 128 + the signal's number,
as the shell has it, so that `a && b` stops and schedulers can tell.
"""

import os
import signal
import sys
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The run was asked to stop and has saved its state.

    Args:
        message: for the user.
        signal_name: `SIGINT` (Ctrl-C), `SIGTERM` or `SIGHUP`.
    """

    def __init__(self, message: str, signal_name: str):
        super().__init__(message)
        self.signal_name = signal_name

    @property
    def exit_code(self) -> int:
        """What the process ends with."""
        return 128 + signal.Signals[self.signal_name]


def stop_at_signals(message: str) -> None:
    """Makes SIGTERM and SIGHUP raise `Stopped` where nothing is to be saved.

    That is everywhere but in the block of a `SignalCatcher`.

    Args:
        message: what the user may do then.
    """

    def stop(number, frame):
        name = signal.Signals(number).name
        raise Stopped(f"\n{name} received: stopped. {message}".rstrip(), name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if not _is_ignored(number):
            signal.signal(number, stop)


def say(text: str) -> None:
    """Prints a line; from now on nothing, if the terminal is gone (SIGHUP)."""
    try:
        print(text, flush=True)
    except RuntimeError:
        # A signal came in the middle of printing.
        pass
    except OSError:
        sys.stdout = sys.stderr = open(os.devnull, "w")


def _is_ignored(number: int) -> bool:
    # As `nohup` has it.
    is_hangup = number == signal.SIGHUP
    return is_hangup and signal.getsignal(number) is signal.SIG_IGN


class SignalCatcher:
    """Remembers a signal within its `with` block.

    Args:
        may_stop_now: whether stopping at once would lose nothing. Compiling a
            first step can take a minute, longer than a scheduler waits.

    Attributes:
        received: name of the signal, None before one came.

    Raises:
        Stopped: inside the block, at a signal while stopping loses nothing.
        KeyboardInterrupt: inside the block, at Ctrl-C after a signal.
    """

    def __init__(self, may_stop_now: Callable[[], bool]):
        self.received: str | None = None
        self._may_stop_now = may_stop_now
        self._previous = {}

    def __enter__(self):
        for number in SIGNALS:
            if not _is_ignored(number):
                self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *unused):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number, frame):
        name = signal.Signals(number).name
        if self.received:
            # A terminal that closes sends SIGHUP twice.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = name
        if self._may_stop_now():
            raise Stopped(
                f"\n{name} received: stopped, with nothing new to save. Run "
                "the same command to resume.",
                name,
            )
        say(f"\n{name}: saving, then stopping ...")
