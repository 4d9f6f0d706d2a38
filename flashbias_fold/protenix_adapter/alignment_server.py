"""Alignments from a server, when and only when the user asked for one: `--msa-server`.

Protenix's client is used, in a process of its own: it retries for ever, prints, and on a failure carries
on with the query alone. Here a failure is a failure, within a time limit.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from flashbias_fold.errors import JobError
from flashbias_fold.files import read_json, write_json

HOST_VARIABLE = "MMSEQS_SERVICE_HOST_URL"
HOSTS = {"protenix": "https://protenix-server.com/api/msa", "colabfold": "https://api.colabfold.com"}
TIME_LIMIT_S = 3600
_CONNECT_LIMIT_S = 10
_FAILURE_MARKS = ("MMSEQS2 failed", "Failed in searching MSA", "Traceback")
_ALIGNMENT_FIELDS = ("pairedMsa", "unpairedMsa", "pairedMsaPath", "unpairedMsaPath")


def lacks_alignment(chain: dict[str, Any]) -> bool:
    """Whether a protein chain of an input comes without an alignment."""
    return not any(chain.get(field) for field in _ALIGNMENT_FIELDS)


def add_alignments(
    document: dict[str, Any], folder: Path, mode: str, *, time_limit_s: float = TIME_LIMIT_S
) -> dict[str, Any]:
    """A copy of `document` in which every protein chain has an alignment, fetched where it had none.

    Args:
        document: A job in Protenix's form; its own alignments are kept.
        folder: Where the alignments are kept; what an earlier run fetched for the same chains is used again.
        mode: `protenix` or `colabfold`.
        time_limit_s: After this the job fails.
    """
    document = copy.deepcopy(document)
    chains = [entity["proteinChain"] for entity in document["sequences"] if "proteinChain" in entity]
    chains = [chain for chain in chains if lacks_alignment(chain)]
    if not chains:
        return document
    found = _kept(folder)
    if any(chain["sequence"] not in found for chain in chains):
        host = os.environ.get(HOST_VARIABLE) or HOSTS[mode]
        found = _search([chain["sequence"] for chain in chains], folder, mode, host, time_limit_s)
    for chain in chains:
        chain.update(found[chain["sequence"]])
    return document


def _kept(folder: Path) -> dict[str, dict[str, str]]:
    kept = read_json(folder / "alignments.json") or {}
    complete = all(Path(path).is_file() for fields in kept.values() for path in fields.values())
    return kept if complete else {}


def _search(
    sequences: list[str], folder: Path, mode: str, host: str, time_limit_s: float
) -> dict[str, dict[str, str]]:
    _check_reachable(host)
    folder.mkdir(parents=True, exist_ok=True)
    request = {"sequences": [{"proteinChain": {"sequence": sequence}} for sequence in sequences]}
    command = [sys.executable, "-m", __name__, json.dumps(request), str(folder), mode]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, HOST_VARIABLE: host},
            capture_output=True,
            text=True,
            timeout=time_limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise JobError(f"alignment server {host} gave no alignment within {time_limit_s:.0f} s") from None
    if done.returncode != 0 or any(mark in done.stdout for mark in _FAILURE_MARKS):
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise JobError(f"alignment server {host} failed: {lines[-1] if lines else 'it said nothing'}")
    answer = json.loads((folder / "answer.json").read_text())
    found = {}
    for entity in answer["sequences"]:
        chain = entity["proteinChain"]
        if lacks_alignment(chain):
            raise JobError(f"alignment server {host} gave no alignment for {chain['sequence'][:20]}...")
        found[chain["sequence"]] = {field: chain[field] for field in _ALIGNMENT_FIELDS if field in chain}
    write_json(folder / "alignments.json", found)
    return found


def _check_reachable(host: str) -> None:
    """Protenix's client would wait for ever."""
    import requests

    try:
        requests.get(host, timeout=_CONNECT_LIMIT_S)
    except requests.RequestException as error:
        raise JobError(f"alignment server {host} cannot be reached: {type(error).__name__}") from error


def _main(request: str, folder: str, mode: str) -> None:
    from flashbias_fold.protenix_adapter import environment

    environment.prepare()
    from runner.msa_search import update_seq_msa

    answer = update_seq_msa(json.loads(request), str(Path(folder).resolve()), mode)
    Path(folder, "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
