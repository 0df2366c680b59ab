"""What of an error's message tells its cause: codes that are causes, and words that are no data.

Messages are read up to a bound, by expressions that cannot run away, since they may say anything.
"""

from __future__ import annotations

import re
from itertools import islice

_READ = 600
_WORDS = 16
_NUMBERS = 24
_BEFORE = 32

# A number is a cause if the words before it or after it say so.
_NUMBER = re.compile(r"-?\b\d{1,10}\b")
_SAID_BEFORE = re.compile(
    r"""(?:
    \bexit(?:ed)?(?:\ with)?(?:\ non-zero)?(?:[\ _-]?(?:status|code|value))*
    | \b(?:return(?:ed|s)?[\ _-]?code|retcode|rc)
    | \bsignals?\.?(?:\ number)?
    | \b(?:https?|smtp)(?:/\d(?:\.\d)?)?(?:[\ _-]?(?:error|status|code|response))*
    | \b(?:error|status|response|result|reply|http)[\ _-]?code
    | \b(?:http|response|got|unexpected|bad)[\ _-]?status
    | \b(?:status|(?<!zip\ )(?<!postal\ )(?<!promo\ )(?<!country\ )(?<!area\ )(?<!coupon\ )code)
    | error
    | \b(?:responded|replied|answered|failed|got|received|returned)(?:\ with|\ an?)?
    )(?:\ of|\ was|\ is)?['"]?\s?[:=\#]?\s?[(<]?$""",
    re.VERBOSE | re.IGNORECASE,
)
# The last words of the above, to look at all of it only where one of them stands.
_LAST_WORDS = (
    "a", "an", "answered", "code", "error", "exit", "exited", "failed", "got", "http", "https",
    "is", "number", "of", "rc", "received", "replied", "reply", "response", "responded", "result",
    "retcode", "returncode", "returned", "returns", "signal", "signals", "smtp", "status", "value",
    "was", "with", "zero",
)  # fmt: skip
_LAST_WORD = re.compile(r"[A-Za-z]+$")
_SAID_AFTER = re.compile(
    r"""[\ :-]{1,3}(?:client\ error|server\ error|errors?\b|bad\ |unauthorized|forbidden|gone\b
    |not\ |method\ not|conflict|too\ many|unprocessable|internal\ server|service\ unav|gateway\ time
    |request\ |payment\ req|precondition|moved\ perm|locked\b)|,\ b?['"]""",
    re.VERBOSE | re.IGNORECASE,
)
# A message that begins with a status: "404, message=…", "503: …", "404 {…}", "550 No such file",
# or with the number of a database: "1062 (23000): …".
_SAID_FIRST = re.compile(r"\(?(?:[45]\d\d(?=$|[,:;)\]\n]|\s+[-{(\"'\[A-Z])|\d{4}(?=\ \(\w{5}\)))")
_STATUS = re.compile(r"[1-5]\d\d$")
_NAMED_CODE = re.compile(
    r"\bSIG(?:KILL|TERM|SEGV|ABRT|INT|HUP|BUS|ILL|FPE|PIPE|ALRM|QUIT|SYS|TRAP|XCPU|XFSZ|USR[12])\b"
    r"|\bORA-\d{5}\b|\bE1\d{4}\b|(?<=^\(')[0-9A-Z]{5}(?=')|\bSQLSTATE\W{0,3}[0-9A-Z]{5}\b|\bStatusCode\.[A-Z_]+"
)
_OF_WHAT = re.compile(r"[\s-]*[^\W\d]|[.,]\d|%")
_VAGUE = (
    "got",
    "received",
    "returned",
    "answered",
    "replied",
    "responded",
    "failed",
    "status",
    "error",
)
_ERRNO = re.compile(r"\[(?:Errno|WinError|Error)\s(-?\d{1,6})\]")
_ERRNO_ELSE = re.compile(
    r"\berrno\W{0,3}(-?\d{1,6})\b"
    r"|^Error (\d{1,5}) (?:connecting|while|reading|writing)\b"
    r"|^Error while \w+ [^()\n]{0,200}\((\d{1,5}), "
    r"|\b(?:OSError|IOError|Connection[A-Za-z]+Error|BrokenPipeError|TimeoutError)\((\d{1,5}), ",
    re.IGNORECASE,
)
# What the expressions above need: to look for it first costs a tenth.
_NAMED_SIGNS = ("SIG", "ORA-", "SQLSTATE", "StatusCode.", "E1")
_ERRNO_SIGNS = ("rrno", "RRNO", "Error ", "Error(")
# One condition under its numbers on macOS, of Windows' sockets, and on Windows alone.
_SAME_ERRNO = {
    61: 111, 60: 110, 54: 104, 53: 103, 51: 101, 65: 113, 48: 98, 49: 99, 66: 39, 63: 36,
    10061: 111, 10060: 110, 10054: 104, 10053: 103, 10051: 101, 10065: 113, 10048: 98, 10049: 99,
    11001: -2, 11002: -3, 11004: -2,
}  # fmt: skip
_WINDOWS_ERRNO = {3: 2, 5: 13, 32: 13, 80: 17, 112: 28, 121: 110, 145: 39, 206: 36, 1225: 111}
_RESOLVER_ERRNO = {8: -2, -5: -2, 7: -2}
_NOT_RESOLVED = frozenset({"socket.gaierror", "socket.herror"})

_QUOTED = re.compile(
    r"\"[^\"\n]*\"|(?<![A-Za-z])[bur]?'[^'\n]*'(?![a-z])|`[^`\n]*`|«[^»\n]*»|“[^”\n]*”"
)
# Of quoted names these are the schema's, and so no data.
_NAMED = re.compile(
    r"\b(constraint|column|relation|table|index|key|field|template|module|attribute|keyword"
    r"|argument) [\"'`]([A-Za-z_][A-Za-z_.]{0,80})[\"'`]"
)
_CONSTRAINT = re.compile(r"constraint failed: ([A-Za-z_]\w{0,60}(?:\.[A-Za-z_]\w{0,60})?)")
_DATA_LIKE = re.compile(r"[\d/\\@=%{}]|[^\W\d_][.\-][^\W\d_]")
# Units and parts of times: they stand beside data, and change with it.
_MEASURES = frozenset({
    "second", "sec", "minute", "min", "hour", "hr", "day", "week", "month", "year", "millisecond",
    "m", "byte", "kb", "mb", "gb", "tb", "kib", "mib", "gib", "percent", "am", "pm", "utc", "gmt",
    "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "january",
    "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december", "mon", "tue", "wed", "thu", "fri", "sat", "sun", "monday", "tuesday",
    "wednesday", "thursday", "friday", "saturday", "sunday",
})  # fmt: skip
_WORD = re.compile(r"[^\W\d]{2,40}")
_COMMAND = re.compile(r"\bCommand ['\"]\[?['\"]?([^'\",\s\]]{1,200})", re.IGNORECASE)
# What AWS answers: a code, to what was asked for, and words with names of one's own.
_AWS = re.compile(r"An error occurred \((\w+)\) when calling the (\w+) operation")
_PRINTED = re.compile(r"0x[0-9a-f]+|<[^<>\n]{0,200} (?:object )?at \.?>", re.IGNORECASE)


def codes(message: str, kind: str) -> tuple[str, ...]:
    """The numbers of the message that are causes: exit codes, signals, statuses, errnos."""
    text = message[:_READ]
    told = _AWS.match(text)
    if told:
        return told.groups()
    found = []
    if text.startswith("('") or any(sign in text for sign in _NAMED_SIGNS):
        found += [name.rpartition(".")[2] for name in _NAMED_CODE.findall(text)]
    for match in islice(_NUMBER.finditer(text), _NUMBERS):
        if _is_cause(text, match):
            found.append(match.group())
    number = errno(text, kind)
    if number is not None:
        said = _errno_said(text)
        found = [*(code for code in found if code != said), f"errno {number}"]
    return tuple(dict.fromkeys(found))[:4]


def _is_cause(text: str, match: re.Match[str]) -> bool:
    number, before = match.group(), text[max(0, match.start() - _BEFORE) : match.start()]
    said = _SAID_BEFORE.search(before) if _may_say(before) else None
    if said:
        word = said.group().lower()
        if word.startswith("error") and "code" not in word and number[0] not in "45":
            return False
        if not word.startswith(_VAGUE) or "with" in word or _STATUS.match(number):
            return True
        # How many of something were "returned" or "got" is data; a bare number is none.
        return word.startswith("returned") and not _OF_WHAT.match(text, match.end())
    at_first = not before.strip("( ")
    if at_first and _SAID_FIRST.match(text.lstrip()):
        return True
    if _SAID_AFTER.match(text, match.end()):
        return bool(_STATUS.match(number)) or (at_first and len(number) == 4)
    return False


def _may_say(before: str) -> bool:
    told = before.rstrip(" :=#(<'\"")[-12:]
    last = _LAST_WORD.search(told)
    if last is None:
        return told[-4:-1] in ("/1.", "TP/")  # HTTP/1.1 404, HTTP/2 503
    return last.group().lower().endswith(_LAST_WORDS)


def errno(message: str, kind: str = "") -> int | None:
    """The error number in the message, as Linux counts it."""
    text = message[:_READ]
    said = _errno_said(text)
    if not said:
        return None
    number = int(said)
    if kind in _NOT_RESOLVED:
        number = _RESOLVER_ERRNO.get(number, number)
    elif "[WinError" in text:
        number = _WINDOWS_ERRNO.get(number, number)
    return _SAME_ERRNO.get(number, number)


def _errno_said(text: str) -> str:
    match = _ERRNO.search(text)
    if match is None and any(sign in text for sign in _ERRNO_SIGNS):
        match = _ERRNO_ELSE.search(text)
    return match.group(match.lastindex or 1) if match else ""


def program(message: str) -> str:
    """The name of the program of a failed command, without its folder; "" if none is named."""
    match = _COMMAND.search(message[:_READ])
    if match is None:
        return ""
    name = re.split(r"[/\\]", match.group(1))[-1].lower()
    return re.sub(r"\.(?:exe|cmd|bat)$|[\d.]+$", "", name)


def words(message: str, *, quoted: bool) -> tuple[str, ...]:
    """The message's plain words, in order: what has digits, slashes, `@`, `=` or dots is data.

    Quoted text is left out unless `quoted`; names that the message says are a schema's stay.
    """
    line = message.strip()[:_READ].partition("\n")[0]
    if _AWS.match(line):
        return ()
    names = [name for _, name in _NAMED.findall(line)] + _CONSTRAINT.findall(line)
    text = _PRINTED.sub(" ", line)
    text = text.replace("'", " ").replace('"', " ") if quoted else _QUOTED.sub(" ", text)
    text = " ".join(chunk for chunk in text.split() if not _DATA_LIKE.search(chunk))
    # Of one thing or of many: "1 error", "2 errors".
    singular = [word.lower().removesuffix("s") for word in _WORD.findall(text)]
    plain = [word for word in singular if word not in _MEASURES][:_WORDS]
    return (*plain, *(name.lower() for name in names))
