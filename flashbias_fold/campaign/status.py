"""How a run stands, from its folder alone: of a campaign or of a local run, while it runs or after.

What is read may be of another version, of a run that was killed, or nobody's: whatever it holds, the answer
is a text or one error of ours. Nothing is locked and nothing is written, so looking never disturbs a run.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import re
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from flashbias_fold.campaign.lease import STALE_S, holder_of, start_of, this_process
from flashbias_fold.errors import UsageError
from flashbias_fold.files import read_json
from flashbias_fold.predict.ending import INTERRUPTED, read_end
from flashbias_fold.predict.folder import ERROR, LOCK, REPORT, RUN, completed_reports

_SKEW_S = 60.0  # by which two machines' clocks, or a file server's, may differ
_NEWEST = 5
_MOST_WORKERS = 100
_STATES = ("done", "skipped", "failed", "running", "pending")
_AGAIN = "the same command goes on from the outputs that are complete"

Kind = TypeVar("Kind")


def status_of(folder: Path) -> dict[str, Any]:
    """How the run of a folder stands, as `--json` prints it.

    Raises:
        UsageError: It is no run's folder, or its state cannot be read.
    """
    try:
        if not folder.is_dir():
            instead = "a file" if folder.exists() else "nothing"
            raise UsageError(f"{folder}: expected the folder of a run, found {instead}")
        run = _run(folder)
        return _from_outputs(folder) if run is None else _from_run(folder, run)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror or error}") from error


def _from_run(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    campaign = _get(run, "campaign", dict) or {}
    age = _age(_get(run, "updated", str))
    driver = _driver(folder, run, campaign, age)
    why = _why_ended(folder, driver)
    state = _state(folder, run, driver, why)
    counts = _counts(run)
    over = counts["done"] + counts["failed"]
    elapsed = _number(campaign.get("elapsed_s"))
    if elapsed is None:
        elapsed = _elapsed(run)
    per_hour = _number(campaign.get("per_hour"))
    if per_hour is None and over and elapsed:
        per_hour = 3600 * over / elapsed
    remaining = _number(campaign.get("remaining_s"))
    if remaining is None and per_hour:
        remaining = 3600 * (counts["running"] + counts["pending"]) / per_hour
    model = _get(run, "model", dict) or {}
    return {
        "folder": str(folder),
        "source": RUN,
        "state": state,
        "why": why,
        "engine": _get(run, "engine", str) or "local",
        "model": _get(model, "name", str),
        "demo_model": model.get("demo_model") is True,
        "counts": counts,
        "elapsed_s": elapsed,
        "per_hour": per_hour,
        "remaining_s": remaining if state == "running" else None,
        "updated_s_ago": age,
        "driver": driver,
        "nodes": _number((_get(campaign, "cluster", dict) or {}).get("nodes")),
        "workers": _workers(campaign),
        "deaths": int(_number(campaign.get("deaths")) or 0),
        "failures": _failures(folder, run, campaign)[-_NEWEST:],
        "command": _command(run),
    }


def _run(folder: Path) -> dict[str, Any] | None:
    """What `run.json` holds, None where there is no such file."""
    path = folder / RUN
    try:
        run = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        run = None
    if _get(run, "jobs", dict) is None or _get(run, "status", str) is None:
        raise UsageError(f"{path} is damaged, or not ours; without it, {_AGAIN} and writes it anew")
    return run


def _from_outputs(folder: Path) -> dict[str, Any]:
    """What can be said without `run.json`, which a run writes only when there is something to say."""
    done = sum(1 for _ in completed_reports(folder))
    failed = [path.parent.name for path in sorted(folder.glob(f"*/{ERROR}"))]
    driver = _holder(folder)
    why = _why_ended(folder, driver)
    if not done and not failed and driver is None and why is None:
        raise UsageError(f"{folder}: expected the folder of a run, found neither {RUN} nor NAME/{REPORT}")
    return {
        "folder": str(folder),
        "source": "outputs",
        "state": "running" if driver and driver["alive"] else _ended_state(why) if why else "unknown",
        "why": why,
        "counts": {"done": done, "failed": len(failed)},
        "driver": driver,
        "failures": [_failure(folder, name, {}) for name in failed[-_NEWEST:]],
    }


def _why_ended(folder: Path, driver: dict[str, Any] | None) -> str | None:
    """Return what the last run noted in the lock as it ended, unless another goes on."""
    return None if driver and driver["alive"] else read_end(folder / LOCK)


def _ended_state(why: str) -> str:
    return "interrupted" if why == INTERRUPTED else "failed"


def _state(folder: Path, run: dict[str, Any], driver: dict[str, Any] | None, why: str | None) -> str:
    """What `run.json` says, unless its driver has gone without a word, or another has just begun."""
    if why is not None:  # which `run.json` may not know, where there was no room to write it
        return _ended_state(why)
    if run["status"] == "running":
        # A lock that nobody holds is left by a run that ended, even if it could not write so.
        is_over = (folder / LOCK).is_file() if driver is None else driver["alive"] is False
        return "stopped" if is_over else "running"
    if driver and driver["alive"] and driver["began_after"]:
        return "starting"
    return run["status"]


def _driver(
    folder: Path, run: dict[str, Any], campaign: dict[str, Any], age: float | None
) -> dict[str, Any] | None:
    """Who runs it, or ran it: `alive` is None where that cannot be seen from here."""
    driver = _holder(folder, _time(_get(run, "updated", str)))
    if driver is None:
        named = _get(campaign, "driver", dict) or {}
        host, pid = _get(named, "host", str), _get(named, "pid", int)
        if host is None or pid is None:
            return None
        driver = _process(host, pid, by=_time(_get(run, "started", str)))
    if driver["alive"] is None and campaign and age is not None:
        driver["alive"] = age <= STALE_S
    return driver


def _holder(folder: Path, updated: float | None = None) -> dict[str, Any] | None:
    """Who holds the folder, by a campaign's lease or the note in the lock; a run that ends leaves neither."""
    lease = holder_of(folder)
    host, pid = _get(lease, "host", str), _get(lease, "pid", int)
    if host is not None and pid is not None:
        by = _moment(_number(lease.get("started")))
        return _process(host, pid, by=by, seen=_is_of_here(lease), updated=updated)
    path = folder / LOCK
    found = re.fullmatch(r"process (\d{1,18}) on (.+)\s*", _text(path))
    if found is None:
        return None
    return _process(found[2], int(found[1]), by=path.stat().st_mtime, updated=updated)


def _process(
    host: str, pid: int, *, by: float | None = None, seen: bool = True, updated: float | None = None
) -> dict[str, Any]:
    """A process: alive or dead if it is of this machine.

    Args:
        host: Its machine.
        pid: Its number.
        by: When it was certainly there: one that was started later has only got the same number.
        seen: Whether its number means the same here, if the machine does.
        updated: When the folder's state was written.
    """
    if host != socket.gethostname() or not seen:
        return {"host": host, "pid": pid, "alive": None, "began_after": False}
    start = _moment(start_of(pid))
    alive = start is not None and (by is None or start <= by + _SKEW_S)
    began_after = alive and start is not None and updated is not None and start > updated + 1
    return {"host": host, "pid": pid, "alive": alive, "began_after": began_after}


def _is_of_here(lease: Mapping[str, Any]) -> bool:
    """Whether a process's number means the same here: containers and restarts give the same ones again."""
    here = this_process()
    return all(lease.get(key, here[key]) == here[key] for key in ("boot", "pid_namespace"))


def _moment(ticks: float | None) -> float | None:
    """Seconds since the epoch, of ticks since the machine was started."""
    booted = re.search(r"^btime (\d+)$", _text(Path("/proc/stat")), re.MULTILINE)
    return None if ticks is None or booted is None else int(booted[1]) + ticks / os.sysconf("SC_CLK_TCK")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _counts(run: dict[str, Any]) -> dict[str, int]:
    states = list(run["jobs"].values())
    counts = {state: states.count(state) for state in _STATES}
    rejected = [_get(one, "name", str) for one in _get(run, "rejected", list) or []]
    return {**counts, "invalid": sum(name not in run["jobs"] for name in rejected)}


def _workers(campaign: dict[str, Any]) -> list[dict[str, Any]]:
    workers = [worker for worker in _get(campaign, "workers", list) or [] if isinstance(worker, dict)]
    return [
        {
            "id": worker.get("id"),
            "node": _get(worker, "node", str) or "",
            "device": _get(worker, "device", str) or "",
            "state": _get(worker, "state", str) or "",
            "job": _get(worker, "job", str),
            "for_s": _age(_get(worker, "since", str)),
            "done": int(_number(worker.get("done")) or 0),
        }
        for worker in workers
    ]


def _failures(folder: Path, run: dict[str, Any], campaign: dict[str, Any]) -> list[dict[str, Any]]:
    """What failed, the newest last: jobs that were refused, then those of the run in its order."""
    noted = _get(campaign, "failures", dict) or _get(run, "failures", dict) or {}
    refused = [
        {"name": _get(one, "name", str), "kind": "input", "error": _get(one, "error", str) or ""}
        for one in _get(run, "rejected", list) or []
        if _get(one, "name", str) not in noted
    ]
    failed = [name for name, state in run["jobs"].items() if state == "failed" and name not in noted]
    names = [*failed, *noted][-_NEWEST:]
    return [*refused, *(_failure(folder, name, noted) for name in names)]


def _failure(folder: Path, name: str, noted: Mapping[str, Any]) -> dict[str, Any]:
    found: Any = _get(noted, name, dict)
    if found is None:
        with contextlib.suppress(RecursionError):
            found = read_json(folder / name / ERROR)
    kind, error = _get(found, "kind", str), _get(found, "error", str)
    return {"name": name, "kind": kind or "unknown", "error": error or f"{name}/{ERROR} does not say why"}


def _command(run: dict[str, Any]) -> str | None:
    """The command line to give once more."""
    words = _get(run, "command", list)
    if not words:
        return None
    return shlex.join(["flashbias-fold", *(str(word) for word in words[1:])])


def _elapsed(run: dict[str, Any]) -> float | None:
    began, updated = _time(_get(run, "started", str)), _time(_get(run, "updated", str))
    return None if began is None or updated is None else max(updated - began, 0.0)


def _age(written: str | None) -> float | None:
    moment = _time(written)
    if moment is None:
        return None
    return max(datetime.datetime.now(datetime.UTC).timestamp() - moment, 0.0)


def _time(written: str | None) -> float | None:
    """Seconds since the epoch."""
    try:
        moment = datetime.datetime.fromisoformat(written or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _get(found: Any, key: str, kind: type[Kind]) -> Kind | None:
    """A member, if it is of this kind."""
    value = found.get(key) if isinstance(found, Mapping) else None
    return value if isinstance(value, kind) and not (kind is int and isinstance(value, bool)) else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # A whole number may be too long for a float.
    return value if is_number and abs(value) < 1e18 and math.isfinite(value) else None


def described(status: dict[str, Any]) -> str:
    """The same for people."""
    lines = [_headline(status), f"  {_counted(status)}"]
    if status["state"] == "failed" and status["why"] is not None:
        lines.append(f"  ended by: {status['why']}")
    if status["source"] != RUN:
        lines.append(f"  there is no {RUN}: counted by the outputs; {_AGAIN}")
    else:
        lines += [f"  {line}" for line in (_pace(status), _sign_of_life(status), _advice(status)) if line]
        lines += _worker_lines(status)
    if status["failures"]:
        lines.append("newest failures:")
        lines += [
            f"  {one['name'] or 'without a name'}: {one['kind']}: {' '.join(one['error'].split())}"
            for one in status["failures"]
        ]
    return "\n".join(_printable(line) for line in lines)


def _headline(status: dict[str, Any]) -> str:
    words = {
        "running": "running",
        "starting": "begun again; what follows is of the last run",
        "stopped": "stopped: its driver has gone without a word",
        "unknown": "not known to be running",
    }
    said = f"{status['folder']}: {words.get(status['state'], status['state'])}"
    if status.get("demo_model"):
        said += ", with the demonstration model"
    return said


def _counted(status: dict[str, Any]) -> str:
    counts = status["counts"]
    words = {} if status["state"] == "running" else {"running": "cut off"}
    said = ", ".join(f"{count:,} {words.get(state, state)}" for state, count in counts.items() if count)
    jobs = sum(counts.values())
    return f"{jobs:,} {'job' if jobs == 1 else 'jobs'}: {said or 'none'}"


def _pace(status: dict[str, Any]) -> str:
    parts = []
    if status["per_hour"] is not None:
        digits = 0 if status["per_hour"] >= 10 else 1
        parts.append(f"{status['per_hour']:,.{digits}f} per hour")
    if status["remaining_s"] is not None:
        parts.append(f"about {_span(status['remaining_s'])} left")
    if status["elapsed_s"] is not None:
        so_far = "so far" if status["state"] == "running" else "in all"
        parts.append(f"{_span(status['elapsed_s'])} {so_far}")
    return ", ".join(parts)


def _sign_of_life(status: dict[str, Any]) -> str:
    driver, age = status["driver"], status["updated_s_ago"]
    written = f"{RUN} is of {_span(age)} ago" if age is not None else ""
    if driver is None or status["state"] not in ("running", "starting", "stopped"):
        return written
    words = {True: "alive", False: "gone", None: "on another machine, so not seen from here"}
    said = f"driver: process {driver['pid']} on {driver['host']}, {words[driver['alive']]}"
    return f"{said}; {written}" if written else said


def _advice(status: dict[str, Any]) -> str:
    goes_on = status["state"] in ("stopped", "interrupted", "failed")
    if not goes_on:
        return ""
    return f"{_AGAIN}: {status['command']}" if status["command"] else _AGAIN


def _worker_lines(status: dict[str, Any]) -> list[str]:
    if status["state"] != "running":
        return []
    there = [worker for worker in status["workers"] if worker["state"] != "lost"]
    if not there and not status["deaths"]:
        return []
    lost = f", {status['deaths']:,} lost so far" if status["deaths"] else ""
    rows = [
        (
            str(worker["id"]),
            worker["node"],
            worker["device"],
            f"{worker['job'] or worker['state']}, for {_span(worker['for_s'])}",
            f"{worker['done']:,} done",
        )
        for worker in there[:_MOST_WORKERS]
    ]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    more = len(there) - len(rows)
    return [f"{len(there):,} workers{lost}:", *lines, *([f"  and {more:,} more"] if more else [])]


def _span(seconds: float | None) -> str:
    """A time as people say it."""
    if seconds is None:
        return "an unknown time"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size or unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


def _printable(line: str) -> str:
    """What a file holds must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
