import asyncio
import ftplib
import imaplib
import urllib.error
import urllib.request

import aiohttp
import pymysql


async def fetch(base, path):
    timeout = aiohttp.ClientTimeout(total=0.2)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{base}/{path}") as reply,
    ):
        reply.raise_for_status()
        return await reply.json(content_type=None)


async def fetch_all(base, paths):
    return await asyncio.gather(*(fetch(base, path) for path in paths))


def exists(base, name):
    try:
        urllib.request.urlopen(f"{base}/{name}", timeout=0.3).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise RuntimeError(f"cannot tell whether {name} exists (HTTP {error.code})") from error
    return True


def archive(host, port, name):
    with ftplib.FTP() as ftp:
        ftp.connect(host, port, 0.3)
        ftp.login()
        ftp.retrbinary(f"RETR {name}", print)


def inbox(host, port):
    return imaplib.IMAP4(host, port, timeout=0.3)


def warehouse(port):
    return pymysql.connect(host="127.0.0.1", port=port, user="lab", connect_timeout=1)
