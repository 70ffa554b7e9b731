"""Ctrl-C and SIGTERM as requests to save and stop."""

import signal
from collections.abc import Callable


class Stopped(Exception):
    """The run was asked to stop and has saved its state.

    Args:
        message: for the user.
        signal_name: `SIGINT` (Ctrl-C) or `SIGTERM`.
    """

    def __init__(self, message: str, signal_name: str):
        super().__init__(message)
        self.signal_name = signal_name


def stop_at_sigterm() -> None:
    """Makes SIGTERM raise `Stopped` where no `SignalCatcher` is active.

    That is before and after training, when there is nothing to save.
    """

    def stop(number, frame):
        raise Stopped(
            "\nSIGTERM received: stopped. Run the same command to resume from "
            "the last checkpoint.",
            "SIGTERM",
        )

    signal.signal(signal.SIGTERM, stop)


class SignalCatcher:
    """Remembers SIGINT and SIGTERM within its `with` block.

    Args:
        may_stop_now: whether stopping at once would lose nothing. Compiling a
            first step can take a minute, longer than a scheduler waits.

    Attributes:
        received: name of the signal, None before one came.

    Raises:
        Stopped: inside the block, at a signal while stopping loses nothing.
        KeyboardInterrupt: inside the block, at a second signal.
    """

    def __init__(self, may_stop_now: Callable[[], bool]):
        self.received: str | None = None
        self._may_stop_now = may_stop_now
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *unused):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number, frame):
        if self.received:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if self._may_stop_now():
            raise Stopped(
                f"\n{self.received} received: stopped, with nothing new to "
                "save. Run the same command to resume.",
                self.received,
            )
        print(f"\n{self.received}: saving, then stopping ...", flush=True)
