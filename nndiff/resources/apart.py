"""A function in a process of its own, which may crash or hang there without harm to the program that asks.

    with Apart(io.read) as read:
        volume = read(paths, patience=600.0)

The process begins when the context is entered, and again after a call that ended it. Where `limited`, it may take as
much memory as is free. It ends with the program that began it. Arrays pass through the pipe without a copy. It is not
started by `multiprocessing`, which would run a user's script again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from nndiff.resources.machine import limit_memory
from nndiff.words.errors import NndiffError

A = TypeVar("A")
R = TypeVar("R")
SILENT = "no answer"
DAMAGED = "check the files of this case, they may be damaged"


class Lost(NndiffError):
    """A call that ended its process, or was ended with it."""

    def __init__(self, why: str):
        super().__init__("A file cannot be decoded.", found=why, remedy=DAMAGED)


class Apart(Generic[A, R]):
    """A function of one argument, by its name in a module, in a process of its own."""

    def __init__(self, function: Callable[[A], R], limited: bool = True):
        self.function, self.limited = function, limited
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False

    def __enter__(self) -> Apart[A, R]:
        self._process = self._begun()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def __call__(self, argument: A, patience: float) -> R:
        """Return function(argument), or raise its exception; wait for `patience` seconds at most."""
        if self._process is None:
            self._process = self._begun()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        answered = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        with asked, answered:
            try:
                if not self._ready:
                    answered.recv()  # its imports are not the argument's time
                    self._ready = True
                asked.send(argument)
                if not answered.poll(patience):
                    self._end()
                    raise Lost(f"{SILENT} within {patience / 60:.3g} minutes, so its process was killed")
                outcome, fine = _received(answered)
            except (EOFError, OSError):
                raise Lost(self._death()) from None
        if not fine:
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def _begun(self) -> subprocess.Popen[bytes]:
        place, name = self.function.__module__, self.function.__qualname__
        if place == "__main__":
            place = sys.modules[place].__spec__.name  # type: ignore[union-attr]  # of python -m
        asked = f"{place!r}, {name!r}, {self.limited}"
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({asked})"
        self._ready = False
        told = [f"-W{option}" for option in sys.warnoptions]
        return subprocess.Popen([sys.executable, *told, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _death(self) -> str:
        """Return why the process ended, and forget it."""
        assert self._process is not None
        code = self._process.wait()
        self._end()
        if code == -signal.SIGKILL:
            return "its process was killed from outside (SIGKILL); most likely the machine ran out of memory"
        known = {-each.value: each.name for each in signal.Signals}
        return f"its process crashed ({known.get(code, f'code {code}')})"

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for end in (process.stdin, process.stdout):
            assert end is not None
            end.close()


# ---------------------------------------------------------------- in the process


def serve(place: str, name: str, limited: bool) -> None:
    """Answer every argument that stdin brings by function(argument), and end with the program that asks."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a call, for which the asking program would wait
    asked, answered = Connection(0, writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a library prints is no answer
    arguments: SimpleQueue[Any] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                arguments.put(asked.recv())
        except (EOFError, OSError):
            os._exit(0)  # also in the middle of a call

    threading.Thread(target=listen, daemon=True).start()
    function = getattr(__import__(place, fromlist=[name]), name)
    answered.send(None)
    while True:
        argument = arguments.get()
        if limited:
            limit_memory()
        try:
            outcome = function(argument), True
        except Exception as error:
            outcome = _portable(error), False
        _send(answered, outcome)
        del outcome  # a volume, which nobody needs here any more


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _send(pipe: Connection, found: object) -> None:
    arrays: list[pickle.PickleBuffer] = []
    pipe.send_bytes(pickle.dumps(found, protocol=5, buffer_callback=arrays.append))
    pipe.send([array.raw().nbytes for array in arrays])
    for array in arrays:
        pipe.send_bytes(array.raw())


def _received(pipe: Connection) -> Any:
    found = pipe.recv_bytes()
    arrays = [bytearray(size) for size in pipe.recv()]
    for array in arrays:
        pipe.recv_bytes_into(array)
    return pickle.loads(found, buffers=arrays)
