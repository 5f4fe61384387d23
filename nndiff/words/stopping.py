"""Signals that ask a program to stop, and where they take effect.

    SIGINT (Ctrl-C)    SIGTERM, SIGUSR1, SIGHUP (schedulers, a closed terminal)

In a command, each of them raises `Stopped` wherever the program is. Work that must not be cut in two holds them back:

    with held() as stop:
        for …:
            step()                                from here on a signal waits
            if stop.asked: save(); raise Stopped(stop.asked)
            with stop.at_once():                  a signal that has waited, or comes now, raises here
                ...

A signal that was ignored when the program started stays ignored (nohup, background jobs). A second Ctrl-C does not
wait. Only the main thread can hold signals; in another one they are not held.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")  # where the system has them
STOPPING = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)
BY_HAND, REQUEUE = 130, 75  # exit codes: after Ctrl-C as in shells; else EX_TEMPFAIL, "try again later"


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop."""

    def __init__(self, signum: int = signal.SIGINT, saved: bool = False):
        super().__init__()
        self.signum = signum
        self.saved = saved  # whether the program can go on in the middle of what it did

    @property
    def name(self) -> str:
        return "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name

    @property
    def code(self) -> int:
        return BY_HAND if self.signum == signal.SIGINT else REQUEUE


class Held:
    """Signals that wait."""

    def __init__(self) -> None:
        self.asked: int | None = None  # the first signal that came
        self.raises = False

    def came(self, signum: int, frame: object = None) -> None:
        impatient = self.asked is not None and signum == signal.SIGINT
        self.asked = self.asked or signum
        if self.raises or impatient:
            self.raises = False  # the work that follows, such as saving, is not cut by another one
            raise Stopped(self.asked)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal raise in this context, also one that has waited."""
        self.raises = True
        try:
            if self.asked is not None:
                raise Stopped(self.asked)
            yield
        finally:
            self.raises = False


@contextmanager
def held() -> Iterator[Held]:
    """Hold the signals back in this context."""
    stop = Held()
    with handled(STOPPING, stop.came):
        yield stop


@contextmanager
def handled(signals: Sequence[signal.Signals], handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handle the signals in this context by `handler`, but those that are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in signals}
    heard = [each for each, known in before.items() if known is not signal.SIG_IGN]
    try:
        for each in heard:
            signal.signal(each, handler)
        yield
    finally:
        for each in heard:
            signal.signal(each, before[each] or signal.SIG_DFL)


def raise_stopped(signum: int, frame: object = None) -> None:
    raise Stopped(signum)
