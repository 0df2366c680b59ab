import json
import urllib.request

import httpx
import requests

from shop.decorators import logged, retrying
from shop.errors import SyncError

session = requests.Session()


@retrying(2)
def fetch_prices(base, item):
    reply = session.get(f"{base}/prices/{item}?token=abc{item}", timeout=0.3)
    reply.raise_for_status()
    return reply.json()["prices"]


@logged
def push_stock(base, item, amount):
    with httpx.Client(timeout=0.3) as client:
        reply = client.put(f"{base}/stock/{item}", json={"amount": amount})
        reply.raise_for_status()
        return reply.json()


def read_feed(base, name):
    with urllib.request.urlopen(f"{base}/feeds/{name}", timeout=0.3) as reply:
        return json.load(reply)


def sync_supplier(base, name):
    try:
        return read_feed(base, name)
    except OSError as error:
        raise SyncError(f"supplier {name}: {error}") from error


def check_answer(reply):
    if reply["status"] != "ok":
        raise SyncError(reply["error"])
    if not reply.get("items"):
        raise SyncError("the answer holds no items")
    if reply["items"][0]["price"] < 0:
        raise SyncError(f"negative price for {reply['items'][0]['id']}")
