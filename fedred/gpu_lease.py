"""GPUs of one machine, each held by one job at a time, or by a few small ones. Imports no PyTorch.

A held GPU is a file locked with flock: the kernel unlocks it when its holder ends in whatever way,
killed included. docs/decisions/gpu-lease.md
"""

import contextlib
import fcntl
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedred.errors import UserError
from fedred.folder_lock import this_process
from fedred.paths import expanded

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
FOLDER = "/tmp/fedred-gpu"  # not TMPDIR: users and jobs with another one would not see these locks
SECONDS_BETWEEN_TRIES = 0.2
QUERY = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
QUERY_SECONDS = 60


@contextlib.contextmanager
def leased(
    count: int = 1, jobs_per_gpu: int = 1, devices: Sequence[str] | None = None
) -> Iterator[list[str]]:
    """Hold GPUs while entered, waiting for them first, and let CUDA see no others.

    Enter it before CUDA starts in this process: CUDA reads CUDA_VISIBLE_DEVICES once.

    Args:
        count: how many; all are taken at once, or none.
        jobs_per_gpu: how many jobs may share one; among jobs that differ, the smallest number holds.
        devices: UUIDs to choose from; None: `visible_devices()`.

    Yields:
        The UUIDs; none where no GPU is to be seen, or where SLURM has dealt them out already.

    Raises:
        UserError: when there are too few GPUs, or their locks cannot be used.
    """
    pool = _pool() if devices is None else list(devices)
    if not pool:
        yield []
        return
    if count > len(pool):
        raise UserError(f"{count} GPUs are asked for at once, but {len(pool)} are to be seen here")
    folder = _folder()
    with _kept(folder):
        held = _wait_for(folder, pool, count, jobs_per_gpu)
        log.info("computing on %s", ", ".join(held))
        try:
            with _environment(VISIBLE, ",".join(held)):
                yield list(held)
        finally:
            for file in held.values():
                os.close(file)


def visible_devices() -> list[str]:
    """Return the UUIDs of the GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in its order.

    Indices are those of nvidia-smi, which CUDA shares if all GPUs are alike. CUDA is not started.
    """
    found = _installed_devices()
    asked = os.environ.get(VISIBLE)
    return found if asked is None or not found else _named_devices(asked, found)


def _pool() -> list[str]:
    return [] if "SLURM_JOB_ID" in os.environ else visible_devices()


def _installed_devices() -> list[str]:
    """Return the UUIDs of all GPUs, by index."""
    try:
        answer = subprocess.run(
            QUERY, capture_output=True, text=True, check=True, timeout=QUERY_SECONDS
        )
    except FileNotFoundError:
        log.debug("no nvidia-smi: no GPU is leased")
        return []
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("no GPU is leased, jobs may meet on one: nvidia-smi does not work (%s)", error)
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.startswith("GPU-")]


def _named_devices(asked: str, found: Sequence[str]) -> list[str]:
    """Return what a value of CUDA_VISIBLE_DEVICES names; as in CUDA, an unknown name ends the list."""
    named: list[str] = []
    for name in asked.split(","):
        device = _named_device(name.strip(), found)
        if device is None:
            break
        named.append(device)
    return list(dict.fromkeys(named))


def _named_device(name: str, found: Sequence[str]) -> str | None:
    if name.isdecimal():
        return found[int(name)] if int(name) < len(found) else None
    if name.startswith("MIG-"):
        return name  # a part of a GPU, which the query does not list
    alike = [device for device in found if name.startswith("GPU-") and device.startswith(name)]
    return alike[0] if len(alike) == 1 else None


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _folder() -> Path:
    """Return the folder of the locks, which all users of the machine share."""
    folder = expanded(os.environ.get("FEDRED_LOCKS") or FOLDER)
    with _told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _rights_for_all():
            folder.mkdir(mode=0o1777, exist_ok=True)
    return folder


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Keep the folder from being cleaned up: systemd-tmpfiles passes over folders locked like this."""
    with _told(folder):
        file = os.open(folder, os.O_RDONLY)
        fcntl.flock(file, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the locks of GPUs in {folder} cannot be used ({error}): "
            "name another folder, the same for all jobs, in FEDRED_LOCKS"
        ) from error


def _wait_for(folder: Path, pool: Sequence[str], count: int, jobs: int) -> dict[str, int]:
    """Return locked files by device, as soon as there is room on enough devices of the pool."""
    told = False
    with _told(folder), _ticket(folder, pool) as ticket:
        while True:
            with _alone(folder):
                ahead = _ahead(folder, ticket)
                rooms = _rooms(folder, _without_reserved(pool, ahead), jobs)
                if len(rooms) >= count:
                    return {device: _take(rooms[device]) for device in list(rooms)[:count]}
                reason = "" if told else _reason(folder, pool, len(ahead))
            if reason:
                log.info("waiting for a GPU: %s", reason)
                told = True
            time.sleep(SECONDS_BETWEEN_TRIES)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one job at a time look at the locks and change them; it takes milliseconds.

    Looking means trying to lock, so nothing but this may look.
    """
    file = _open(folder / "mutex")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def _ticket(folder: Path, pool: Sequence[str]) -> Iterator[Path]:
    """Queue: a numbered file, locked while its job waits, that names the devices it waits for."""
    with _alone(folder):
        number = 1 + max(map(_number, _tickets(folder)), default=0)
        path = folder / f"waiting.{number}"
        file = _create(path)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, "\n".join(pool).encode())
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)  # before it is unlocked: then the name may be another job's
        os.close(file)


def _tickets(folder: Path) -> list[Path]:
    return [path for path in folder.glob("waiting.*") if path.suffix[1:].isdecimal()]


def _number(ticket: Path) -> int:
    return int(ticket.suffix[1:])


def _ahead(folder: Path, ticket: Path) -> list[set[str]]:
    """Return the devices that each job ahead of this one waits for; remove tickets of dead jobs."""
    pools = []
    for other in _tickets(folder):
        if _number(other) >= _number(ticket):
            continue
        if _is_held(other):
            with contextlib.suppress(FileNotFoundError):  # served just now
                pools.append(set(other.read_text().split("\n")))
        else:
            with contextlib.suppress(OSError):  # another user's: it stays, and means nothing
                other.unlink()
    return pools


def _without_reserved(pool: Sequence[str], ahead: Sequence[set[str]]) -> list[str]:
    """Return the devices for which no earlier job waits: later ones never overtake it."""
    return [device for device in pool if not any(device in wanted for wanted in ahead)]


def _rooms(folder: Path, pool: Sequence[str], jobs: int) -> dict[str, Path]:
    """Return the file to lock on each device that has room, the emptiest device first."""
    rooms = {}
    for device in pool:
        holders = _holders(folder, device)
        if len(holders) < min([jobs, *map(_limit, holders)]):
            slots = (_slot(folder, device, place, jobs) for place in range(jobs))
            rooms[device] = len(holders), next(slot for slot in slots if slot not in holders)
    emptiest_first = sorted(rooms, key=lambda device: rooms[device][0])
    return {device: rooms[device][1] for device in emptiest_first}


def _slot(folder: Path, device: str, place: int, jobs: int) -> Path:
    return folder / f"{_file_name(device)}.{place + 1}of{jobs}"


def _file_name(device: str) -> str:
    return device.replace("/", "_")  # older drivers write MIG-GPU-.../1/0


def _limit(slot: Path) -> int:
    return int(slot.suffix.partition("of")[2])


def _holders(folder: Path, device: str) -> list[Path]:
    """Return the locked files of a device, one a job, whatever number of jobs they share it with."""
    return [slot for slot in folder.glob(f"{_file_name(device)}.*of*") if _is_held(slot)]


def _reason(folder: Path, pool: Sequence[str], ahead: int) -> str:
    held = [
        f"{device} is held by {slot.read_text().strip() or 'a job'}"
        for device in pool
        for slot in _holders(folder, device)
    ]
    return "; ".join([*held, f"jobs ahead: {ahead}"])


def _take(slot: Path) -> int:
    file = _open(slot)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with contextlib.suppress(OSError):  # for people to read; what counts is the lock
        os.ftruncate(file, 0)
        os.write(file, f"{this_process()}\n".encode())
    return file


def _is_held(path: Path) -> bool:
    """Tell whether a living job has locked a file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _open(path: Path) -> int:
    """Open a lock's file, made if it is not there.

    Never with O_CREAT where it is there: in a folder like /tmp, Linux refuses that for the files of
    other users (fs.protected_regular).
    """
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            os.close(_create(path))
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def _create(path: Path) -> int:
    with _rights_for_all():
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def _rights_for_all() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)
