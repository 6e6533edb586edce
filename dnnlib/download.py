"""Open a file by path or URL; downloads are cached and can be verified."""

from __future__ import annotations

import glob
import hashlib
import html.parser
import io
import os
import re
import urllib.parse
from typing import Any, BinaryIO

from dnnlib.cache import make_cache_dir_path
from dnnlib.errors import FileError, MissingFileError
from dnnlib.files import atomic_path, file_sha256

_TIMEOUT_SEC = (10, 60)  # to connect: a dead network shall not cost minutes; to answer
_MAX_NAME = 128
# Google Drive answers with a small page of this title instead of the file.
_DRIVE_TITLE = re.compile(rb"<title>\s*Google Drive - ([^<]*?)\s*</title>", re.IGNORECASE)


class _DownloadFailed(Exception):
    """One attempt failed in a way that a further attempt may cure."""


def is_url(obj: Any, allow_file_urls: bool = False) -> bool:
    """Tell whether `obj` is a URL: a string with a scheme and a host that contains a dot.

    Args:
        obj: Anything.
        allow_file_urls: Also accept `file://...`.
    """
    if not isinstance(obj, str) or "://" not in obj:
        return False
    if allow_file_urls and obj.startswith("file://"):
        return True
    try:
        parts = urllib.parse.urlparse(obj)
    except ValueError:
        return False
    return bool(parts.scheme) and "." in parts.netloc


def open_url(
    url: str,
    cache_dir: str | None = None,
    num_attempts: int = 10,
    verbose: bool = True,
    return_filename: bool = False,
    cache: bool = True,
    sha256: str | None = None,
) -> BinaryIO | str:
    """Open a local file, a `file://` URL or a download for binary reading.

    A download is stored as `<md5 of the URL>_<name>`; the next call finds it there.

    Args:
        url: Path or URL. What does not start with a lower-case `scheme://` is a path.
        cache_dir: Folder for downloads; None = `make_cache_dir_path("downloads")`.
        num_attempts: Tries before giving up, at least 1.
        verbose: Print a line per download, with a dot per failed try.
        return_filename: Return the name of the file on disk instead of a stream.
        cache: Look in the cache and store there.
        sha256: Expected SHA-256 in hex; None = not checked. A cached file that does not have it is
            downloaded again.

    Returns:
        A binary stream, or the file name.

    Raises:
        MissingFileError: There is no such local file.
        FileError: The download failed, or the content does not have the expected checksum.
    """
    assert num_attempts >= 1, f"num_attempts must be at least 1, got {num_attempts}"
    assert cache or not return_filename, "return_filename needs cache=True"
    sha256 = sha256.lower() if sha256 is not None else None

    if re.match(r"[a-z]+://", url) is None or url.startswith("file://"):
        return _open_local(_local_path(url), return_filename, sha256)
    if not url.startswith(("http://", "https://")) or not is_url(url):
        raise FileError(f"cannot open {url!r}: use a file name, or a URL as https://host.name/file")

    if cache_dir is None:
        cache_dir = make_cache_dir_path("downloads")
    url_md5 = hashlib.md5(url.encode("utf-8"), usedforsecurity=False).hexdigest()
    if cache:
        found = glob.glob(os.path.join(glob.escape(cache_dir), f"{url_md5}_*"))
        if len(found) == 1 and (sha256 is None or file_sha256(found[0]) == sha256):
            return found[0] if return_filename else open(found[0], "rb")

    name, data = _download(url, num_attempts, verbose, sha256)
    if cache:
        safe_name = re.sub(r"[^0-9a-zA-Z-._]", "_", name)[-_MAX_NAME:]
        filename = os.path.join(cache_dir, f"{url_md5}_{safe_name}")
        try:
            os.makedirs(cache_dir, exist_ok=True)
            with atomic_path(filename) as temporary, open(temporary, "wb") as file:
                file.write(data)
        except OSError as error:
            raise FileError(
                f"cannot store the download in {cache_dir!r} ({error.strerror}): set "
                "DNNLIB_CACHE_DIR to a folder that can be written"
            ) from error
        if return_filename:
            return filename
    return io.BytesIO(data)


def _local_path(url: str) -> str:
    if not url.startswith("file://"):
        return url
    path = urllib.parse.unquote(urllib.parse.urlparse(url).path)
    # file:///C:/x.pkl has the path /C:/x.pkl
    return path[1:] if re.match(r"/[a-zA-Z]:", path) else path


def _open_local(path: str, return_filename: bool, sha256: str | None) -> BinaryIO | str:
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {path!r}") from None
    except OSError as error:
        raise FileError(f"cannot open {path!r}: {error.strerror}") from error
    if sha256 is not None and file_sha256(path) != sha256:
        file.close()
        raise FileError(f"{path!r} does not have the expected SHA-256 {sha256}")
    if return_filename:
        file.close()
        return path
    return file


def _download(url: str, num_attempts: int, verbose: bool, sha256: str | None) -> tuple[str, bytes]:
    """Fetch with retries; returns (file name proposed by the server or the URL, content)."""
    try:
        import requests
    except ImportError as error:
        raise FileError(f"cannot download {url!r}: install the package 'requests' first") from error

    def say(text: str) -> None:
        if verbose:
            print(text, end="", flush=True)

    say(f"Downloading {url} ...")
    source = url
    reason = ""
    with requests.Session() as session:
        for _attempt in range(num_attempts):
            try:
                response = session.get(source, timeout=_TIMEOUT_SEC)
                response.raise_for_status()
                link = _confirm_link(response.content, response.url)
                if link is not None:
                    source = link
                    raise _DownloadFailed("the server keeps asking for confirmation")
                _check_content(response.content, sha256)
            except (requests.RequestException, _DownloadFailed) as error:
                reason = _reason(error)
                say(".")
                continue
            say(" done\n")
            return _proposed_name(
                response.headers.get("Content-Disposition"), url
            ), response.content
    say(" failed\n")
    raise FileError(f"cannot download {url!r} after {num_attempts} attempts: {reason}")


def _reason(error: Exception) -> str:
    """A few words; those of requests about the network are a screenful."""
    import requests

    host = ""
    if isinstance(error, requests.RequestException) and error.request is not None:
        host = urllib.parse.urlparse(error.request.url or "").netloc
    if isinstance(error, requests.Timeout):
        return f"{host} did not answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy on the way to {host} refused"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} cannot be verified"
    if isinstance(error, requests.ConnectionError):
        return f"{host} cannot be reached"
    return str(error)


def _confirm_link(data: bytes, page_url: str) -> str | None:
    """Return the address behind Google Drive's virus-scan page, None if `data` is no such page."""
    title = _DRIVE_TITLE.search(data[:8192])
    if title is None:
        return None
    parser = _ConfirmParser()
    parser.feed(data.decode("utf-8", errors="replace"))
    if parser.link is None:
        raise _DownloadFailed(f"Google Drive says: {title[1].decode('utf-8', errors='replace')}")
    link = urllib.parse.urljoin(page_url, parser.link)
    if parser.fields:
        link += ("&" if "?" in link else "?") + urllib.parse.urlencode(parser.fields)
    return link


class _ConfirmParser(html.parser.HTMLParser):
    """Find the link or the form that continues a download on a confirmation page."""

    def __init__(self) -> None:
        super().__init__()
        self.link: str | None = None
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if tag == "form" and "download" in values.get("action", ""):
            self.link = values["action"]
        elif tag == "a" and "confirm=" in values.get("href", ""):
            self.link = values["href"]
        elif tag == "input" and values.get("type") == "hidden" and "name" in values:
            self.fields[values["name"]] = values.get("value", "")


def _check_content(data: bytes, sha256: str | None) -> None:
    if len(data) == 0:
        raise _DownloadFailed("the server sent an empty file")
    if sha256 is not None:
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise _DownloadFailed(f"its SHA-256 is {found}, not the expected {sha256}")


def _proposed_name(content_disposition: str | None, url: str) -> str:
    match = re.search(r'filename="([^"]+)"', content_disposition or "")
    return match[1] if match else url
