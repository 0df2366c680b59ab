"""Fingerprints: stable over what changes from job to job, apart for different causes."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from failbetter import Failure, Frame, fingerprint

OWN = Frame(
    file="/app/shop/orders.py", function="charge", line=10, code="pay(order)", module="shop.orders"
)
CALLER = Frame("/app/shop/nightly.py", "run_all", 3, "charge(order)", "shop.nightly")
PACKAGES = "/venv/lib/python3.11/site-packages"
LIBRARY = Frame(f"{PACKAGES}/requests/sessions.py", "request", 99, "send()", "requests.sessions")
STANDARD = Frame("/usr/lib/python3.11/json/decoder.py", "decode", 5, "raise x", "json.decoder")


def of(message: str = "", **changes: object) -> str:
    given = {
        "task": "t",
        "error_type": "ValueError",
        "message": message,
        "frames": [OWN, LIBRARY],
        **changes,
    }
    return fingerprint(Failure(**given))  # type: ignore[arg-type]


def own(code: str = "pay(order)", function: str = "charge", **changes: object) -> Frame:
    given = {"file": "/app/shop/orders.py", "function": function, "code": code, **changes}
    return Frame(**given)  # type: ignore[arg-type]


def raised(message: str, code: str = "raise Error(text)", kind: str = "shop.Error") -> str:
    return of(message, error_type=kind, frames=[own(code)])


def cause(kind: str, message: str = "", *frames: Frame) -> Failure:
    return Failure(task="t", error_type=kind, message=message, frames=frames)


def test_its_form() -> None:
    assert re.fullmatch(r"2-[0-9a-f]{16}", of())


def test_a_known_value() -> None:
    """Stored in ledgers: it may change only together with the version."""
    assert of() == "2-9bbf430b7d00efaa"


def test_the_task_counts() -> None:
    assert of(task="u") != of()


def test_the_type_counts() -> None:
    assert of(error_type="KeyError") != of()


def test_fields_do_not_run_into_each_other() -> None:
    assert of(task="ab", error_type="c") != of(task="a", error_type="bc")


# -- frames


def test_the_innermost_own_function_counts() -> None:
    other = own(function="refund")
    assert of(frames=[other, LIBRARY]) != of()
    assert of(frames=[OWN, other, LIBRARY]) == of(frames=[other, LIBRARY])


def test_the_way_to_it_does_not() -> None:
    assert of(frames=[CALLER, OWN, LIBRARY]) == of()


def test_what_libraries_do_between_does_not() -> None:
    newer = Frame(f"{PACKAGES}/requests/adapters.py", "send", 7, "conn()", "requests.adapters")
    assert of(frames=[OWN, LIBRARY, newer, STANDARD]) == of()


def test_two_lines_of_one_function() -> None:
    assert raised("", 'raise Error("empty")') != raised("", 'raise Error("negative")')
    assert of(frames=[own("a(order)"), LIBRARY]) != of(frames=[own("b(order)"), LIBRARY])


def test_a_line_that_was_only_reformatted_or_moved() -> None:
    before = own('pay( order, "EUR", )  # soon', line=4)
    after = own("pay(order, 'EUR')", line=40)
    assert of(frames=[before]) == of(frames=[after])


@pytest.mark.parametrize(
    "file",
    [
        "/home/ann/work/shop/orders.py",
        "/srv/shop/releases/2024-06-11T09/shop/orders.py",
        "/srv/x/releases/8c1f3e9/orders.py",
        "C:\\work\\shop\\orders.py",
        "/opt/shop/shop.pyz/shop/orders.py",
        "orders.py",
        "./shop/orders.pyc",
    ],
)
@pytest.mark.parametrize("module", [None, "shop.orders", "orders", "__main__"])
def test_modules_go_by_import_name(file: str, module: str | None) -> None:
    there = Frame(file, "charge", 99, OWN.code, module)
    assert there.is_own
    assert of(frames=[there, LIBRARY]) == of()


def test_modules_of_one_common_name() -> None:
    def at(module: str | None, code: str = "") -> str:
        return of(frames=[Frame("/app/x/client.py", "get", 1, code, module)])

    assert at("shop.client") != at("press.client")
    assert at("shop.plugins.x.client", "ask()") != at("shop.plugins.y.client", "ask()")
    # As the same failure is known elsewhere, of a traceback as text:
    assert at("shop.client", "ask()") == at(None, "ask()")


def test_a_package_goes_by_its_name() -> None:
    by_path = Frame("/srv/a/shop/__init__.py", "charge", code="x()")
    by_name = Frame("/app/shop/__init__.py", "charge", code="x()", module="shop")
    assert of(frames=[by_path]) == of(frames=[by_name])


@pytest.mark.parametrize(
    "file",
    [
        "/venv/lib/python3.11/site-packages/requests/api.py",
        "C:\\work\\venv\\Lib\\site-packages\\requests\\api.py",
        "C:\\Python311\\Lib\\json\\decoder.py",
        "C:\\Users\\ann\\AppData\\Local\\Programs\\Python\\Python312\\Lib\\json\\decoder.py",
        "C:\\hostedtoolcache\\windows\\Python\\3.11.4\\x64\\Lib\\json\\decoder.py",
        "C:\\Users\\ann\\AppData\\uv\\cpython-3.12.1-windows-x86_64\\Lib\\json\\decoder.py",
        "C:\\Users\\ann\\miniconda3\\Lib\\json\\decoder.py",
        "C:\\Users\\ann\\miniconda3\\envs\\shop\\lib\\json\\decoder.py",
        "/usr/lib/python3/dist-packages/redis/client.py",
        "/usr/lib/python3.11/socket.py",
        "/usr/local/lib64/python3.13t/socket.py",
        "/opt/conda/lib/python3.9/socket.py",
        "/root/.pyenv/versions/3.12.1/lib/python3.12/socket.py",
        "/Library/Frameworks/Python.framework/Versions/3.11/lib/python3.11/socket.py",
        "/nix/store/abc-python3-3.11/lib/python3.11/socket.py",
        "/usr/lib/pypy3.10/socket.py",
        "/root/.pex/installed_wheels/ab/requests.whl/requests/api.py",
        "/opt/python/requests/api.py",
        "/var/lang/lib/python3.12/json/decoder.py",
        "/usr/lib/python311.zip/json/decoder.py",
        "env/lib/python3.11/site-packages/woocommerce/api.py",
        "site-packages/woocommerce/api.py",
        "python2.7/smtplib.py",
        "lib/python3.11/ssl.py",
        "requests/sessions.py",
        "rq/timeouts.py",
        "<frozen importlib._bootstrap>",
        "<string>",
        "<attrs generated init shop.Order>",
        "lxml/etree.pyx",
    ],
)
def test_libraries_in_any_layout(file: str) -> None:
    frame = Frame(file, "request", 99)
    assert not frame.is_own
    assert of(frames=[OWN, frame]) == of()


@pytest.mark.parametrize(
    "file",
    [
        "<stdin>",
        "/app/lib/orders.py",
        "/app/celery/orders.py",
        "apps/shop/orders.py",
        "http.py",
        "/home/python/app/orders.py",
        "/home/ann/python-projects/shop/lib/orders.py",
        "/home/ann/lib/python/orders.py",
        "D:\\python\\shop\\lib\\orders.py",
    ],
)
def test_what_is_no_library(file: str) -> None:
    assert Frame(file, "charge").is_own


def test_failbetters_own_frames_are_a_librarys() -> None:
    ours = Frame("/src/failbetter/worker/bodies.py", "_alarm", module="failbetter.worker.bodies")
    assert not ours.is_own
    demo = Frame("/src/failbetter/demo/tasks.py", "up", module="failbetter.demo.tasks")
    assert demo.is_own


def test_an_application_that_is_installed_as_a_package() -> None:
    def at(function: str) -> str:
        frame = Frame(f"{PACKAGES}/shop/orders.py", function, code="x()")
        return of(task="shop.tasks.nightly", frames=[frame, STANDARD])

    assert at("charge") != at("refund")


@pytest.mark.parametrize("name", ["<listcomp>", "<genexpr>", "<dictcomp>"])
def test_comprehensions_belong_to_their_function(name: str) -> None:
    """Python 3.12 has no frames for most of them."""
    inlined = own("[pay(one) for one in orders]")
    inside = own("[pay(one) for one in orders]", function=name)
    assert of(frames=[inlined, inside]) == of(frames=[inlined])


@pytest.mark.parametrize("name", ["wrapper", "inner", "<lambda>"])
def test_nameless_functions_are_told_apart_by_who_called(name: str) -> None:
    nameless = Frame("/app/shop/decorators.py", name)
    assert of(frames=[OWN, nameless]) != of(frames=[CALLER, nameless])
    assert of(frames=[OWN, nameless]) == of(frames=[CALLER, OWN, nameless])


def test_recursion_ends_at_any_of_its_functions() -> None:
    one, two = own(function="walk"), own(function="visit")
    deep = [one, two] * 50
    assert of(error_type="RecursionError", frames=deep) == of(
        error_type="RecursionError", frames=[*deep, one]
    )


# -- messages


@pytest.mark.parametrize(
    ("message", "other"),
    [
        ("order 17 not found here", "order 9918 not found here"),
        ("no such order as ord-17x", "no such order as ord-9f"),
        ("lost 10.0.0.1:5432 after 3.5s", "lost db.internal:6000 after 30ms"),
        ("bad object <shop.Order object at 0x7f01>", "bad object <shop.Order object at 0xabcd>"),
        ("cannot read /srv/a/b.csv today", "cannot read C:\\data\\c.csv today"),
        ("cannot use 'apples' for this", "cannot use 'pears' for this"),
        ('cannot use "apples" for this', 'cannot use "a b c" for this'),
        ("no mail for ann@x.com from us", "no mail for bob@y.org from us"),
        (
            "job 8b8c4a2e-1f0e-4a51-9d9e-0b6a8e7e0a11 is too old",
            "job 00000000-1f0e-4a51-9d9e-000000000000 is too old",
        ),
        ("too late at 2024-01-02T03:04:05Z again", "too late at 2025-11-12 10:00:00 again"),
        ("see https://a.example/x?y=1 for more", "see http://b.example:80/z for more"),
        ("read 5 of 10 MB at once", "read 1 of 2000 MB at once"),
        ("worker 3 failed after 12 s", "worker 41 failed after 1 s"),
        ("the server returned 17 rows", "the server returned 3 rows"),
        ("no answer within 1 second at all", "no answer within 5 minutes at all"),
        ("used 512 MB of its memory", "used 2 GB of its memory"),
        ("found 1 error in the answer", "found 2 errors in the answer"),
        ("too late at Tue, 02 Jan 2024 10:00:00 GMT", "too late at Wed, 05 Jun 2024 10:00:00 GMT"),
        ("wrong postal code 10115 here", "wrong postal code 75001 here"),
        ("the first line\nand id 5", "the first line\nwith other words"),
    ],
)
def test_data_in_messages_goes(message: str, other: str) -> None:
    assert raised(message) == raised(other)
    assert of(message) == of(other)
    assert of(message, frames=[]) == of(other, frames=[]) or "'" in message or '"' in message


@pytest.mark.parametrize(
    ("message", "other"),
    [
        ("'x' returned non-zero exit status 1.", "'x' returned non-zero exit status 2."),
        ("ffmpeg failed with exit code 1", "ffmpeg failed with exit code 137"),
        ("exited with code -9", "exited with code -11"),
        ("died with <Signals.SIGKILL: 9>.", "died with <Signals.SIGSEGV: 11>."),
        ("terminated by signal 9", "terminated by signal 11"),
        ("404 Client Error: Not Found for url: x", "410 Client Error: Gone for url: x"),
        ("Client error '404 Not Found' for url", "Client error '403 Forbidden' for url"),
        ("HTTP Error 500: oh", "HTTP Error 503: oh"),
        ("HTTP/1.1 502", "HTTP/1.1 504"),
        ("upstream answered with status=429", "upstream answered with status=500"),
        ("unexpected status code: 301", "unexpected status code: 302"),
        ("(550, b'5.1.1 no')", "(451, b'4.7.1 no')"),
        ("{'a@x.com': (550, b'no')}", "{'a@x.com': (553, b'no')}"),
        ("[Errno 28] No space left", "[Errno 5] Input/output error"),
        ("(1062, \"Duplicate 'x'\")", "(1213, 'Deadlock')"),
        ("404, message='Not Found', url='http://x'", "503, message='Oh', url='http://x'"),
        ("404: Not Found", "403: Forbidden"),
        ('404 {"message": "x"}', '422 {"message": "x"}'),
        ("550 No such file", "530 No such file"),
        ("(404)\nReason: x", "(409)\nReason: x"),
        ("<HttpError 404 when requesting x>", "<HttpError 403 when requesting x>"),
        ("NotFoundError(404, 'x')", "NotFoundError(503, 'x')"),
        ("Error code: 429 - {}", "Error code: 500 - {}"),
        ("Cmd('git') failed due to: exit code(128)", "Cmd('git') failed due to: exit code(1)"),
        ("exited early: signal 9 (SIGKILL) Job: 0.", "exited early: exitcode 3 Job: 0."),
        ("waitpid returned 139 (signal 11)", "waitpid returned 137 (signal 9)"),
        ("ffmpeg returned 1", "ffmpeg returned 127"),
        ("1062 (23000): Duplicate", "1213 (40001): Duplicate"),
        ("('23000', '[23000] x')", "('40001', '[40001] x')"),
        ("E11000 duplicate", "E11600 duplicate"),
        ("ORA-00001: unique", "ORA-01017: unique"),
        ("<RPC: StatusCode.UNAVAILABLE>", "<RPC: StatusCode.NOT_FOUND>"),
        ("An error occurred (NoSuchKey) when calling the GetObject operation: a",
         "An error occurred (AccessDenied) when calling the GetObject operation: a"),
    ],
)  # fmt: skip
def test_numbers_that_are_causes_stay(message: str, other: str) -> None:
    assert raised(message) != raised(other)
    assert of(message) != of(other)
    assert of(message, frames=[]) != of(other, frames=[])


def test_they_stay_where_the_line_has_words_of_its_own() -> None:
    code = 'raise Error(f"probe failed with exit code {done.returncode}")'
    assert raised("probe failed with exit code 3", code) != raised(
        "probe failed with exit code 4", code
    )


def test_a_line_with_words_of_its_own_needs_no_message() -> None:
    code = 'raise Error(f"no customer {name} in {place}")'
    assert raised("no customer Ann in Rome", code) == raised("no customer Bob in Bern", code)


def test_a_line_without_words_needs_it() -> None:
    assert raised("the licence has run out") != raised("the answer holds no items")
    assert raised("Rome", "raise UnknownCity(city)") == raised("Bern", "raise UnknownCity(city)")


def test_a_message_of_a_library_tells_causes_apart() -> None:
    one = "UNIQUE constraint failed: orders.ref"
    assert of(one) != of("UNIQUE constraint failed: orders.id")
    assert of(one) != of("NOT NULL constraint failed: orders.ref")
    keyed = 'duplicate key value violates unique constraint "{}"\nDETAIL: Key (a)=(5)'
    assert of(keyed.format("orders_ref")) != of(keyed.format("orders_pkey"))


def test_a_key_is_data_if_an_own_frame_is_known() -> None:
    key = {"error_type": "KeyError"}
    assert of("'GBP'", frames=[own("RATES[currency]")], **key) == of(
        "'SEK'", frames=[own("RATES[currency]")], **key
    )
    assert of("'GBP'", frames=[], **key) != of("'SEK'", frames=[], **key)


def test_a_key_that_the_line_names_is_none() -> None:
    frame = own('int(row["id"]), float(row["price"])')
    key = {"error_type": "KeyError", "frames": [frame]}
    assert of("'id'", **key) != of("'price'", **key)
    name = own("order.customer.name.title()")
    attribute = {"error_type": "AttributeError", "frames": [name]}
    said = "'NoneType' object has no attribute '{}'"
    assert of(said.format("name"), **attribute) != of(said.format("title"), **attribute)


def test_each_server_words_a_status_as_it_likes() -> None:
    kind = {"error_type": "requests.exceptions.HTTPError"}
    one = of("404 Client Error: Not Found for url: https://a.example/1", **kind)
    assert one == of("404 Client Error:  for url: https://b.example/2", **kind)
    assert one == of("404 Client Error: Nothing Here for url: https://b.example/2", **kind)
    assert one != of("403 Client Error: Not Found for url: https://a.example/1", **kind)


def test_a_module_that_is_not_there_is_the_cause() -> None:
    said = {"error_type": "ModuleNotFoundError", "frames": [own("import_module(name)"), STANDARD]}
    assert of("No module named 'a.b'", **said) != of("No module named 'a.c'", **said)


def test_the_program_that_failed_is_the_cause() -> None:
    frames = [own("subprocess.run(command, check=True)"), STANDARD]
    kind = {"error_type": "subprocess.CalledProcessError", "frames": frames}
    said = "Command '[{}]' returned non-zero exit status 1."
    one = of(said.format("'/usr/bin/git', 'push', 'a'"), **kind)
    assert one == of(said.format("'C:\\\\bin\\\\git.exe', 'pull'"), **kind)
    assert one != of(said.format("'ffmpeg', '-i', 'a'"), **kind)


# -- types


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("IOError", "OSError"),
        ("EnvironmentError", "OSError"),
        ("socket.error", "OSError"),
        ("select.error", "builtins.OSError"),
        ("WindowsError", "OSError"),
        ("socket.timeout", "TimeoutError"),
        ("asyncio.exceptions.TimeoutError", "builtins.TimeoutError"),
        ("concurrent.futures._base.TimeoutError", "TimeoutError"),
        ("json.decoder.JSONDecodeError", "requests.exceptions.JSONDecodeError"),
        ("httpx._exceptions.ConnectError", "httpx.ConnectError"),
        ("__main__.Oops", "Oops"),
        ("ModuleNotFoundError", "ImportError"),
    ],
)
def test_renamed_types(one: str, other: str) -> None:
    assert of(error_type=one) == of(error_type=other)
    assert of(error_type=one) != of(error_type="LookupError")


@pytest.mark.parametrize(
    ("kind", "message", "named"),
    [
        ("OSError", "[Errno 2] No such file or directory: '/a'", "FileNotFoundError"),
        ("IOError", "[Errno 13] Permission denied: '/b'", "PermissionError"),
        ("OSError", "[Errno 61] Connection refused", "ConnectionRefusedError"),
        ("OSError", "[WinError 10061] No connection could be made", "ConnectionRefusedError"),
        ("OSError", "[WinError 3] Das System kann den Pfad nicht finden", "FileNotFoundError"),
        ("redis.exceptions.ConnectionError", "Error 111 connecting to a:6379. Connection refused.",
         "ConnectionRefusedError"),
        ("redis.exceptions.ConnectionError", "Error 32 while writing to socket. Broken pipe.",
         "BrokenPipeError"),
        ("redis.exceptions.ConnectionError", "Error while reading from a:6379 : (104, 'Connection"
         " reset by peer')", "ConnectionResetError"),
        ("httpx.ConnectError", "[Errno 111] Connection refused", "ConnectionRefusedError"),
        ("requests.exceptions.ConnectionError", "HTTPConnectionPool(host='a', port=1): Max retries"
         " exceeded with url: /x (Caused by NewConnectionError('<x object at 0x7f>: Failed to"
         " establish a connection: [Errno 111] Connection refused'))", "ConnectionRefusedError"),
    ],
)  # fmt: skip
def test_what_the_system_says_goes_by_its_number(kind: str, message: str, named: str) -> None:
    assert of(message, error_type=kind) == of(error_type=named)


def test_a_host_that_is_not_found_has_other_numbers_elsewhere() -> None:
    kind = {"error_type": "socket.gaierror"}
    assert of("[Errno -2] Name or service not known", **kind) == of(
        "[Errno 8] nodename nor servname provided, or not known", **kind
    )
    assert of("[Errno -2] Name or service not known", **kind) != of(
        "[Errno -3] Temporary failure in name resolution", **kind
    )


# -- chains


REFUSED = cause("ConnectionRefusedError", "[Errno 111] Connection refused", OWN, STANDARD)


def test_the_root_cause_counts() -> None:
    reset = cause("ConnectionResetError", "[Errno 104] Connection reset by peer", OWN, STANDARD)
    outer = {"error_type": "shop.SyncError", "frames": [CALLER, own("raise SyncError from error")]}
    assert of("sync failed", causes=[REFUSED], **outer) != of(
        "sync failed", causes=[reset], **outer
    )


def test_wrappers_that_repeat_are_seen_through() -> None:
    bare = fingerprint(REFUSED)
    caller = own("handle(error)", function="guard")
    for message in ("[Errno 111] Connection refused", "sync: ConnectionRefusedError(111, 'x')"):
        wrapped = of(message, error_type="shop.SyncError", frames=[caller], causes=[REFUSED])
        assert wrapped == bare


def test_how_often_it_was_tried_does_not_count() -> None:
    failed = cause("shop.Busy", "port 7", CALLER, own("raise Busy(port)"))
    again = cause("shop.Busy", "port 8", CALLER, own("raise Busy(port)"))
    twice = replace(again, causes=[failed])
    assert fingerprint(twice) == fingerprint(failed)
    assert fingerprint(replace(again, causes=[failed, failed])) == fingerprint(failed)


def test_short_texts_stand_in_others_by_chance() -> None:
    inner = cause("csv.Error", "7", own("parse(text)", function="parse"))
    frames = [own("handle()"), own("raise ValueError(said)", function="handle")]
    said = "Error 17 is told of here"
    assert of(said, frames=frames, causes=[inner]) != fingerprint(inner)


def test_wrappers_raised_where_the_cause_was_caught_are_seen_through() -> None:
    where = own('raise SyncError("could not sync")')
    wrapped = of("could not sync", error_type="shop.SyncError", frames=[where], causes=[REFUSED])
    again = of("gave up", error_type="shop.GaveUp", causes=[
        REFUSED, cause("shop.SyncError", "could not sync", where)],
        frames=[own('raise GaveUp("gave up")', function="charge")])  # fmt: skip
    assert wrapped == again == fingerprint(REFUSED)


def test_an_error_in_a_handler_is_an_error_of_its_own() -> None:
    """`except KeyError: compute()`: what then fails in there has its own cause."""
    missing = cause("KeyError", "'a'", own("cache[key]"))

    def failing(kind: str, function: str) -> str:
        frames = [own("return compute(key)"), own("1 / 0", function=function)]
        return of(error_type=kind, frames=frames, causes=[missing])

    assert failing("ZeroDivisionError", "compute") != failing("TypeError", "compute")
    assert failing("ZeroDivisionError", "compute") != failing("ZeroDivisionError", "other")
    alone = of(error_type="ZeroDivisionError", frames=[own("1 / 0", function="compute")])
    assert failing("ZeroDivisionError", "compute") == alone


def test_a_cause_within_a_library_takes_the_place_of_its_caller() -> None:
    inner = cause("sqlite3.IntegrityError", "UNIQUE constraint failed: a.b", LIBRARY)
    outer = {
        "error_type": "sqlalchemy.exc.IntegrityError",
        "message": "(sqlite3.IntegrityError) UNIQUE constraint failed: a.b\n[SQL: INSERT]",
        "causes": [inner],
    }
    assert of(frames=[OWN, LIBRARY], **outer) != of(frames=[CALLER, LIBRARY], **outer)
    assert of(frames=[OWN, LIBRARY], **outer) == of(
        "UNIQUE constraint failed: a.b", error_type="sqlite3.IntegrityError"
    )


def test_a_traceback_from_another_process() -> None:
    told = (
        '"""\nTraceback (most recent call last):\n'
        '  File "/app/shop/orders.py", line 9, in charge\n    pay(order)\n"""'
    )
    pool = [own("pool.map(charge, orders)", function="all"), STANDARD]
    for name in (
        "concurrent.futures.process._RemoteTraceback",
        "multiprocessing.pool.RemoteTraceback",
    ):
        remote = of(frames=pool, causes=[cause(name, told)])
        assert remote == of(frames=[OWN])


def test_a_group_goes_by_its_member() -> None:
    outer = of(
        "unhandled errors in a TaskGroup (2 sub-exceptions)",
        error_type="ExceptionGroup",
        frames=[CALLER],
        causes=[REFUSED],
    )
    assert outer == fingerprint(REFUSED)


# -- timeouts from outside


@pytest.mark.parametrize(
    ("kind", "handler"),
    [
        ("rq.timeouts.JobTimeoutException",
         Frame(f"{PACKAGES}/rq/timeouts.py", "handle_death_penalty", 58)),
        ("billiard.exceptions.SoftTimeLimitExceeded",
         Frame(f"{PACKAGES}/billiard/pool.py", "soft_timeout_sighandler", 229)),
        ("failbetter.TimedOut",
         Frame(f"{PACKAGES}/failbetter/worker/bodies.py", "_handle", 9)),
        ("shop.TooLongTimeout", Frame("/app/shop/limits.py", "handle_alarm", 9, "raise kind(x)")),
        ("TimeoutError", Frame("/app/shop/limits.py", "_timeout_handler", 9, "raise TimeoutError")),
    ],
)  # fmt: skip
def test_the_running_function_is_the_cause_not_the_handler(kind: str, handler: Frame) -> None:
    def struck(where: Frame, *deeper: Frame, message: str = "exceeded 180 s") -> str:
        return of(message, error_type=kind, frames=[CALLER, where, *deeper, handler])

    first = own("total += 1", function="crunch")
    second = own("total -= 1", function="crunch")
    assert struck(first) == struck(second, message="exceeded 20 s")
    assert struck(first) == struck(second, STANDARD)
    assert struck(first) != struck(own("total += 1", function="count"))


def test_a_handler_of_events_is_no_handler_of_alarms_if_nothing_ran() -> None:
    handler = own('raise TimeoutError("slow")', function="handler")
    other = Frame("/app/shop/mail.py", "handler", 1, handler.code)
    assert of(error_type="TimeoutError", frames=[handler]) != of(
        error_type="TimeoutError", frames=[other]
    )


def test_a_cancelled_wait_is_its_timeouts_place() -> None:
    def late(function: str) -> str:
        waiting = cause(
            "asyncio.exceptions.CancelledError", "", own("await x", function=function), STANDARD
        )
        return of(error_type="TimeoutError", frames=[CALLER, STANDARD], causes=[waiting])

    assert late("poll") != late("confirm")
    assert late("poll") == of(error_type="TimeoutError", frames=[own("", function="poll")])


# -- no frame of the user's own


def test_without_own_frames_the_package_and_the_message_count() -> None:
    def at(name: str, message: str) -> str:
        frame = Frame(f"{PACKAGES}/{name}/x.py", "f", 3)
        return of(message, frames=[STANDARD, frame, STANDARD])

    said = "the given broker could not be reached"
    assert at("kombu", said) == at("kombu", f"{said} 17")
    assert at("kombu", said) != at("redis", said)
    assert at("kombu", said) != at("kombu", "the given exchange is not known")


def test_the_package_has_no_version() -> None:
    def at(folder: str) -> str:
        return of(frames=[Frame(f"{folder}/kombu/connection.py", "connect", 3)])

    egg = "/usr/lib/python2.7/site-packages/kombu-3.0.24-py2.7.egg"
    assert at(egg) == at(PACKAGES) == at("C:\\venv\\Lib\\site-packages")


def test_no_frames_at_all() -> None:
    assert of("a cause", frames=[]) != of("another thing", frames=[])
    assert of(frames=[]) != of()


def test_few_words_leave_the_librarys_function() -> None:
    def at(function: str) -> str:
        return of(frames=[Frame(f"{PACKAGES}/kombu/x.py", function, 3)])

    assert at("connect") != at("publish")
