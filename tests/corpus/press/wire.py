import datetime as dt
import ipaddress
import json
import socket
import ssl
import struct
import xml.etree.ElementTree as ET
import zoneinfo
from importlib import import_module

import tenacity
import urllib3

from press.faults import Upstream

pool = urllib3.PoolManager(retries=False, timeout=0.3)


def ask(base, path):
    reply = pool.request("GET", f"{base}/{path}")
    if reply.status >= 400:
        raise Upstream(reply.status, reply.data[:50])
    return json.loads(reply.data)


@tenacity.retry(stop=tenacity.stop_after_attempt(2))
def ask_again(base, path):
    return ask(base, path)


def handshake(host, port):
    context = ssl.create_default_context()
    with socket.create_connection((host, port), 0.5) as raw:
        return context.wrap_socket(raw, server_hostname=host)


def dial(host, port):
    return socket.create_connection((host, port), 0.3)


def header(data):
    return struct.unpack(">IH", data)


def feed(text):
    root = ET.fromstring(text)
    return [entry.find("title").text.strip() for entry in root.findall("entry")]


def published(entry):
    moment = dt.datetime.fromisoformat(entry["date"])
    return moment.replace(tzinfo=zoneinfo.ZoneInfo(entry["zone"]))


def allowed(address):
    return ipaddress.ip_address(address) in ipaddress.ip_network("10.0.0.0/8")


def plugin(name):
    return import_module(f"press.plugins.{name}").run


def bind(port):
    server = socket.socket()
    server.bind(("127.0.0.1", port))
    return server
