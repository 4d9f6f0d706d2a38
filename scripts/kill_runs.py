"""Kill `predict` at random moments, and read after every kill what it left, as a stranger would.

    python scripts/kill_runs.py --record FILE.json [--kills N] [--ray-kills N] [--seed N] [--slots N]

Runs of three kinds are killed with SIGKILL: fresh ones, resumed ones (the same command on what a kill left),
and overwriting ones (complete results are replaced by results of other settings, so that each file tells by
its bytes which of the two it is). Half of the kills come at any moment of a run, the others within 30 ms
after it began to put files together for an exchange. After every kill no file may be torn, no result that was
complete may be lost or mixed, and no report (`report.json`, `summary.csv`, `run.json`, `flashbias-fold
status`) may list what is not there. At the end of each story the same command is run to its end, and the
bytes must be those of a run that nobody disturbed.

A local run is a child of this process, which has imported everything beforehand. With `--engine ray` the
driver or its worker is killed, on one cluster of this machine.

exit status: 0 nothing was torn, lost or listed wrongly, 1 something was (the record says what)
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import hashlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read when torch is imported: a process of one thread can be forked.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LAYERNORM_TYPE", "torch")

JOBS = [("one", "MTPAV", [1, 2]), ("two", "MKTAYI", [1])]
OPTIONS = ("--model", "demo", "--steps", "1", "--cycles", "1")
OLD = ("--samples", "2")
NEW = ("--samples", "1", "--write-pae", "--overwrite")
ONE_SEED = (*NEW, "--seeds", "1")
KILLS_OF_A_STORY = 8
KILLS_BETWEEN_RECORDS = 50
AFTER_TRIGGER_S = 0.03
MOST_RUN_S = 300.0
WORK = ".flashbias-fold.new"

Hashes = dict[str, str]


def main() -> int:
    """Kill, check, record."""
    options = read_options()
    began = time.monotonic()
    import_everything()
    with tempfile.TemporaryDirectory(prefix="kills-", dir=options.scratch) as scratch:
        trial = Trial(Path(scratch), random.Random(options.seed))
        trial.prepare()

        def save() -> None:
            record = trial.record() | {
                "seed": options.seed,
                "wall_s": round(time.monotonic() - began, 1),
                "versions": versions(),
            }
            partial = options.record.with_name(options.record.name + ".partial")
            partial.write_text(json.dumps(record, indent=2) + "\n")
            partial.replace(options.record)

        local = options.kills - options.ray_kills
        while trial.kills["local"] < local:  # what there is by then is kept, should this be stopped
            trial.run_stories(min(local, trial.kills["local"] + KILLS_BETWEEN_RECORDS), options.slots)
            save()
        if options.ray_kills:
            with ray_cluster() as address:
                trial.kill_campaigns(options.ray_kills, address, save)
    print(
        f"{sum(trial.kills.values()):,} kills, {len(trial.findings)} findings, "
        f"{time.monotonic() - began:,.0f} s; recorded in {options.record}"
    )
    return 1 if trial.findings else 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--record", type=Path, required=True, help="where to write what happened, as JSON")
    parser.add_argument("--kills", type=int, default=1000, help="how many, those of campaigns included")
    parser.add_argument("--ray-kills", type=int, default=0, help="of these, how many with --engine ray")
    parser.add_argument("--seed", type=int, default=19, help="of the random moments and kinds")
    parser.add_argument("--slots", type=int, default=2, help="how many local runs at a time")
    parser.add_argument("--scratch", type=Path, default=None, help="where the folders of the runs are made")
    return parser.parse_args()


def import_everything() -> None:
    """Import what a run needs, so that a child of this process begins at once."""
    from flashbias_fold.protenix_adapter import environment

    environment.prepare()
    import gemmi  # noqa: F401
    import numpy  # noqa: F401
    import torch
    from protenix.model.protenix import Protenix  # noqa: F401
    from runner.dumper import DataDumper  # noqa: F401

    import flashbias_fold.campaign.status
    import flashbias_fold.cli.main
    import flashbias_fold.cli.render
    import flashbias_fold.predict.publish
    import flashbias_fold.protenix_adapter.engine  # noqa: F401

    torch.set_num_threads(1)


def versions() -> dict[str, Any]:
    """Return what the outcome depends on."""
    from flashbias_fold.bench import machine
    from flashbias_fold.predict.account import versions as of_packages

    return {**machine.commit(), **of_packages(), "kernel": os.uname().release}


# Runs


def fork_command(arguments: list[str], log: Path) -> int:
    """Run the command line in a child; return its process."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        os.setpgid(0, 0)
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # Whatever this process had in their place, as a test does.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        from flashbias_fold.cli.main import main as command

        status = command(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def wait_for(process: int, limit_s: float = MOST_RUN_S) -> int:
    """Wait for a child's end; return its exit status."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        pid, status = os.waitpid(process, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise TimeoutError(f"a run took more than {limit_s:.0f} s")


@dataclass
class Moment:
    """When a run is to be killed.

    Attributes:
        after_s: So long after its start, or after the trigger.
        trigger: So many exchanges have been begun; 0 is the start of the run.
    """

    after_s: float
    trigger: int = 0


@dataclass
class Story:
    """One folder, and the command that is killed on it again and again.

    Attributes:
        out: The folder.
        kind: `fresh` or `overwriting`.
        command: The options of the command.
        kills: How many there were.
    """

    out: Path
    kind: str
    command: tuple[str, ...]
    kills: int = 0
    process: int = 0
    began: float = 0.0
    moment: Moment = field(default_factory=lambda: Moment(0.0))
    due: float | None = None
    works: set[str] = field(default_factory=set)
    before: dict[str, Any] = field(default_factory=dict)

    def is_due(self, now: float) -> bool:
        """Tell whether the run is to be killed now."""
        if self.due is None and self.moment.trigger:
            self.works |= works_in(self.out)
            if len(self.works) >= self.moment.trigger:
                self.due = now + self.moment.after_s
        return self.due is not None and now >= self.due


class Trial:
    """All that is killed, checked and counted.

    Args:
        scratch: Where the folders are made.
        generator: Of everything random.
    """

    def __init__(self, scratch: Path, generator: random.Random) -> None:
        self.scratch = scratch
        self.generator = generator
        self.findings: list[dict[str, Any]] = []
        self.kills: collections.Counter[str] = collections.Counter()
        self.by_kind: collections.Counter[str] = collections.Counter()
        self.left: collections.Counter[str] = collections.Counter()
        self.moments: collections.Counter[str] = collections.Counter()
        self.ended_before = 0
        self.completed = 0
        self.files_read = 0
        self.number = 0
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, Hashes] = {}
        self.scores: dict[str, dict[str, float]] = {}

    def prepare(self) -> None:
        """Write the input, and make both results undisturbed: their bytes are what is compared with."""
        self.write_jobs()
        scratch = self.scratch / "tmp"
        scratch.mkdir()
        os.environ["TMPDIR"] = str(scratch)
        for name, kind, options in (("old", "fresh", OLD), ("new", "overwriting", NEW)):
            out = self.scratch / name
            for _ in range(2):  # the first fills caches
                shutil.rmtree(out, ignore_errors=True)
                start = time.monotonic()
                status = wait_for(fork_command(self.arguments(out, options), self.scratch / "log.txt"))
                self.seconds[kind] = time.monotonic() - start
                if status:
                    raise SystemExit((self.scratch / "log.txt").read_text())
            self.bytes[name] = hashes_of(out)
            self.scores[name] = scores_of(out)

    def write_jobs(self) -> None:
        """Write the input of all runs."""
        jobs = [
            {
                "name": name,
                "modelSeeds": seeds,
                "sequences": [{"proteinChain": {"sequence": text, "count": 1}}],
            }
            for name, text, seeds in JOBS
        ]
        (self.scratch / "jobs.json").write_text(json.dumps(jobs))

    def arguments(self, out: Path, options: tuple[str, ...], *more: str) -> list[str]:
        """Return a command line."""
        return ["predict", str(self.scratch / "jobs.json"), "--out", str(out), *OPTIONS, *options, *more]

    def begin_story(self) -> Story:
        """Begin with nothing, or with a complete result that is to be replaced."""
        self.number += 1
        out = self.scratch / f"story{self.number}"
        if self.generator.random() < 0.4:
            return Story(out, "fresh", OLD)
        shutil.copytree(self.scratch / "old", out)
        return Story(out, "overwriting", self.generator.choice([NEW, NEW, ONE_SEED]))

    def choose_moment(self, kind: str) -> Moment:
        """Choose when to kill: at any moment, or around an exchange."""
        if self.generator.random() < 0.5:
            return Moment(self.generator.uniform(0, self.seconds[kind]))
        return Moment(self.generator.uniform(0, AFTER_TRIGGER_S), self.generator.randint(1, 3))

    def run_stories(self, kills: int, slots: int) -> None:
        """Go on with so many stories side by side until there were so many kills."""
        stories: list[Story] = []
        while stories or self.kills["local"] < kills:
            while len(stories) < slots and self.kills["local"] < kills:
                stories.append(self.begin_story())
                self.start(stories[-1])
            for story in list(stories):
                if not self.turn(story):
                    continue
                if story.kills >= KILLS_OF_A_STORY or self.kills["local"] >= kills:
                    self.complete(story)
                    stories.remove(story)
                else:
                    self.start(story)
            time.sleep(0.0005)

    def start(self, story: Story) -> None:
        """Give the command of a story once more."""
        story.before = results_in(story.out)
        story.works = works_in(story.out)  # what the last kill left is not of this run
        story.moment = self.choose_moment(story.kind)
        story.moment.trigger += len(story.works) if story.moment.trigger else 0
        story.process = fork_command(self.arguments(story.out, story.command), self.scratch / "log.txt")
        story.began = time.monotonic()
        story.due = None if story.moment.trigger else story.began + story.moment.after_s

    def turn(self, story: Story) -> bool:
        """Kill a run when it is due, and check; return whether the run is over."""
        now = time.monotonic()
        pid, status = os.waitpid(story.process, os.WNOHANG)
        if pid:
            self.ended_before += 1
            story.kills += 1  # a story of runs that end too soon ends as well
            if os.waitstatus_to_exitcode(status):
                self.find(story.kind, "local", f"a run ended with {os.waitstatus_to_exitcode(status)}")
            self.check(story.out, story.before, story.kind, "local")
            return True
        if not story.is_due(now):
            return False
        os.kill(story.process, signal.SIGKILL)
        os.waitpid(story.process, 0)
        kind = "resumed" if story.kind == "fresh" and story.kills else story.kind
        story.kills += 1
        self.count("local", kind, story, now)
        self.check(story.out, story.before, kind, "local")
        return True

    def count(self, engine: str, kind: str, story: Story, now: float) -> None:
        """Note a kill, and when it came."""
        self.kills[engine] += 1
        self.by_kind[f"{engine} {kind}"] += 1
        if story.moment.trigger:
            self.moments[f"{int(story.moment.after_s * 100) * 10} ms after an exchange was begun"] += 1
        else:
            share = (now - story.began) / self.seconds[story.kind]
            self.moments[f"{min(int(share * 10), 9) * 10} % of a run"] += 1
        if works_in(story.out):
            self.left["with an exchange under way"] += 1

    def complete(self, story: Story) -> None:
        """Run the command of a story to its end: the bytes are those of an undisturbed run."""
        before = results_in(story.out)
        status = wait_for(fork_command(self.arguments(story.out, story.command), self.scratch / "log.txt"))
        if status:
            self.find(story.kind, "local", f"the last run ended with {status}")
        self.check_end(story.out, before, story.kind, story.command, "local")

    def check_end(
        self, out: Path, before: dict[str, Any], kind: str, command: tuple[str, ...], engine: str
    ) -> None:
        """Check a folder of which the last command came to its end, and remove it."""
        self.completed += 1
        self.check(out, before, kind, engine)
        expected = self.bytes["old" if command == OLD else "new"]
        if command == ONE_SEED:
            expected = {name: digest for name, digest in expected.items() if "/seed_1/" in name}
            expected |= {name: digest for name, digest in self.bytes["old"].items() if "/seed_1/" not in name}
        if hashes_of(out) != expected:
            self.find(kind, engine, "at the end there are other bytes than those of an undisturbed run")
        leftover = [str(path) for path in out.rglob("*") if path.name.endswith(".partial")]
        if (out / WORK).exists() or leftover:
            self.find(kind, engine, f"at the end something is left over: {leftover[:3] or WORK}")
        shutil.rmtree(out)

    # Campaigns

    def kill_campaigns(self, kills: int, address: str, save: Callable[[], None]) -> None:
        """Kill drivers and workers of campaigns, on folders as those of local runs."""
        more = ("--engine", "ray", "--address", address, "--devices", "1")
        # Measured with a cluster that is warm, but for the first.
        for _ in range(2):
            out = self.scratch / "campaign"
            start = time.monotonic()
            status = wait_for(fork_command(self.arguments(out, OLD, *more), self.scratch / "log.txt"))
            seconds = time.monotonic() - start
            if status:
                raise SystemExit((self.scratch / "log.txt").read_text())
            if hashes_of(out) != self.bytes["old"]:
                self.find("fresh", "ray", "the bytes are not those of a local run")
            shutil.rmtree(out)
        while self.kills["ray"] < kills:
            story = self.begin_story()
            for _ in range(KILLS_OF_A_STORY // 2):
                if self.kills["ray"] < kills:
                    self.kill_campaign(story, more, seconds)
            before = results_in(story.out)
            arguments = self.arguments(story.out, story.command, *more)
            status = wait_for(fork_command(arguments, self.scratch / "log.txt"))
            if status:
                self.find(story.kind, "ray", f"the last run ended with {status}")
            self.check_end(story.out, before, story.kind, story.command, "ray")
            save()

    def kill_campaign(self, story: Story, more: tuple[str, ...], seconds: float) -> None:
        """Kill the driver, or the worker, of one campaign."""
        story.before = results_in(story.out)
        story.works = works_in(story.out)
        near = self.generator.random() < 0.5
        story.moment = (
            Moment(self.generator.uniform(0, AFTER_TRIGGER_S), len(story.works) + 1)
            if near
            else Moment(self.generator.uniform(0, seconds))
        )
        takes_worker = self.generator.random() < 0.5
        story.process = fork_command(
            self.arguments(story.out, story.command, *more), self.scratch / "log.txt"
        )
        story.began = time.monotonic()
        story.due = None if near else story.began + story.moment.after_s
        while not story.is_due(time.monotonic()):
            if os.waitpid(story.process, os.WNOHANG)[0]:
                self.ended_before += 1
                self.check(story.out, story.before, story.kind, "ray")
                return
            time.sleep(0.0005)
        kind = "resumed" if story.kind == "fresh" and story.kills else story.kind
        workers = workers_of(story.out, story.process)
        story.kills += 1
        for process in workers if takes_worker and workers else [story.process]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.kills["ray"] += 1
        who = "worker" if takes_worker and workers else "driver"
        self.by_kind[f"ray {kind}, {who} killed"] += 1
        with contextlib.suppress(ChildProcessError):
            status = wait_for(story.process)
            if who == "worker" and status:
                self.find(kind, "ray", f"a campaign that lost its worker ended with {status}")
        end = time.monotonic() + 30
        while any(is_running(process) for process in workers) and time.monotonic() < end:
            time.sleep(0.02)
        self.check(story.out, story.before, kind, "ray")

    # What a stranger reads

    def find(self, kind: str, engine: str, what: str) -> None:
        """Note that something is wrong."""
        number = sum(self.kills.values())
        self.findings.append({"kill": number, "kind": kind, "engine": engine, "what": what})
        print(f"kill {number}, {engine}, {kind}: {what}", flush=True)

    def check(self, out: Path, before: dict[str, Any], kind: str, engine: str) -> None:
        """Read a folder after a kill."""
        if not out.is_dir():
            return
        problems = [*self.torn(out), *self.lost(out, before), *self.listed_wrongly(out)]
        for problem in problems:
            self.find(kind, engine, problem)

    def torn(self, out: Path) -> Iterator[str]:
        """Yield the files under final names that their readers refuse, hidden ones included."""
        for path in out.rglob("*"):
            if path.suffix in READERS and path.is_file():
                self.files_read += 1
                try:
                    READERS[path.suffix](path)
                except Exception as error:
                    yield f"torn: {path.relative_to(out)}: {error}"

    def lost(self, out: Path, before: dict[str, Any]) -> Iterator[str]:
        """Yield the results that were complete and are not, or are a mixture of old and new ones."""
        after = results_in(out)
        for name in sorted(before.keys() - after.keys()):
            yield f"lost: {name} was complete"
        for name, files in after.items():
            for seed in {file.split("/")[1] for file in files}:
                of_seed = {file: digest for file, digest in files.items() if f"/{seed}/" in file}
                prefix = f"{name.split('/')[0]}/{seed}/"
                whole = [
                    {file: digest for file, digest in known.items() if file.startswith(prefix)}
                    for known in self.bytes.values()
                ]
                if of_seed not in whole:
                    yield f"mixed: {prefix} is neither the old result nor the new one"

    def listed_wrongly(self, out: Path) -> Iterator[str]:
        """Yield what a report says and is not so."""
        for path in out.glob("*/report.json"):
            yield from self.listed_by_job(out, json.loads(path.read_text()), path.parent.name)
        if (out / "summary.csv").is_file():
            with (out / "summary.csv").open(newline="") as file:
                for row in csv.DictReader(file):
                    if not self.is_there(out, row["cif"], float(row["ptm"])):
                        yield f"summary.csv lists {row['cif']} with pTM {row['ptm']}"
        complete = {name for name in results_in(out) if "/" not in name}
        states: dict[str, str] = {}
        if (out / "run.json").is_file():
            states = json.loads((out / "run.json").read_text())["jobs"]
        for name, state in states.items():
            if state in ("done", "skipped") and name not in complete:
                yield f"run.json says that {name} is {state}"
        yield from self.said_by_status(out, len(complete), bool(states) or bool(complete))

    def listed_by_job(self, out: Path, report: dict[str, Any], name: str) -> Iterator[str]:
        """Yield what a job's report lists and is not there as it says."""
        for file in report["files"]:
            if not (out / name / file).is_file():
                yield f"{name}/report.json lists {file}"
        for sample in report["samples"]:
            if not self.is_there(out, f"{name}/{sample['cif']}", sample["ptm"]):
                yield f"{name}/report.json lists {sample['cif']} with pTM {sample['ptm']}"
        if (out / name / "error.json").exists():
            yield f"{name}/error.json is beside a complete report"

    def is_there(self, out: Path, structure: str, ptm: float) -> bool:
        """Tell whether a structure is there, and is the one that has this score."""
        try:
            digest = digest_of(out / structure)
        except FileNotFoundError:
            return False
        return any(
            known.get(structure) == digest and self.scores[name][structure] == ptm
            for name, known in self.bytes.items()
        )

    def said_by_status(self, out: Path, complete: int, is_run: bool) -> Iterator[str]:
        """Yield what `flashbias-fold status` says and is not so."""
        said = self.scratch / "status.json"
        said.write_text("")
        status = wait_for(fork_command(["status", str(out), "--json"], said))
        if status:
            if is_run:
                yield f"status ended with {status}: {said.read_text()}"
            return
        counts = json.loads(said.read_text())["counts"]
        if counts["done"] + counts.get("skipped", 0) > complete:
            yield f"status counts {counts}, complete are {complete}"

    def record(self) -> dict[str, Any]:
        """Return what happened."""
        return {
            "kills": sum(self.kills.values()),
            "by_kind": dict(sorted(self.by_kind.items())),
            "moments": dict(sorted(self.moments.items(), key=_by_number)),
            "left": dict(self.left),
            "runs_that_ended_before_their_kill": self.ended_before,
            "stories_completed": self.completed,
            "files_read": self.files_read,
            "run_s": {kind: round(seconds, 2) for kind, seconds in self.seconds.items()},
            "findings": self.findings,
        }


def _by_number(item: tuple[str, int]) -> tuple[str, int]:
    number, _, rest = item[0].partition(" ")
    return rest, int(number)


def works_in(out: Path) -> set[str]:
    """Return the names of the replacements that are under way in a folder, or were left there."""
    try:
        return {entry.name for entry in os.scandir(out / WORK)}
    except OSError:
        return set()


def digest_of(path: Path) -> str:
    """Return what tells a file's bytes from others."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashes_of(out: Path) -> Hashes:
    """Return all structures and confidences of a folder, by their paths in it."""
    return {str(path.relative_to(out)): digest_of(path) for path in out.glob("*/seed_*/predictions/*")}


def scores_of(out: Path) -> dict[str, float]:
    """Return the pTM of each structure, by its path."""
    reports = [json.loads(path.read_text()) for path in out.glob("*/report.json")]
    return {f"{one['name']}/{row['cif']}": row["ptm"] for one in reports for row in one["samples"]}


def results_in(out: Path) -> dict[str, Hashes]:
    """Return the complete results of a folder with their files: `NAME` of a job, `NAME/seed_S` of a seed."""
    results: dict[str, Hashes] = {}
    for path in [*out.glob("*/report.json"), *out.glob("*/seed_*/report.json")]:
        job = path.relative_to(out).parts[0]
        with contextlib.suppress(OSError, ValueError):
            files = json.loads(path.read_text())["files"]
            results[str(path.parent.relative_to(out))] = {
                f"{job}/{file}": digest_of(out / job / file) for file in files
            }
    return results


def read_cif(path: Path) -> None:
    """Read a structure to its end."""
    import gemmi

    text = path.read_text()
    if not text.endswith("\n#\n") or not gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0])[0]:
        raise ValueError("it ends too soon")


def read_csv(path: Path) -> None:
    """Read a table to its end."""
    text = path.read_text()
    if not text.endswith("\n") or len({len(row) for row in csv.reader(text.splitlines())}) != 1:
        raise ValueError("it ends too soon")


def read_npz(path: Path) -> None:
    """Read arrays to their end."""
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays:
            arrays[name].sum() if arrays[name].dtype.kind == "f" else arrays[name]


READERS = {
    ".cif": read_cif,
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": read_csv,
    ".npz": read_npz,
}


# Ray

_HOLDER = """
import ray, sys
ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, configure_logging=False,
         object_store_memory=80 * 2**20, _temp_dir=sys.argv[1], _node_ip_address="127.0.0.1")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def ray_cluster() -> Iterator[str]:
    """Hold a cluster of this machine; yields its address."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, as there are sockets in it
    # Of the cluster and of every driver: nobody else can talk to it.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert holder.stdout is not None
        address = holder.stdout.readline().strip()
        if not address:
            raise SystemExit("Ray could not be started")
        yield address
    finally:
        holder.communicate("")
        shutil.rmtree(folder, ignore_errors=True)


def workers_of(out: Path, driver: int) -> list[int]:
    """Return the processes that do jobs for a driver, as far as its folder says."""
    try:
        campaign = json.loads((out / "run.json").read_text())["campaign"]
        processes = [worker["pid"] for worker in campaign["workers"] if worker.get("pid")]
    except (OSError, ValueError, KeyError):
        return []
    return [pid for pid in processes if campaign["driver"]["pid"] == driver and is_worker(pid)]


def is_worker(process: int) -> bool:
    """Tell whether a process is a worker of Ray: its number may have gone to another since it was noted."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def is_running(process: int) -> bool:
    """Tell whether there is a process that is not dead and only not yet buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
