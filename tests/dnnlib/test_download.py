"""dnnlib.util.open_url, against a web server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnlib import UserError, util

BINARY = bytes(range(256)) * 4


class _Server(http.server.ThreadingHTTPServer):
    """Answers each path with its list of (status, body, headers) in turn, the last one for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[tuple[int, bytes, dict[str, str]]]] = {}
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        answers = self.server.answers.get(self.path, [(404, b"", {})])
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Keep the test output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with _Server() as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http_server
        http_server.shutdown()
        thread.join(timeout=10)


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ("http://host.name/x", True),
        ("https://127.0.0.1:80/x", True),
        ("http://localhost/x", False),
        ("host.name/x", False),
        ("file:///x", False),
        ("http://[bad/x.y", False),
        (3, False),
        (None, False),
    ],
)
def test_is_url(obj: object, expected: bool) -> None:
    assert util.is_url(obj) is expected


def test_is_url_with_file_urls() -> None:
    assert util.is_url("file:///x", allow_file_urls=True)
    assert util.is_url("http://host.name/x", allow_file_urls=True)


def test_local_files(tmp_path: Path) -> None:
    path = tmp_path / "a b.bin"
    path.write_bytes(BINARY)
    for name in (str(path), path.as_uri()):
        with util.open_url(name) as file:
            assert file.read() == BINARY
        assert util.open_url(name, return_filename=True) == str(path)


def test_local_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(BINARY)
    with util.open_url(str(path), sha256=hashlib.sha256(BINARY).hexdigest().upper()) as file:
        assert file.read() == BINARY
    with pytest.raises(UserError, match="SHA-256"):
        util.open_url(str(path), sha256="00" * 32)


def test_missing_local_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*x\.pkl") as info:
        util.open_url(str(tmp_path / "x.pkl"))
    assert isinstance(info.value, FileNotFoundError)
    with pytest.raises(UserError, match="cannot open"):
        util.open_url(str(tmp_path))


@pytest.mark.parametrize("url", ["ftp://host.name/x", "http://localhost/x"])
def test_unsupported_urls(url: str) -> None:
    with pytest.raises(UserError, match=url):
        util.open_url(url)


def test_downloads_once(server: _Server, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    server.answers["/d/net.pkl?v=1"] = [(200, BINARY, {})]
    url = server.url("/d/net.pkl?v=1")
    first = util.open_url(url, cache_dir=str(tmp_path))
    assert isinstance(first, io.BytesIO) and first.read() == BINARY
    assert "Downloading" in capsys.readouterr().out
    with util.open_url(url, cache_dir=str(tmp_path)) as second:
        assert second.read() == BINARY and second.name
    filename = util.open_url(url, cache_dir=str(tmp_path), return_filename=True)
    assert server.requests == ["/d/net.pkl?v=1"]
    assert capsys.readouterr().out == ""
    name = os.path.basename(filename)
    assert name.startswith(hashlib.md5(url.encode()).hexdigest() + "_")
    assert name.endswith("net.pkl_v_1")
    assert os.listdir(tmp_path) == [name]


def test_default_cache_dir(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path))
    server.answers["/x"] = [(200, BINARY, {})]
    filename = util.open_url(server.url("/x"), return_filename=True, verbose=False)
    assert os.path.dirname(filename) == str(tmp_path / "downloads")


def test_name_from_the_server(server: _Server, tmp_path: Path) -> None:
    disposition = {"Content-Disposition": 'attachment; filename="../a b.pkl"'}
    server.answers["/x"] = [(200, BINARY, disposition)]
    filename = util.open_url(server.url("/x"), cache_dir=str(tmp_path), return_filename=True)
    assert os.path.basename(filename).partition("_")[2] == ".._a_b.pkl"
    assert os.path.dirname(filename) == str(tmp_path)


def test_without_cache(server: _Server, tmp_path: Path) -> None:
    server.answers["/x"] = [(200, BINARY, {})]
    for _ in range(2):
        assert util.open_url(server.url("/x"), cache_dir=str(tmp_path), cache=False).read()
    assert len(server.requests) == 2 and os.listdir(tmp_path) == []
    with pytest.raises(AssertionError):
        util.open_url(server.url("/x"), cache=False, return_filename=True)


def test_retries(server: _Server, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    server.answers["/x"] = [(503, b"busy", {}), (200, b"", {}), (200, BINARY, {})]
    file = util.open_url(server.url("/x"), cache_dir=str(tmp_path), num_attempts=3)
    assert file.read() == BINARY
    assert "..... done" in capsys.readouterr().out


def test_gives_up(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"after 2 attempts: 404") as info:
        util.open_url(server.url("/x"), cache_dir=str(tmp_path), num_attempts=2)
    assert isinstance(info.value, OSError)
    assert len(server.requests) == 2 and os.listdir(tmp_path) == []


def test_interrupt_is_not_retried(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupted(*args: object, **_kwargs: object) -> None:
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr("requests.Session.get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        util.open_url(server.url("/x"), cache_dir=str(tmp_path))
    assert len(calls) == 1


def test_checksum(server: _Server, tmp_path: Path) -> None:
    good = hashlib.sha256(BINARY).hexdigest()
    server.answers["/x"] = [(200, b"damaged", {}), (200, BINARY, {})]
    url = server.url("/x")
    filename = util.open_url(url, cache_dir=str(tmp_path), sha256=good, return_filename=True)
    assert len(server.requests) == 2
    Path(filename).write_bytes(b"damaged on disk")
    with util.open_url(url, cache_dir=str(tmp_path), sha256=good) as file:
        assert file.read() == BINARY
    assert len(server.requests) == 3 and Path(filename).read_bytes() == BINARY
    with pytest.raises(UserError, match=good):
        util.open_url(url, cache_dir=str(tmp_path / "2"), sha256="00" * 32, num_attempts=1)
    assert not (tmp_path / "2").exists()


VIRUS_PAGE = b"""<html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="/download" method="get">
<input type="hidden" name="id" value="7"><input type="hidden" name="confirm" value="t&amp;1">
<input type="submit" value="Download anyway"></form></body></html>"""
QUOTA_PAGE = b"<html><head><title>Google Drive - Quota exceeded</title></head></html>"


def test_google_drive_confirmation(server: _Server, tmp_path: Path) -> None:
    server.answers["/uc?id=7"] = [(200, VIRUS_PAGE, {})]
    server.answers["/download?id=7&confirm=t%261"] = [(200, BINARY, {})]
    file = util.open_url(server.url("/uc?id=7"), cache_dir=str(tmp_path))
    assert file.read() == BINARY


def test_google_drive_quota(server: _Server, tmp_path: Path) -> None:
    server.answers["/x"] = [(200, QUOTA_PAGE, {})]
    with pytest.raises(UserError, match="Quota exceeded"):
        util.open_url(server.url("/x"), cache_dir=str(tmp_path), num_attempts=2)


def test_cache_folder_that_cannot_be_written(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server.answers["/x"] = [(200, BINARY, {})]
    with pytest.raises(UserError, match="DNNLIB_CACHE_DIR"):
        util.open_url(server.url("/x"), cache_dir=str(tmp_path / "file"))


def test_a_server_that_is_not_there_is_a_few_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests would show the objects that it consists of."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.pt"
        with pytest.raises(UserError) as caught:
            util.open_url(url, cache_dir=str(tmp_path), num_attempts=2)
    host = url.split("/")[2]
    assert str(caught.value) == (
        f"cannot download {url!r} after 2 attempts: {host} cannot be reached"
    )
