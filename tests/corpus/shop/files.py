import configparser
import csv
import gzip
import json
import os
import shutil
import subprocess
import zipfile

from shop.errors import NotConfigured, ShopError


def load_settings(path):
    parser = configparser.ConfigParser()
    with open(path, encoding="utf-8") as file:
        parser.read_file(file)
    return parser["shop"]["currency"]


def settings(path):
    try:
        return load_settings(path)
    except FileNotFoundError as error:
        raise NotConfigured("the shop is not configured") from error


def unpack(path, member):
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [parse_row(row) for row in csv.DictReader(file, strict=True)]


def parse_row(row):
    return {"id": int(row["id"]), "price": float(row["price"]), "name": row["name"].strip()}


def read_gz(path):
    with gzip.open(path) as file:
        return json.loads(file.read().decode("utf-8"))


def archive(path, folder):
    os.makedirs(folder)
    shutil.move(path, os.path.join(folder, "old"))


def remove(path):
    os.remove(path)


def run(command):
    return subprocess.run(command, check=True, capture_output=True, timeout=5)


def thumbnail(path, code):
    return run(["sh", "-c", f"exit {code}", path])


def convert_video(path, code):
    return run(["python3", "-c", f"raise SystemExit({code})", path])


def kill_itself(number, path):
    return run(["sh", "-c", f"kill -{number} $$", path])


def probe(path, code):
    done = subprocess.run(["sh", "-c", f"exit {code}"], check=False)
    if done.returncode:
        raise ShopError(f"probe of {path} failed with exit code {done.returncode}")


def slow(path):
    return subprocess.run(["sh", "-c", "sleep 1", path], check=True, timeout=0.05)
