"""Of the supervisor, what needs no process to be shown."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

from failbetter.worker.settings import Settings
from failbetter.worker.supervisor import Supervisor


def test_a_child_may_have_the_descriptor_that_a_broken_connection_had() -> None:
    supervisor: Any = Supervisor(Settings(app="app:app"))
    connection, far = socket.socketpair()
    stream, end = socket.socketpair()
    number = connection.fileno()
    supervisor._database = SimpleNamespace(listens=(number, 1))
    supervisor._listen_for_news()
    supervisor._database.listens = None
    connection.close()
    os.dup2(stream.fileno(), number)
    with stream, end, far, socket.socket(fileno=number) as same:
        child = SimpleNamespace(stream=same, death=None)
        supervisor._watch_child(child)
        end.send(b"!")
        assert [key.data for key, _ in supervisor._selector.select(1)] == [child]
    supervisor._selector.close()
