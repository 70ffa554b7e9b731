"""Ctrl-C and SIGTERM as requests that a run answers when it is ready."""

import signal
from collections.abc import Callable


class Stopped(Exception):
    """The run was asked to stop and has saved its state.

    Args:
        message: for the user.
        signal_name: what asked: `SIGINT` (Ctrl-C) or `SIGTERM`.
    """

    def __init__(self, message: str, signal_name: str):
        super().__init__(message)
        self.signal_name = signal_name


def stop_at_sigterm() -> None:
    """Makes SIGTERM raise `Stopped`, wherever no `SignalCatcher` is active.

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
    """Remembers SIGINT and SIGTERM for the time of its `with` block.

    Args:
        may_stop_now: whether nothing would be lost by stopping at once. A
            first step can take a minute to be compiled, longer than a machine
            that is taken away waits.

    Attributes:
        received: the signal's name, None before it.

    Raises:
        Stopped: from within the block, if a signal comes when it may stop.
        KeyboardInterrupt: at a second signal, which means now.
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
