"""One owner for a folder: two programs that write into one would undo each other's work.

    with owned(folder): …

While it lasts, a file `.lock` in the folder names the host, the process and the command. Another program is refused,
unless the owner is gone: its process has ended (same machine and the same space of process numbers), or the file, which
a living owner touches every half minute, is five minutes old (another machine; by the clock of the file system), or its
scheduler has begun its job again, perhaps elsewhere. In a copy of a folder the file means nothing. Parts of one work
can own a folder together, each under a name of its own; the whole cannot beside a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from nndiff.words.errors import NndiffError
from nndiff.words.files import PART, explained
from nndiff.words.lives import life
from nndiff.words.processes import runs, signature, space, started

LOCK, UNLOCK = ".lock", ".unlock"
BEAT, DEAD = 30.0, 300.0  # seconds after which an owner touches its lock, and after which it is taken for dead
TRIES, PAUSE = 100, 0.05  # to take a lock that others take or give back at the same time


@dataclass(frozen=True)
class Owner:
    host: str
    space: str  # of process numbers: containers on one machine have their own
    process: int
    started: str  # tells a process from a later one with the same number
    command: str
    since: str
    folder: int = 0  # its number in the file system, by which a copy of a folder is told
    token: str = ""  # tells two owners of one process apart
    job: str = ""  # of a scheduler
    life: int = 0  # of the job: a later one begins only after an earlier one has ended

    @classmethod
    def this(cls, folder: Path, job: str = "") -> Owner:
        name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c") else "python"
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(
            host=platform.node(),
            space=_space(),
            process=os.getpid(),
            started=started(os.getpid()),
            command=name,
            since=since,
            folder=folder.stat().st_ino,
            token=uuid.uuid4().hex,
            job=job or life().job,
            life=time.time_ns() if job else life().number,
        )

    @property
    def here(self) -> bool:
        return (self.host, self.space) == (platform.node(), _space())

    @property
    def runs(self) -> bool:
        """Return whether the process runs; only for one that was here."""
        return runs(self.process, self.started)

    def was_before(self, other: Owner) -> bool:
        """Return whether the other one is a later life of this one's job."""
        return self.job != "" and self.job == other.job and self.life < other.life


UNKNOWN = Owner("?", "", 0, "", "an unknown program", "an unknown time")


@contextlib.contextmanager
def owned(folder: Path, part: str = "", job: str = "") -> Iterator[None]:
    """Own the folder, or a part of the work on it, in this context; refuse if another program does.

    `job` names the work if a scheduler may begin it again that sets no variables.
    """
    made = not folder.exists()
    path = folder / f"{LOCK}{part}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = Owner.this(folder, job)
        _take(path, own)
    except OSError as error:
        raise explained(error, path) from error
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        if _owner(path) == own:
            with contextlib.suppress(OSError):
                path.unlink()
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing was written


def _take(path: Path, own: Owner) -> None:
    for _ in range(TRIES):
        if _demand_free(path, own) and _written(path, own):
            try:
                _demand_free(path, own)  # a part and the whole may have begun at the same time
            except NndiffError:
                path.unlink()
                raise
            return
    raise NndiffError(
        "Several programs tried to own the folder at the same time.", where=path.parent, remedy="start them again"
    )


def _demand_free(path: Path, own: Owner) -> bool:
    """Refuse if another program owns the folder, or for the whole a part of it; remove locks of those that are gone.

    Returns whether nothing stands in the way.
    """
    free = True
    for other in path.parent.glob(f"{LOCK}*") if path.name == LOCK else (path, path.with_name(LOCK)):
        owner = _owner(other)
        if owner is None or (other == path and owner == own):
            continue
        if not (owner.was_before(own) or _is_gone(other, owner)):
            raise _in_use(other, owner)
        _discard(other, owner)
        free = free and not other.exists()
    return free


def _written(path: Path, own: Owner) -> bool:
    """Write the lock whole, or return False if there is one."""
    part, text = _beside(path), json.dumps(asdict(own)) + "\n"
    try:
        part.write_text(text, encoding="utf-8")
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as stream:
                stream.write(text)
            return _owner(path) == own
    finally:
        part.unlink(missing_ok=True)
    return True


def _owner(path: Path) -> Owner | None:
    """Return what the lock says, or None if there is none."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8", errors="replace")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # not written to the end; its age decides
        return UNKNOWN


def _is_gone(path: Path, owner: Owner) -> bool:
    if owner.here:
        return not owner.runs or owner.folder != path.parent.stat().st_ino
    now = _beside(path)
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime > DEAD
    except FileNotFoundError:
        return True
    finally:
        now.unlink(missing_ok=True)


def _discard(path: Path, owner: Owner) -> None:
    """Remove the lock of an owner that is gone, unless another program has taken it over.

    Only who made the folder `.unlock` removes the lock of another one, so nobody removes a lock that is new.
    """
    door = path.with_name(UNLOCK)
    try:
        door.mkdir()
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - door.stat().st_mtime > DEAD:  # its maker was killed
                door.rmdir()
        time.sleep(PAUSE)
        return
    try:
        if _owner(path) == owner:
            path.unlink()
    finally:
        door.rmdir()


def _beside(path: Path) -> Path:
    """Return a name for a temporary file that `sweep` removes if this process is killed."""
    return path.with_name(f"{PART}{signature()}+{uuid.uuid4().hex}")


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _in_use(path: Path, owner: Owner) -> NndiffError:
    where = "this machine" if owner.host == platform.node() else owner.host
    return NndiffError(
        "Another program writes into this folder.",
        found=f"{owner.command}, process {owner.process} on {where}, since {owner.since}"
        if owner != UNKNOWN
        else f"{path.name}, which cannot be read",
        where=path.parent,
        remedy=f"wait until it ends, or stop it; if you know that it does not run any more, delete {path.name} there",
    )


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {space()}"
    except OSError:
        return ""
