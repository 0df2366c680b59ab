"""`Retry-After`, on errors that real HTTP clients raise and on anything that has `retry_after`."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from failbetter.lifecycle.retry_after import LONGEST, retry_after

NOW = 1_800_000_000.0
IN_90_S = format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)


class Polite(Exception):
    """An error that says by itself how long to wait."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.retry_after = value


class FromHeader(Exception):
    """An error with a response that has headers."""

    def __init__(self, headers: Any) -> None:
        super().__init__()
        self.response = type("Response", (), {"headers": headers})()


# -- real clients against a real server


class Busy(BaseHTTPRequestHandler):
    """Answers everything with 429 and the Retry-After that the path names."""

    def do_GET(self) -> None:
        self.send_response(429)
        value = self.path.removeprefix("/").replace("%20", " ")
        if value:
            self.send_header("Retry-After", value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def busy() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Busy)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def by_httpx(url: str) -> BaseException:
    with (
        httpx.Client(trust_env=False) as client,
        pytest.raises(httpx.HTTPStatusError) as caught,
    ):
        client.get(url).raise_for_status()
    return caught.value


def by_requests(url: str) -> BaseException:
    with requests.Session() as session, pytest.raises(requests.HTTPError) as caught:
        session.trust_env = False
        session.get(url, timeout=5).raise_for_status()
    return caught.value


def by_urllib(url: str) -> BaseException:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(url, timeout=5)
    caught.value.close()
    return caught.value


@pytest.mark.parametrize("client", [by_httpx, by_requests, by_urllib])
def test_real_errors(client: Any, busy: str) -> None:
    assert retry_after(client(f"{busy}/120"), NOW) == 120
    assert retry_after(client(f"{busy}/{IN_90_S.replace(' ', '%20')}"), NOW) == 90
    assert retry_after(client(f"{busy}/later"), NOW) is None
    assert retry_after(client(f"{busy}/"), NOW) is None


def test_errors_without_a_response() -> None:
    assert retry_after(httpx.ConnectError("refused"), NOW) is None
    assert retry_after(requests.ConnectionError("refused"), NOW) is None
    assert retry_after(urllib.error.URLError("refused"), NOW) is None
    assert retry_after(ValueError("no HTTP at all"), NOW) is None


# -- what the values mean


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (30, 30),
        (1.5, 1.5),
        (0, 0),
        ("30", 30),
        (timedelta(minutes=2), 120),
        (-5, 0),
        (timedelta(seconds=-1), 0),
        (LONGEST * 10, LONGEST),
        (True, None),
        (None, None),
        ("soon", None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, LONGEST),
        (b"30", None),
        ([30], None),
        (object(), None),
    ],
)
def test_own_attribute(value: object, expected: float | None) -> None:
    assert retry_after(Polite(value), NOW) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("30", 30),
        (" 30 ", 30),
        (b"30", 30),
        ("0", 0),
        (IN_90_S, 90),
        (IN_90_S.replace("GMT", "+0000"), 90),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0),
        (format_datetime(datetime.fromtimestamp(NOW + 1e7, UTC), usegmt=True), LONGEST),
        ("999999999", LONGEST),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1 hour", None),
        ("Sun, 99 Nov 2026 00:00:00 GMT", None),
        ("Sun, 22 Nov 99999 00:00:00 GMT", None),
        ("Sun, 22 Nov 2026 00:00:00 +99999999999999", None),
        (object(), None),
    ],
)
def test_header(value: object, expected: float | None) -> None:
    assert retry_after(FromHeader({"Retry-After": value}), NOW) == expected


def test_an_old_style_date_without_a_zone_is_utc() -> None:
    text = datetime.fromtimestamp(NOW + 60, UTC).strftime("%a %b %d %H:%M:%S %Y")
    assert retry_after(FromHeader({"Retry-After": text}), NOW) == 60


def test_the_name_of_the_header_in_lower_case() -> None:
    assert retry_after(FromHeader({"retry-after": "7"}), NOW) == 7


def test_the_own_attribute_goes_first() -> None:
    error = FromHeader({"Retry-After": "7"})
    error.retry_after = 3  # type: ignore[attr-defined]
    assert retry_after(error, NOW) == 3
    error.retry_after = "soon"  # type: ignore[attr-defined]
    assert retry_after(error, NOW) == 7


@pytest.mark.parametrize("headers", [None, 5, [("Retry-After", "7")], object()])
def test_headers_of_another_kind(headers: object) -> None:
    assert retry_after(FromHeader(headers), NOW) is None


@given(st.text())
def test_any_header_is_understood_or_ignored(value: str) -> None:
    found = retry_after(FromHeader({"Retry-After": value}), NOW)
    assert found is None or 0 <= found <= LONGEST


@given(
    st.from_regex(
        r"(Mon|Xxx), [0-9]{1,3} (Jan|Feb|Foo) [0-9]{1,6} [0-9]{1,3}:[0-9]{1,3}(:[0-9]{1,3})?"
        r"( (GMT|UTC|EST|[+-][0-9]{1,14}))?",
        fullmatch=True,
    )
)
def test_any_date_is_understood_or_ignored(value: str) -> None:
    message = Message()
    message["Retry-After"] = value
    found = retry_after(FromHeader(message), NOW)
    assert found is None or 0 <= found <= LONGEST


@given(st.integers(0, 86_400))
def test_dates_and_seconds_say_the_same(wait: int) -> None:
    date = format_datetime(datetime.fromtimestamp(NOW + wait, UTC), usegmt=True)
    assert retry_after(FromHeader({"Retry-After": date}), NOW) == wait
    assert retry_after(FromHeader({"Retry-After": str(wait)}), NOW) == wait
