import array
import base64
import bz2
import json
import tarfile
from decimal import Decimal, InvalidOperation

from rq.timeouts import UnixSignalDeathPenalty


class LabError(Exception):
    pass


class BadReading(LabError):
    pass


class Calibration(LabError):
    pass


def parse(reading):
    try:
        return Decimal(reading["value"])
    except (InvalidOperation, KeyError) as error:
        raise BadReading(f"reading {reading.get('id')} is unusable") from error


def mean(readings):
    values = [parse(reading) for reading in readings]
    return sum(values) / len(values)


def calibrate(readings, factors):
    return [parse(one) * factors[one["device"]] for one in readings]


def report(readings, factors):
    try:
        values = calibrate(readings, factors)
    except LookupError as error:
        raise Calibration(f"no factor for {error}") from error
    except LabError:
        cleanup(readings)
        raise
    return max(values)


def cleanup(readings):
    for reading in readings:
        reading["state"].clear()


def unpack(data):
    return json.loads(bz2.decompress(base64.b64decode(data, validate=True)))


def from_tar(path, member):
    with tarfile.open(path) as archive:
        return archive.extractfile(member).read()


def spectrum(values):
    data = array.array("f", values)
    return [one / data[0] for one in data]


def check(sample):
    if sample["weight"] <= 0:
        raise LabError(f"sample {sample['code']} weighs {sample['weight']} g")
    if not sample["code"].startswith("L"):
        raise LabError(f"sample {sample['code']} is not of this laboratory")
    problem = sample.get("problem")
    if problem:
        raise LabError(problem)


def fit(rounds):
    total = 0
    for number in range(rounds):
        total += sum(step(number, one) for one in range(300))
    return total


def step(number, one):
    return (number * one) % 7


def simulate(rounds):
    state = {}
    for number in range(rounds):
        state[number % 100] = sorted(range(300), reverse=True)
    return state


def under_limit(seconds, call, *args):
    with UnixSignalDeathPenalty(seconds):
        return call(*args)
