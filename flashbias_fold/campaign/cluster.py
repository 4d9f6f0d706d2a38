"""A Ray cluster for a campaign: one of its own that ends with it, or one that is there and stays."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flashbias_fold.campaign.settings import Cluster
from flashbias_fold.errors import SetupError, UsageError

# Jobs and reports are small; a container's shared memory may be.
_OBJECT_STORE_BYTES = 100 * 2**20
_PATIENCE_S = 10.0
_TEMPORARY = "flashbias-ray-"
_LOCK = "driver.lock"
_LONGEST_PARENT = 20  # of the 107 bytes that the path of a socket may have Ray adds some 65
# Ray reads these when it is imported and started, and so do the processes that it starts.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
_PRIVATE = {
    # The setting by which Ray stays on the loopback interface: no other machine can reach the cluster, and it
    # needs no address of this one. Whoever else is on this machine does not know the token.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The helpers of a node whose processes were killed look for them no longer than this.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
# What the user has set for another cluster: Ray would join that, or let in who does not know the token.
_OTHERS = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")


@contextlib.contextmanager
def opened(cluster: Cluster, *, gpus: bool) -> Iterator[None]:
    """Join the cluster of an address, or start one on this machine and end it with the block.

    Args:
        cluster: Where.
        gpus: Whether a cluster of our own offers the machine's GPUs.

    Raises:
        UsageError: There is no cluster at the address.
        SetupError: None can be started here.
    """
    with contextlib.ExitStack() as stack:
        put_back = stack.enter_context(_handlers_kept())
        if cluster.address is None:
            temporary = stack.enter_context(_temporary_folder())
            token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
            stack.enter_context(_variables({**_QUIET, **_PRIVATE, **token}, without=_OTHERS))
            stack.callback(_shut_down)
            _start(temporary, gpus=gpus)
        else:
            stack.enter_context(_variables(_QUIET))
            stack.callback(_shut_down)
            _join(cluster.address)
        put_back()
        yield


def _start(temporary: Path, *, gpus: bool) -> None:
    import ray

    _say_nothing()
    try:
        ray.init(
            num_cpus=len(os.sched_getaffinity(0)),
            num_gpus=None if gpus else 0,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(temporary),
            _node_ip_address="127.0.0.1",
        )
    except SystemExit as error:  # what Ray makes of SIGTERM meanwhile
        raise KeyboardInterrupt from error
    except Exception as error:
        raise SetupError(f"--engine ray: Ray cannot be started here: {error}") from error


def _join(address: str) -> None:
    import ray

    _say_nothing()
    _knock(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except SystemExit as error:
        raise KeyboardInterrupt from error
    except Exception as error:
        raise UsageError(f"--address: no Ray cluster can be joined at {address}: {error}") from error


def _knock(address: str) -> None:
    """Find out soon whether anything answers: Ray itself tries for minutes, and cannot be interrupted."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto`, or something that Ray refuses at once
    host = host.rpartition("//")[2].strip("[]")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--address: nothing answers at {address}: {reason}") from error


def _say_nothing() -> None:
    """Ray prints of workers that die, to standard output, whatever it was told; we say it ourselves."""
    from ray._private import worker

    with contextlib.suppress(AttributeError):  # of another version
        worker._worker_logs_enabled = False


def _shut_down() -> None:
    import ray

    ray.shutdown()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for Ray's sockets and logs: with a short path, which those of sockets have to be."""
    parents = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    short = [path for path in parents if len(str(path)) <= _LONGEST_PARENT and os.access(path, os.W_OK)]
    parent = (short or parents)[0]
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent))
    try:
        # The lock is the kernel's: it goes with the process, however that ends.
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the folders of drivers that were killed."""
    for folder in parent.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError), (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _variables(values: Mapping[str, str], without: tuple[str, ...] = ()) -> Iterator[None]:
    """These variables of the environment, and not those; what the user has set stays."""
    before = {name: os.environ.get(name) for name in (*values, *without)}
    for name, value in values.items():
        os.environ.setdefault(name, value)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


@contextlib.contextmanager
def _handlers_kept() -> Iterator[Callable[[], None]]:
    """What puts signal handlers back: Ray takes SIGTERM, and would leave as if all were well."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def put_back() -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)

    try:
        yield put_back
    finally:
        put_back()
