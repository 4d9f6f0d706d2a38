"""Alignments from a server, against one that speaks the ColabFold MMseqs2 interface on this machine."""

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from conftest import protein
from lengths import at_length
from processes import output_of

from flashbias_fold.errors import JobError, SetupError
from flashbias_fold.protenix_adapter.alignment_server import HOST_VARIABLE, add_alignments
from flashbias_fold.protenix_adapter.features import featurize
from flashbias_fold.protenix_adapter.models import build_config, find_model

FIRST, SECOND = "MKTAYIAKQR", "GSHMEELLKT"
ENVIRONMENT_FILE = "bfd.mgnify30.metaeuk30.smag30.a3m"


class Server(ThreadingHTTPServer):
    """Finds, for every chain, itself with a letter changed: once in each database, once paired.

    Attributes:
        requests: Method and path of every request.
        asked: The chains of every search, by endpoint.
        faults: What it does wrong instead, by path: a function that answers through the handler.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.asked, self.faults, self.archives = [], [], {}, {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def search(self, endpoint, query):
        lines = query.strip().splitlines()
        chains = dict(zip([line[1:] for line in lines[::2]], lines[1::2], strict=True))
        self.asked.append((endpoint, list(chains.values())))
        ticket = f"t{len(self.archives)}"
        if endpoint == "msa":
            ((name, chain),) = chains.items()
            files = {
                "uniref.a3m": f">{name}\n{chain}\n>UniRef100_A\t90\nA{chain[1:]}\n",
                ENVIRONMENT_FILE: f">{name}\n{chain}\n>metagenome\t80\nC{chain[1:]}\n",
            }
        else:
            rows = (
                f">{name}\n{chain}\n>UniRef100_P{name[-1]}\t70\n{chain[:-1]}W\n>UniRef100_R{name[-1]}\t60\n"
                f"{chain[:-1]}Y\n\0"
                for name, chain in chains.items()
            )
            files = {"pair.a3m": "".join(rows)}
        self.archives[ticket] = archive(files)
        return ticket


def archive(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.note():
            return
        ticket = self.path.rpartition("/")[2]
        if self.path.startswith("/result/download/"):
            self.answer(self.server.archives[ticket])
        elif self.path.startswith("/ticket/"):
            self.say({"id": ticket, "status": "COMPLETE"})
        else:
            self.answer(b"MMseqs2 server")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.note():
            return
        # Complete at once: Protenix sleeps for a minute before it asks again.
        ticket = self.server.search(self.path.rpartition("/")[2], parse_qs(body)["q"][0])
        self.say({"id": ticket, "status": "COMPLETE"})

    def note(self):
        self.server.requests.append((self.command, self.path))
        for path, fault in self.server.faults.items():
            if self.path.startswith(path):
                fault(self)
                return True
        return False

    def say(self, value):
        self.answer(json.dumps(value).encode())

    def answer(self, content, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Quietly."""


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv(HOST_VARIABLE, server.url)
        yield server
        server.shutdown()


def job(*chains):
    """A job of protein chains, each given by its sequence or by its fields."""
    fields = [{"sequence": chain} if isinstance(chain, str) else chain for chain in chains]
    return {"name": "job", "sequences": [{"proteinChain": {"count": 1, **each}} for each in fields]}


def chains_of(document):
    return [entity["proteinChain"] for entity in document["sequences"]]


def rows(path):
    lines = Path(path).read_text().splitlines()
    return [line for line in lines if not line.startswith(">")]


def n_msa(document):
    return featurize(document, build_config(find_model("demo"))).n_msa


def test_alignments_arrive_are_used_and_are_kept(server, components, tmp_path, monkeypatch):
    commands, run = [], subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: commands.append(command) or run(command, **options)
    )
    document = job(FIRST, FIRST)
    aligned = add_alignments(document, tmp_path / "msa", "colabfold")
    assert document == job(FIRST, FIRST), "the input is left alone"
    assert server.asked == [("msa", [FIRST])], "identical chains are asked for once"
    assert chains_of(aligned)[0] == chains_of(aligned)[1]
    assert rows(chains_of(aligned)[0]["unpairedMsaPath"]) == [FIRST, "C" + FIRST[1:], "A" + FIRST[1:]]
    components.install_for(document)
    assert n_msa(aligned) == n_msa(document) + 2
    # The arguments of a process are for every user of the machine to read.
    assert len(commands) == 1 and not any(FIRST in argument for argument in commands[0])

    requests = len(server.requests)
    assert add_alignments(document, tmp_path / "msa", "colabfold") == aligned
    assert len(server.requests) == requests, "what is kept is not asked for again"
    shutil.move(tmp_path / "msa", tmp_path / "moved")
    again = add_alignments(document, tmp_path / "moved", "colabfold")
    assert len(server.requests) == requests
    assert Path(chains_of(again)[0]["unpairedMsaPath"]).is_relative_to(tmp_path / "moved")


def test_different_chains_are_paired(server, components, tmp_path):
    own = {"sequence": "ACDEFG", "unpairedMsa": ">query\nACDEFG\n"}
    document = job(SECOND, own, FIRST)
    aligned = add_alignments(document, tmp_path / "msa", "colabfold")
    assert sorted(server.asked) == [("msa", [SECOND]), ("msa", [FIRST]), ("pair", [SECOND, FIRST])]
    second, kept, first = chains_of(aligned)
    assert kept == chains_of(document)[1], "a chain's own alignment is kept"
    for chain, sequence in ((first, FIRST), (second, SECOND)):
        assert rows(chain["unpairedMsaPath"]) == [sequence, "C" + sequence[1:], "A" + sequence[1:]]
        assert rows(chain["pairedMsaPath"]) == [sequence, sequence[:-1] + "W", sequence[:-1] + "Y"]

    components.install_for(document)
    features = featurize(aligned, build_config(find_model("demo"))).data["input_feature_dict"]
    tryptophan, tyrosine = 17, 18
    ends = features["msa"][:, [len(SECOND) - 1, len(features["asym_id"]) - 1]].tolist()
    assert [tryptophan] * 2 in ends and [tyrosine] * 2 in ends, "paired rows stand side by side"


def test_another_set_of_chains_is_searched_afresh(server, tmp_path):
    add_alignments(job(FIRST), tmp_path / "msa", "colabfold")
    add_alignments(job(FIRST, SECOND), tmp_path / "msa", "colabfold")
    assert [endpoint for endpoint, _ in server.asked] == ["msa", "msa", "msa", "pair"]


def test_a_chain_with_an_alignment_of_its_own_is_not_sent(server, tmp_path):
    document = job({"sequence": FIRST, "pairedMsaPath": "/somewhere/x.a3m"})
    assert add_alignments(document, tmp_path / "msa", "colabfold") == document
    assert server.requests == []
    assert not (tmp_path / "msa").exists()


def error_500(handler):
    handler.answer(b"<html>Internal Server Error</html>", status=500)


def error_status(handler):
    handler.say({"id": "t0", "status": "ERROR"})


def garbage_archive(handler):
    handler.answer(b"<html>not an archive</html>")


def archive_without_alignments(handler):
    handler.answer(archive({"readme.txt": "sorry"}))


def archive_that_climbs(handler):
    handler.answer(archive({"uniref.a3m": "", ENVIRONMENT_FILE: "", "../../../../escaped": "here"}))


def silence(handler):
    threading.Event().wait(30)


FAULTS = [
    ("/ticket/msa", error_500, r"Exception: MMseqs2 API is giving errors\. .*"),
    ("/ticket/msa", error_status, r"Exception: MMseqs2 API is giving errors\. .*"),
    ("/result/download", garbage_archive, "tarfile.ReadError: .*"),
    ("/result/download", archive_without_alignments, rf"FileNotFoundError: .*{ENVIRONMENT_FILE}'"),
    ("/result/download", archive_that_climbs, r"tarfile\.OutsideDestinationError: .*escaped.*"),
]


@pytest.mark.parametrize(("path", "fault", "reason"), at_length(FAULTS[1:4:2], FAULTS))
def test_a_server_that_fails_fails_the_job_in_one_line(server, tmp_path, path, fault, reason):
    server.faults[path] = fault
    with pytest.raises(JobError) as failed:
        add_alignments(job(FIRST), tmp_path / "out" / "msa", "colabfold")
    assert failed.match(rf"^alignment server {server.url} failed: {reason}$")
    assert "\n" not in str(failed.value)
    assert not list(tmp_path.rglob("escaped"))


def test_a_failed_search_is_repeated_by_the_next_run(server, tmp_path):
    """Protenix's client finds its archive from the last time, and would take it for the answer."""
    server.faults["/result/download"] = garbage_archive
    with pytest.raises(JobError):
        add_alignments(job(FIRST), tmp_path / "msa", "colabfold")
    server.faults.clear()
    aligned = add_alignments(job(FIRST), tmp_path / "msa", "colabfold")
    assert len(rows(chains_of(aligned)[0]["unpairedMsaPath"])) == 3


def test_a_server_that_does_not_end_the_search_is_given_up(server, tmp_path):
    server.faults["/ticket/msa"] = silence
    with pytest.raises(JobError, match=rf"^alignment server {server.url} gave no alignment within 6 s$"):
        add_alignments(job(FIRST), tmp_path / "msa", "colabfold", time_limit_s=6)


def test_a_server_that_refuses_the_connection_is_given_up_at_once(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv(HOST_VARIABLE, host)
        with pytest.raises(JobError, match=rf"^alignment server {host} cannot be reached: ConnectionError$"):
            add_alignments(job(FIRST), tmp_path / "msa", "colabfold")


def test_chains_meant_for_a_server_of_ones_own_do_not_go_to_protenixs(server, tmp_path):
    """Protenix's client takes no other address in this mode; the public one is not what was asked for."""
    with pytest.raises(
        SetupError, match=rf"{HOST_VARIABLE} names {server.url}: unset it, or use --msa-server"
    ):
        add_alignments(job(FIRST), tmp_path / "msa", "protenix")
    assert server.requests == []


@pytest.fixture
def guarded(tmp_path):
    """Variables for a process in which whatever contacts a network is noted, and fails."""
    notes = tmp_path / "contacts.txt"
    notes.touch()
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(
        f"""
import sys

def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        with open({str(notes)!r}, "a") as file:
            file.write(f"{{event}} {{arguments}}\\n")
        raise PermissionError(event)

sys.addaudithook(note)
"""
    )
    path = os.pathsep.join(filter(None, (str(guard), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path}, notes


def test_nothing_is_contacted_unless_asked(flashbias, guarded, job_file, tmp_path):
    variables, notes = guarded
    jobs = job_file(protein(sequence=FIRST))
    tiny = ("--model", "demo", "--samples", 1, "--steps", 1, "--cycles", 1)
    flashbias("predict", jobs, "--out", tmp_path / "out", *tiny, env=variables, check=0)
    assert notes.read_text() == ""


def test_the_guard_notices(guarded):
    variables, notes = guarded
    code = """
        import requests
        try:
            requests.get("http://127.0.0.1:9", timeout=1)
        except (OSError, requests.RequestException):
            print("stopped")
    """
    assert output_of(code, **variables) == "stopped\n"
    assert "127.0.0.1" in notes.read_text()
