"""Downloads from a server on this machine that misbehaves in every way that a real one was seen to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
from command_line import run
from rich.console import Console

from flashbias_fold.errors import SetupError, UsageError
from flashbias_fold.fetch import download, fetch, names, verify

CONTENT = os.urandom(700_001)
LATER_CONTENT = os.urandom(650_003)
HALF = len(CONTENT) // 2

# One scripted answer: it gets the request and does what it likes with the connection.
Answer = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Serves one content under every path; ``script`` holds the answers to the first requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"first"'
        self.script: list[Answer] = []
        self.always: Answer = Handler.answer
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self) -> list[str | None]:
        """The Range header of each request so far."""
        return [headers.get("Range") for _, headers in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        answer = self.server.script.pop(0) if self.server.script else self.server.always
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        """Not in the test's output."""

    def head(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()

    def answer(self) -> None:
        """As a good server does: ranges, but only of the file that the client has begun with."""
        content, wanted = self.server.content, self.headers.get("Range")
        if not wanted or self.headers.get("If-Range") != self.server.etag:
            self.head(200, {"Content-Length": len(content)})
            self.wfile.write(content)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": 0})
            return
        self.partial_content(start, content)

    def partial_content(self, start: int, content: bytes) -> None:
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.head(206, {"Content-Range": where, "Content-Length": len(content) - start})
        self.wfile.write(content[start:])


def status(code: int, **headers: object) -> Answer:
    return lambda handler: handler.head(code, {"Content-Length": 0} | headers)


def truncated(handler: Handler) -> None:
    handler.head(200, {"Content-Length": len(CONTENT)})
    handler.wfile.write(CONTENT[:HALF])


def stalled(handler: Handler) -> None:
    truncated(handler)
    handler.server.released.wait(10)


def without_ranges(handler: Handler) -> None:
    handler.head(200, {"Content-Length": len(handler.server.content)})
    handler.wfile.write(handler.server.content)


def without_length(handler: Handler) -> None:
    handler.head(200, {})
    handler.wfile.write(handler.server.content)


def too_long_a_length(handler: Handler) -> None:
    handler.head(200, {"Content-Length": len(CONTENT) + 10})
    handler.wfile.write(CONTENT)


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment must not get to see these requests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("FLASHBIAS_FOLD_MIRROR", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint" / "model.pt"


def get(server: Server, target: Path, **options: Any) -> Path:
    settings = {"retries": 3, "timeout": 5, "backoff": 0.01} | options
    return download(f"{server.url}/checkpoint/model.pt", target, **settings)


def leave_half(server: Server, target: Path) -> None:
    """What an interrupted download leaves behind."""
    server.script = [truncated]
    with pytest.raises(SetupError, match="connection"):
        get(server, target, retries=0)
    kept = target.with_name("model.pt.partial").stat().st_size
    assert HALF - 64 * 1024 <= kept <= HALF
    server.requests.clear()


def files_beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def assert_complete(target: Path, content: bytes = CONTENT) -> None:
    """The right bytes under the final name, their checksum, and nothing else left in the folder."""
    assert target.read_bytes() == content
    kept = target.with_name(target.name + ".sha256").read_text()
    assert kept.startswith(f"{hashlib.sha256(content).hexdigest()}  {target.name}\n")
    assert files_beside(target) == [target.name, target.name + ".sha256"]


def test_download_reports_progress_and_keeps_a_checksum_that_sha256sum_reads(
    server: Server, target: Path
) -> None:
    calls: list[tuple[int, int | None]] = []
    assert get(server, target, progress=lambda *call: calls.append(call)) == target
    assert_complete(target)
    assert calls[0] == (0, len(CONTENT))
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    if shutil.which("sha256sum"):
        check = ["sha256sum", "-c", "model.pt.sha256"]
        answer = subprocess.run(check, check=False, cwd=target.parent, capture_output=True, text=True)
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, "model.pt: OK\n", "")


@pytest.mark.parametrize("fault", [truncated, stalled])
def test_a_broken_or_stalled_transfer_goes_on_where_it_stopped(
    server: Server, target: Path, fault: Answer
) -> None:
    server.script = [fault]
    said: list[str] = []
    get(server, target, note=said.append, timeout=0.5)
    assert_complete(target)
    first, second = server.ranges()
    assert first is None
    assert second is not None
    assert int(second[len("bytes=") : -1]) >= HALF - 64 * 1024
    assert len(said) == 1
    assert "model.pt: " in said[0]


@pytest.mark.parametrize("fault", [status(500), status(503), hang_up])
def test_a_passing_fault_is_waited_out(server: Server, target: Path, fault: Answer) -> None:
    server.script = [fault, fault, fault]
    get(server, target)
    assert_complete(target)
    assert len(server.requests) == 4


def test_a_lasting_fault_ends_with_one_line_after_the_last_attempt(server: Server, target: Path) -> None:
    server.always = status(503)
    with pytest.raises(SetupError) as raised:
        get(server, target, retries=2)
    assert len(server.requests) == 3
    assert f"cannot download {server.url}/checkpoint/model.pt: HTTP 503" in str(raised.value)
    assert not target.exists()


def test_only_failures_in_a_row_without_a_further_byte_count(server: Server, target: Path) -> None:
    """Six interruptions are no reason to give up when each brought the download further."""
    step = len(CONTENT) // 7

    def one_step(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        start = int(wanted[len("bytes=") : -1]) if wanted else 0
        handler.head(206 if wanted else 200, {
            "Content-Length": len(CONTENT) - start,
            "Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}",
        })  # fmt: skip
        handler.wfile.write(CONTENT[start : start + step])

    server.script = [one_step] * 6
    get(server, target, retries=1)
    assert_complete(target)


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7), ("3600", 60), ("Thu, 01 Jan 2015 00:00:00 GMT", 0), ("soon", 0.5)],
    ids=["seconds", "bounded", "date", "nonsense"],
)
def test_retry_after_is_honoured_up_to_a_bound(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, header: str, wait: float
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.script = [status(429, **{"Retry-After": header})]
    get(server, target, backoff=0.5, longest_wait=60)
    assert waits == [wait]
    assert_complete(target)


def test_the_waits_double_up_to_the_bound(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.script = [status(500)] * 5
    get(server, target, retries=5, backoff=1, longest_wait=10)
    assert waits == [1, 2, 4, 8, 10]


@pytest.mark.parametrize("code", [400, 403, 404, 410])
def test_a_refusal_is_final_and_says_how_to_do_it_by_hand(server: Server, target: Path, code: int) -> None:
    server.script = [status(code)]
    with pytest.raises(SetupError) as raised:
        get(server, target)
    url = f"{server.url}/checkpoint/model.pt"
    assert len(server.requests) == 1
    assert f"cannot download {url}: HTTP {code}" in str(raised.value)
    assert str(raised.value).endswith(f"by hand: curl -fL -C - -o {target} {url}")
    assert files_beside(target) == []


def test_a_login_page_is_not_taken_for_weights(server: Server, target: Path) -> None:
    server.script = [status(200, **{"Content-Type": "text/html; charset=utf-8"})]
    with pytest.raises(SetupError, match="web page"):
        get(server, target)
    assert not target.exists()


def test_a_compressed_answer_is_refused(server: Server, target: Path) -> None:
    server.script = [status(200, **{"Content-Encoding": "gzip"})]
    with pytest.raises(SetupError, match="compressed"):
        get(server, target)
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("url", ["checkpoint/model.pt", "nfs://host/model.pt", "http://"])
def test_an_unusable_address_is_not_tried_again(target: Path, url: str) -> None:
    said: list[str] = []
    with pytest.raises(SetupError, match="cannot download"):
        download(url, target, note=said.append, backoff=10)
    assert said == []


def test_no_server_at_all_names_the_cause(target: Path) -> None:
    with Server() as gone:
        url = f"{gone.url}/model.pt"
    with pytest.raises(SetupError, match=r"no connection: .*[Rr]efused.* \(2 attempts\); by hand"):
        download(url, target, retries=1, backoff=0.01)


def test_a_dead_proxy_is_one_line_that_names_it_and_what_sets_it(tmp_path: Path) -> None:
    """At once: nothing that is tried again can mend a setting. Its password stays out of logs."""
    with Server() as gone:
        proxy = gone.url
    env = dict.fromkeys(("https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"))
    env |= {"HTTPS_PROXY": proxy.replace("//", "//me:secret@"), "PROTENIX_ROOT_DIR": str(tmp_path)}
    done = run("fetch", "protenix_base_default_v1.0.0", env=env, check=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot download https://")
    assert f": no way through the proxy {proxy}, which HTTPS_PROXY names: Connection refused; set it" in line
    assert "secret" not in done.stderr
    assert done.stdout == ""


def test_a_proxy_that_fails_in_the_middle_is_waited_for(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [truncated]
    calls: list[str] = []

    def answer(url: str, real: Callable[..., Any] = requests.get, **options: Any) -> Any:
        calls.append(url)
        if len(calls) == 2:
            raise requests.exceptions.ProxyError("gone for a moment")
        return real(url, **options)

    monkeypatch.setattr(requests, "get", answer)
    get(server, target)
    assert_complete(target)
    assert len(calls) == 3


# --- What an earlier attempt left -----------------------------------------------------------------------


def test_a_server_without_ranges_is_read_from_the_start(server: Server, target: Path) -> None:
    leave_half(server, target)
    server.script = [without_ranges]
    get(server, target)
    assert_complete(target)


def test_a_file_that_changed_meanwhile_is_not_glued_together(server: Server, target: Path) -> None:
    leave_half(server, target)
    server.content, server.etag = LATER_CONTENT, '"later"'
    get(server, target)
    assert_complete(target, LATER_CONTENT)
    assert server.requests[0][1]["If-Range"] == '"first"'
    assert len(server.requests) == 1


@pytest.mark.parametrize("reveals_itself_by", ["tag", "length", "start"])
def test_a_range_of_another_file_is_not_appended(
    server: Server, target: Path, reveals_itself_by: str
) -> None:
    """Some servers, and caches before them, know Range but not If-Range."""
    leave_half(server, target)

    def careless(handler: Handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if reveals_itself_by == "tag":
            handler.server.etag = '"later"'
        if reveals_itself_by == "start":
            start -= 1
        handler.partial_content(start, LATER_CONTENT if reveals_itself_by == "length" else CONTENT)

    server.script = [careless]
    get(server, target)
    assert_complete(target)
    assert server.ranges()[1] is None


def test_a_range_that_ends_early_is_followed_by_another(server: Server, target: Path) -> None:
    leave_half(server, target)

    def short_range(handler: Handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        part = CONTENT[start : start + 1000]
        where = f"bytes {start}-{start + len(part) - 1}/{len(CONTENT)}"
        handler.head(206, {"Content-Range": where, "Content-Length": len(part)})
        handler.wfile.write(part)

    server.script = [short_range, short_range]
    get(server, target)
    assert_complete(target)
    assert len(server.requests) == 3


def test_without_a_validator_nothing_is_resumed(server: Server, target: Path) -> None:
    server.etag = None
    leave_half(server, target)
    get(server, target)
    assert_complete(target)
    assert server.ranges() == [None]


def test_the_date_serves_where_the_tag_is_weak(server: Server, target: Path) -> None:
    server.etag = 'W/"weak"'
    date = "Thu, 01 Jan 2015 00:00:00 GMT"

    def dated(handler: Handler) -> None:
        handler.head(200, {"Content-Length": len(CONTENT), "Last-Modified": date})
        handler.wfile.write(CONTENT[:HALF])

    server.script = [dated]
    get(server, target)
    assert_complete(target)
    assert server.requests[1][1]["If-Range"] == date


def test_a_download_begun_elsewhere_is_not_continued_from_here(server: Server, target: Path) -> None:
    leave_half(server, target)
    download(f"{server.url}/another/model.pt", target)
    assert_complete(target)
    assert server.ranges() == [None]


def test_a_partial_file_that_nothing_is_known_of_is_not_trusted(server: Server, target: Path) -> None:
    leave_half(server, target)
    target.with_name("model.pt.partial.json").write_text('{"url": ')
    get(server, target)
    assert_complete(target)
    assert server.ranges() == [None]


def test_all_bytes_there_but_not_yet_renamed(server: Server, target: Path) -> None:
    """416 says that nothing is missing: what a kill between the last byte and the rename leaves."""
    leave_half(server, target)
    target.with_name("model.pt.partial").write_bytes(CONTENT)
    get(server, target)
    assert_complete(target)
    assert server.ranges() == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("excess", [b"", b"x"], ids=["another file's tag", "too many bytes"])
def test_416_for_anything_else_starts_again(server: Server, target: Path, excess: bytes) -> None:
    leave_half(server, target)
    target.with_name("model.pt.partial").write_bytes(CONTENT + excess)

    def unsatisfiable(handler: Handler) -> None:
        if not excess:
            server.etag = '"later"'
        handler.head(416, {"Content-Range": f"bytes */{len(CONTENT)}", "Content-Length": 0})

    server.script = [unsatisfiable]
    get(server, target)
    assert_complete(target)
    assert server.ranges()[1] is None


# --- Lengths, space, processes --------------------------------------------------------------------------


def test_no_content_length(server: Server, target: Path) -> None:
    server.script = [without_length]
    calls: list[tuple[int, int | None]] = []
    get(server, target, progress=lambda *call: calls.append(call))
    assert_complete(target)
    assert calls[-1] == (len(CONTENT), None)


def test_a_server_that_always_promises_more_than_it_sends(server: Server, target: Path) -> None:
    server.always = too_long_a_length
    with pytest.raises(SetupError, match=r"the connection (broke|closed)"):
        get(server, target)
    assert not target.exists()


def test_a_length_that_was_wrong_once_is_corrected_by_the_next_answer(server: Server, target: Path) -> None:
    server.script = [too_long_a_length]
    get(server, target)
    assert_complete(target)


def test_too_little_space_is_said_before_the_download(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.anchor)._replace(free=HALF)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SetupError, match=r"0\.0 GB free, and model\.pt needs 0\.0 GB more"):
        get(server, target)
    assert not target.exists()
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_written_is_an_error_for_the_user(server: Server, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("a file where the folder should be")
    with pytest.raises(SetupError, match="cannot write"):
        get(server, tmp_path / "checkpoint" / "model.pt")
    assert server.requests == []


def in_a_process(server: Server, target: Path) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from flashbias_fold.fetch import download; "
        "download(sys.argv[1], Path(sys.argv[2]), note=print, timeout=5)"
    )
    command = [sys.executable, "-c", code, f"{server.url}/checkpoint/model.pt", str(target)]
    search = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": search}
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "this did not happen in 10 s"
        time.sleep(0.01)


def test_a_killed_download_is_resumed_by_the_next_process(server: Server, target: Path) -> None:
    server.script = [stalled]
    partial = target.with_name("model.pt.partial")
    with in_a_process(server, target) as process:
        wait_for(lambda: partial.exists() and partial.stat().st_size > HALF - 128 * 1024)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    kept = partial.stat().st_size
    get(server, target)
    assert_complete(target)
    assert server.ranges() == [None, f"bytes={kept}-"]


def test_of_several_processes_one_downloads_and_the_others_wait(server: Server, target: Path) -> None:
    def slow(handler: Handler) -> None:
        handler.head(200, {"Content-Length": len(CONTENT)})
        handler.wfile.write(CONTENT[:HALF])
        handler.server.released.wait(10)
        handler.wfile.write(CONTENT[HALF:])

    server.script = [slow]
    lock = target.with_name("model.pt.lock")
    processes = [in_a_process(server, target)]
    wait_for(lambda: bool(server.requests) and lock.exists())
    processes += [in_a_process(server, target) for _ in range(2)]
    assert processes[1].stdout is not None
    assert "another process is downloading it" in processes[1].stdout.readline()
    server.released.set()
    for process in processes:
        process.communicate(timeout=10)
        assert process.returncode == 0
    assert_complete(target)
    assert len(server.requests) == 1


def test_many_threads_at_once_are_as_good_as_one(server: Server, target: Path) -> None:
    """The lock's file comes and goes while others wait for it; none may slip in beside another."""
    failures: list[BaseException] = []

    def one() -> None:
        try:
            get(server, target, timeout=5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_complete(target)
    assert len(server.requests) == 1


def test_who_waited_for_a_failed_download_keeps_later_ones_out(server: Server, target: Path) -> None:
    """The failed one removes the lock's file while another waits on it and a third is about to come."""
    fail = threading.Event()

    def refused_later(handler: Handler) -> None:
        fail.wait(10)
        status(403)(handler)

    def complete_later(handler: Handler) -> None:
        handler.server.released.wait(10)
        handler.answer()

    server.script = [refused_later, complete_later]
    said: list[str] = []

    def one() -> None:
        with contextlib.suppress(SetupError):
            get(server, target, note=said.append)

    first, second, third = (threading.Thread(target=one) for _ in range(3))
    first.start()
    wait_for(lambda: len(server.requests) == 1)
    second.start()
    wait_for(lambda: len(said) == 1)
    fail.set()
    wait_for(lambda: len(server.requests) == 2)
    third.start()
    wait_for(lambda: len(said) == 2)
    server.released.set()
    for thread in (first, second, third):
        thread.join()
    assert_complete(target)
    assert len(server.requests) == 2


# --- Checksums ------------------------------------------------------------------------------------------


@pytest.fixture
def checked(server: Server, target: Path) -> Path:
    return get(server, target)


def test_verify_passes_what_was_downloaded_and_what_has_no_checksum(checked: Path, tmp_path: Path) -> None:
    verify(checked)
    by_hand = tmp_path / "by_hand.pt"
    by_hand.write_bytes(b"anything")
    verify(by_hand)


def test_verify_reads_an_unchanged_file_only_once(checked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same content at another time, as after a copy: read once more, and then remembered.
    os.utime(checked, ns=(1, 1))
    verify(checked)
    monkeypatch.setattr(hashlib, "file_digest", None)
    verify(checked)
    assert files_beside(checked) == ["model.pt", "model.pt.sha256"]


@pytest.mark.parametrize("change", ["rewritten", "cut"])
def test_verify_names_both_files_and_what_mends_it(checked: Path, change: str) -> None:
    content = bytearray(CONTENT)
    content[1234] ^= 1
    checked.write_bytes(bytes(content) if change == "rewritten" else CONTENT[:-1])
    with pytest.raises(SetupError) as raised:
        verify(checked)
    kept = f"{checked}.sha256"
    assert str(checked) in str(raised.value)
    assert f"rm {checked} {kept} && flashbias-fold fetch model" in str(raised.value)


def test_verify_reads_what_sha256sum_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(CONTENT)
    kept = tmp_path / "model.pt.sha256"
    kept.write_text(f"{hashlib.sha256(CONTENT).hexdigest().upper()} *model.pt\n")
    verify(path)
    kept.write_text("what is this?\n")
    with pytest.raises(SetupError, match=r"model\.pt\.sha256 holds no SHA-256 checksum"):
        verify(path)


# --- fetch NAME -----------------------------------------------------------------------------------------


def run_fetch(server: Server, root: Path, name: str) -> tuple[list[str], str]:
    """The files that came, relative to ``root``, and what was said to a log file."""
    said = StringIO()
    console = Console(file=said, force_terminal=False, width=40)
    paths = fetch(name, root=root, base_url=server.url, console=console)
    return [str(path.relative_to(root)) for path in paths], said.getvalue()


def test_fetch_puts_a_checkpoint_where_protenix_looks(server: Server, tmp_path: Path) -> None:
    files, said = run_fetch(server, tmp_path, "protenix-v2")
    assert files == ["checkpoint/protenix-v2.pt"]
    assert [path for path, _ in server.requests] == ["/checkpoint/protenix-v2.pt"]
    assert_complete(tmp_path / files[0])
    assert "protenix-v2.pt: 0.0 of 0.7 MB (0%)\n" in said
    assert f"{tmp_path / files[0]}: complete; its checksum is in protenix-v2.pt.sha256\n" in said


@pytest.mark.parametrize(
    ("name", "language_model"),
    [
        ("protenix_mini_esm_v0.5.0", "esm2_t36_3B_UR50D"),
        ("protenix_mini_ism_v0.5.0", "esm2_t36_3B_UR50D_ism"),
        ("protenix_base_constraint_v0.5.0", "esm2_t36_3B_UR50D"),
    ],
)
def test_fetch_brings_the_language_model_that_a_checkpoint_needs(
    server: Server, tmp_path: Path, name: str, language_model: str
) -> None:
    files, _ = run_fetch(server, tmp_path, name)
    assert files == [
        f"checkpoint/{part}.pt" for part in (name, language_model, f"{language_model}-contact-regression")
    ]
    again, _ = run_fetch(server, tmp_path, language_model)
    assert again == files[1:2]


def test_fetch_components(server: Server, tmp_path: Path) -> None:
    files, _ = run_fetch(server, tmp_path, "components")
    assert files == ["common/components.cif", "common/components.cif.rdkit_mol.pkl"]
    for file in files:
        path = tmp_path / file
        path.write_bytes(b"damaged")
        with pytest.raises(SetupError, match="flashbias-fold fetch components "):
            verify(path)


def test_fetch_leaves_complete_files_alone_and_asks_nobody(server: Server, tmp_path: Path) -> None:
    run_fetch(server, tmp_path, "protenix-v2")
    server.requests.clear()
    _, said = run_fetch(server, tmp_path, "protenix-v2")
    assert "already there, and agrees with its checksum" in said
    (tmp_path / "checkpoint" / "protenix-v2.pt.sha256").unlink()
    _, said = run_fetch(server, tmp_path, "protenix-v2")
    assert "already there, and has no checksum to compare with" in said
    assert server.requests == []


def test_fetch_does_not_overwrite_a_file_that_somebody_changed(server: Server, tmp_path: Path) -> None:
    run_fetch(server, tmp_path, "protenix-v2")
    changed = tmp_path / "checkpoint" / "protenix-v2.pt"
    changed.write_bytes(b"tuned by somebody")
    with pytest.raises(SetupError, match=r"if the change is yours"):
        run_fetch(server, tmp_path, "protenix-v2")
    assert changed.read_bytes() == b"tuned by somebody"


def test_fetch_obeys_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTENIX_ROOT_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("FLASHBIAS_FOLD_MIRROR", f"{server.url}/mirror/of/it/")
    (path,) = fetch("protenix-v2", quiet=True)
    assert path == tmp_path / "weights" / "checkpoint" / "protenix-v2.pt"
    assert server.requests[0][0] == "/mirror/of/it/checkpoint/protenix-v2.pt"


def test_fetch_demo_has_nothing_to_do(server: Server, tmp_path: Path) -> None:
    files, said = run_fetch(server, tmp_path, "demo")
    assert files == []
    assert "shipped" in said
    assert server.requests == []


def test_fetch_of_an_unknown_name_lists_the_known_ones(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'protenix_v2'.*did you mean 'protenix-v2'\?") as raised:
        run_fetch(server, tmp_path, "protenix_v2")
    for name in names():
        assert name in str(raised.value)
    with pytest.raises(UsageError, match=r"no model 'alphafold' to fetch; known are"):
        run_fetch(server, tmp_path, "alphafold")


def test_every_name_has_an_address_of_the_form_that_a_mirror_copies() -> None:
    from protenix.web_service.dependency_url import URL

    assert "protenix-v2" in names()
    for name in names():
        if name != "components":
            assert re.fullmatch(rf"https://[^/]+/checkpoint/{re.escape(name)}\.pt", URL[name])


def test_fetch_is_silent_when_asked(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch("protenix-v2", root=tmp_path, base_url=server.url, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_fetch_shows_a_bar_on_a_terminal(server: Server, tmp_path: Path) -> None:
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    fetch("protenix-v2", root=tmp_path, base_url=server.url, console=console)
    assert "protenix-v2.pt" in shown.getvalue()
    assert "700.0/700.0 kB" in shown.getvalue()
