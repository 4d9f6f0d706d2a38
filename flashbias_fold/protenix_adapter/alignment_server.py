"""Alignments from a server, when and only when the user asked for one: `--msa-server`.

Protenix's client is used, in a process of its own: it retries for ever, prints, and on a failure carries
on with the query alone. Here a failure is a failure, within a time limit.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from flashbias_fold.errors import JobError, SetupError
from flashbias_fold.files import read_json, write_json

HOST_VARIABLE = "MMSEQS_SERVICE_HOST_URL"
HOSTS = {"protenix": "https://protenix-server.com/api/msa", "colabfold": "https://api.colabfold.com"}
TIME_LIMIT_S = 3600
_CONNECT_LIMIT_S = 10
_FAILURE_MARKS = ("MMSEQS2 failed", "Failed in searching MSA", "Traceback")
_ALIGNMENT_FIELDS = ("pairedMsa", "unpairedMsa", "pairedMsaPath", "unpairedMsaPath")
_KEPT = "alignments.json"
_REQUEST, _ANSWER = "request.json", "answer.json"


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
    sequences = sorted({chain["sequence"] for chain in chains})
    found = _kept(folder, sequences) or _search(sequences, folder, mode, time_limit_s)
    for chain in chains:
        chain.update(found[chain["sequence"]])
    return document


def _kept(folder: Path, sequences: list[str]) -> dict[str, dict[str, str]] | None:
    """What an earlier run found for these chains: others would have other paired alignments."""
    kept = read_json(folder / _KEPT)
    if not isinstance(kept, dict) or sorted(kept) != sequences:
        return None
    found = {
        sequence: {field: str(folder.resolve() / path) for field, path in fields.items()}
        for sequence, fields in kept.items()
    }
    complete = all(Path(path).is_file() for fields in found.values() for path in fields.values())
    return found if complete else None


def _search(sequences: list[str], folder: Path, mode: str, time_limit_s: float) -> dict[str, dict[str, str]]:
    host = os.environ.get(HOST_VARIABLE) or HOSTS[mode]
    if mode == "protenix" and host != HOSTS[mode]:
        raise SetupError(
            f"--msa-server protenix is Protenix's own server and no other, but {HOST_VARIABLE} names {host}: "
            "unset it, or use --msa-server colabfold"
        )
    _check_reachable(host)
    # Afresh: Protenix's client takes what a failed search has left for an answer.
    work = folder.resolve() / "search"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # In a file, since every user of a machine may read the arguments of a process.
    write_json(work / _REQUEST, {"sequences": [{"proteinChain": {"sequence": each}} for each in sequences]})
    try:
        done = subprocess.run(
            # -P: the working directory must not hide Protenix's packages.
            [sys.executable, "-P", "-m", __name__, str(work), mode],
            env={**os.environ, HOST_VARIABLE: host},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=time_limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise JobError(f"alignment server {host} gave no alignment within {time_limit_s:.0f} s") from None
    if done.returncode != 0 or any(mark in done.stdout for mark in _FAILURE_MARKS):
        said = done.stdout + done.stderr
        raise JobError(f"alignment server {host} failed: {_first_error(said)}") from RuntimeError(said)
    found = {}
    for entity in json.loads((work / _ANSWER).read_text())["sequences"]:
        chain = entity["proteinChain"]
        if lacks_alignment(chain):
            raise JobError(f"alignment server {host} gave no alignment for {chain['sequence'][:20]}...")
        found[chain["sequence"]] = {field: chain[field] for field in _ALIGNMENT_FIELDS if field in chain}
    # Relative to the folder, which may be moved.
    write_json(
        folder / _KEPT,
        {
            sequence: {field: str(Path(path).relative_to(folder.resolve())) for field, path in fields.items()}
            for sequence, fields in found.items()
        },
    )
    return found


def _first_error(said: str) -> str:
    """The exception of the first traceback that the client printed; further ones follow from it."""
    lines = [line for line in said.splitlines() if line.strip()]
    start = next((index for index, line in enumerate(lines) if line.startswith("Traceback")), None)
    if start is None:
        return lines[-1] if lines else "it said nothing"
    return next((line for line in lines[start + 1 :] if not line.startswith(" ")), lines[-1])


def _check_reachable(host: str) -> None:
    """Protenix's client would wait for ever."""
    import requests

    try:
        requests.get(host, timeout=_CONNECT_LIMIT_S)
    except requests.RequestException as error:
        raise JobError(f"alignment server {host} cannot be reached: {type(error).__name__}") from error


def _main(work: str, mode: str) -> None:
    """Ask the server; in a process of its own."""
    from flashbias_fold.protenix_adapter import environment

    environment.prepare()
    from runner.msa_search import update_seq_msa

    # An archive from a server writes nowhere but where it is unpacked (Python 3.14's default).
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    folder = Path(work)
    answer = update_seq_msa(json.loads((folder / _REQUEST).read_text()), work, mode)
    for index, entity in enumerate(answer["sequences"]):
        # Where ColabFold's paired alignments are written, and Protenix does not look for them.
        paired = folder / "complex" / str(index) / "pairing.a3m"
        if paired.is_file():
            entity["proteinChain"]["pairedMsaPath"] = str(paired)
    write_json(folder / _ANSWER, answer)


if __name__ == "__main__":
    _main(*sys.argv[1:])
