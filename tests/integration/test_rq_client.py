"""RQ as an engine, over a real Redis: what is sent, what is lost, who is gone (C6, D1)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from redis import Redis
from rq import Queue, SimpleWorker, Worker
from rq.job import Job
from rq.serializers import JSONSerializer
from tests.servers.redis import RedisServer, shared_server

from failbetter import ids
from failbetter.engine import Engine, Keeper, Ticket
from failbetter.engines import rq as rq_engine
from failbetter.engines.rq import RQ, rq_id
from failbetter.errors import ConfigurationError, EngineUnavailable


@pytest.fixture
def server() -> RedisServer:
    server = shared_server()
    server.flush()
    return server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with server.connect() as client:
        yield client


@pytest.fixture
def engine(server: RedisServer) -> Iterator[RQ]:
    engine = RQ(server.url)
    yield engine
    engine.close()


def ticket(number: int, **changes: object) -> Ticket:
    values = {"id": number, "fence": 0, "task": "greet", "queue": "mail", "priority": 0,
              "timeout": 5.0}  # fmt: skip
    return Ticket(**(values | changes))  # type: ignore[arg-type]


def waiting(client: Redis, queue: str = "mail") -> list[str]:
    return Queue(queue, connection=client).job_ids


# -- sending


def test_what_is_sent_is_a_job_that_an_ordinary_worker_reads(engine: RQ, client: Redis) -> None:
    """D1: the function by name, our own id as its only argument, ours to end, nothing kept."""
    assert isinstance(engine.name, str)
    checked: Engine = engine  # what the contract asks for
    checked.send([ticket(7, fence=4, timeout=5.5)])
    job = Job.fetch(rq_id(ticket(7, fence=4)), connection=client)
    assert (job.func_name, job.args, job.kwargs) == (rq_engine.WORK, (ids.to_text(7),), {})
    assert (job.timeout, job.result_ttl, job.origin) == (606, 0, "mail")
    assert 0 < job.failure_ttl <= 3600
    assert job.description == f"greet {ids.to_text(7)}"
    assert waiting(client) == [job.id]
    assert client.ttl(job.key) == -1
    # As RQ itself would have it, but for the times.
    queue = Queue("mail", connection=client)
    own = queue.enqueue(rq_engine.WORK, ids.to_text(7), job_timeout=606, result_ttl=0)
    stored = client.hgetall(job.key)
    assert stored.keys() - {b"failure_ttl"} == client.hgetall(own.key).keys()
    assert queue.key.encode() in client.smembers(Queue.redis_queues_keys)
    queue.remove(own)


def test_a_task_without_a_timeout_is_ended_by_nobody(engine: RQ, client: Redis) -> None:
    engine.send([ticket(1, timeout=None)])
    assert Job.fetch(rq_id(ticket(1)), connection=client).timeout == -1


@pytest.mark.parametrize("name", ["json", "rq.serializers.JSONSerializer"])
def test_workers_with_another_serializer_can_read_it(server, client: Redis, name: str) -> None:
    engine = RQ(server.url, serializer=name)
    engine.send([ticket(1)])
    job = Job.fetch(rq_id(ticket(1)), connection=client, serializer=JSONSerializer)
    assert job.args == [ids.to_text(1)]
    engine.close()


def test_many_go_in_few_round_trips_in_their_order(engine: RQ, client: Redis) -> None:
    client.config_resetstat()
    tickets = [ticket(number, queue="ab"[number % 2]) for number in range(2_500)]
    engine.send(tickets)
    assert waiting(client, "a") == [rq_id(one) for one in tickets if one.queue == "a"]
    assert waiting(client, "b") == [rq_id(one) for one in tickets if one.queue == "b"]
    after = client.info("commandstats")
    assert "cmdstat_multi" not in after
    assert (after["cmdstat_del"]["calls"], after["cmdstat_rpush"]["calls"]) == (3, 6)


def test_urgent_jobs_go_to_the_front_the_most_urgent_first(engine: RQ, client: Redis) -> None:
    engine.send([ticket(1), ticket(2)])
    engine.send([ticket(3, priority=1), ticket(4, priority=-1), ticket(5, priority=9),
                 ticket(6, priority=9)])  # fmt: skip
    numbers = [ids.from_text(name.split("-")[1]) for name in waiting(client)]
    assert numbers == [5, 6, 3, 1, 2, 4]


def test_what_is_sent_twice_is_one_rq_job(engine: RQ, client: Redis) -> None:
    """C6: a double sending is harmless, and each attempt has a name of its own."""
    engine.send([ticket(1), ticket(1)])
    engine.send([ticket(1)])
    engine.send([ticket(1, fence=2)])
    assert len(client.keys("rq:job:*")) == 2
    assert waiting(client).count(rq_id(ticket(1))) == 2  # the second of them finds nothing to do


def test_what_a_failed_sending_left_does_not_expire_the_next(engine: RQ, client: Redis) -> None:
    engine.send([ticket(1)])
    key = Job.key_for(rq_id(ticket(1)))
    client.hset(key, "exc_info", "old")
    client.expire(key, 10)
    engine.send([ticket(1)])
    assert (client.ttl(key), client.hget(key, "exc_info")) == (-1, None)


# -- what is lost


def test_only_what_is_lost_is_missing(engine: RQ, client: Redis) -> None:
    """C6: what waits in a queue or has been taken up by a living worker is on its way."""
    tickets = [ticket(number) for number in range(1, 8)]
    engine.send(tickets)
    assert engine.missing(tickets) == []
    worker = SimpleWorker(["mail"], connection=client, name="alive")
    worker.register_birth()
    waits, taken, vanished, failed, forgotten, started, orphaned = tickets
    queue = Queue("mail", connection=client)
    for gone in (taken, vanished, failed, started, orphaned):
        queue.remove(rq_id(gone))  # as a worker does that takes it
    client.delete(Job.key_for(rq_id(vanished)))
    client.hset(Job.key_for(rq_id(failed)), "status", "failed")
    client.delete(Job.key_for(rq_id(forgotten)))
    for one, name in ((started, "alive"), (orphaned, "dead")):
        client.hset(Job.key_for(rq_id(one)), mapping={"status": "started", "worker_name": name})
    found = engine.missing(tickets)
    assert sorted(one.id for one in found) == sorted(
        one.id for one in (taken, vanished, failed, forgotten, orphaned)
    )
    assert waits not in found


def test_a_long_queue_is_read_by_pages(engine: RQ, client: Redis, monkeypatch) -> None:
    monkeypatch.setattr(rq_engine, "_PAGE", 10)
    tickets = [ticket(number) for number in range(35)]
    engine.send(tickets)
    for first in range(0, 35, 5):
        assert engine.missing(tickets[first : first + 5]) == []
    queue = Queue("mail", connection=client)
    queue.remove(rq_id(tickets[31]))
    assert engine.missing(tickets) == [tickets[31]]
    assert engine.missing(tickets[30:31]) == []
    for _ in range(20):
        client.lpop(queue.key)  # the queue moves on under whoever goes through it
    assert engine.missing(tickets[32:]) == []
    assert engine.missing(tickets[:25]) == tickets[:20]


def test_where_it_goes_on_it_reads_no_more_than_it_must(engine: RQ, client, monkeypatch) -> None:
    monkeypatch.setattr(rq_engine, "_PAGE", 10)
    tickets = [ticket(number) for number in range(1_000)]
    engine.send(tickets)
    client.config_resetstat()
    for first in range(0, 1_000, 10):
        assert engine.missing(tickets[first : first + 10]) == []
    assert client.info("commandstats")["cmdstat_lrange"]["calls"] < 250


def test_an_emptied_redis_has_lost_all(engine: RQ, server: RedisServer) -> None:
    tickets = [ticket(number) for number in range(50)]
    engine.send(tickets)
    server.flush()
    assert engine.missing(tickets) == tickets
    engine.send(engine.missing(tickets))
    assert engine.missing(tickets) == []


# -- who is gone


@pytest.fixture
def worker(client: Redis) -> Worker:
    worker = Worker(["mail"], connection=client, name="somebody")
    worker.register_birth()
    return worker


def test_a_worker_that_beats_is_not_gone(engine: RQ, worker: Worker) -> None:
    assert engine.is_gone(Keeper("somebody")) is None
    worker.heartbeat(worker.job_monitoring_interval + 60)
    assert engine.is_gone(Keeper("somebody")) is None
    worker.heartbeat(60)  # the least that is left of it before the next one
    assert engine.is_gone(Keeper("somebody")) is None


def test_a_worker_whose_heartbeat_is_overdue_is_gone(
    engine: RQ, worker: Worker, client: Redis
) -> None:
    """D6: well before its key expires, and by Redis' own clock."""
    client.expire(worker.key, 40)
    assert "heartbeat" in str(engine.is_gone(Keeper("somebody")))
    client.persist(worker.key)
    assert engine.is_gone(Keeper("somebody")) is None


def test_a_worker_that_said_goodbye_is_gone(engine: RQ, worker: Worker) -> None:
    worker.register_death()
    assert "has ended" in str(engine.is_gone(Keeper("somebody")))


def test_a_work_horse_is_gone_when_its_worker_says_so(engine: RQ, worker: Worker, client) -> None:
    engine.send([ticket(1)])
    keeper = Keeper("somebody", job=rq_id(ticket(1)))
    key = Job.key_for(rq_id(ticket(1)))
    client.hset(key, "status", "started")
    worker.set_state("busy")
    assert engine.is_gone(keeper) is None
    client.delete(key)  # forgotten: that proves nothing
    assert engine.is_gone(keeper) is None
    client.hset(key, "status", "failed")
    assert "work horse" in str(engine.is_gone(keeper))
    client.delete(key)
    worker.set_state("idle")
    assert "work horse" in str(engine.is_gone(keeper))
    assert engine.is_gone(Keeper("somebody")) is None


def test_that_redis_has_forgotten_a_worker_proves_nothing_at_once(
    engine: RQ, worker: Worker, server: RedisServer, monkeypatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(rq_engine.time, "monotonic", lambda: now[0])
    server.flush()
    assert engine.is_gone(Keeper("somebody")) is None
    now[0] += 60
    worker.heartbeat()
    assert engine.is_gone(Keeper("somebody")) is None
    server.flush()
    assert engine.is_gone(Keeper("somebody")) is None
    now[0] += 89
    assert engine.is_gone(Keeper("somebody")) is None
    now[0] += 2
    assert "not registered" in str(engine.is_gone(Keeper("somebody")))


# -- what goes wrong


def test_a_redis_that_is_down_is_told_of_without_the_password() -> None:
    with RedisServer.start(password="hush") as server:
        engine = RQ(server.url)
        engine.send([ticket(1)])
        server.kill()
        for act in (
            lambda: engine.send([ticket(2)]),
            lambda: engine.missing([ticket(1)]),
            lambda: engine.is_gone(Keeper("somebody")),
        ):
            with pytest.raises(EngineUnavailable) as caught:
                act()
            assert f"127.0.0.1:{server.port}" in str(caught.value)
            assert "maintain" in str(caught.value)
            assert "hush" not in str(caught.value)
        server.start_again()
        engine.send([ticket(2)])
        assert engine.missing([ticket(1), ticket(2)]) == [ticket(1)]
        engine.close()
        wrong = RQ(f"redis://:guess@127.0.0.1:{server.port}")
        with pytest.raises(EngineUnavailable) as caught:
            wrong.send([ticket(1)])
        assert "guess" not in str(caught.value)
        wrong.close()


def test_a_frozen_redis_is_waited_for_once(monkeypatch) -> None:
    """C6: who enqueues next does not wait for it in turn."""
    now = [1000.0]
    with RedisServer.start() as server:
        engine = RQ(f"{server.url}?socket_timeout=0.3")
        engine.send([ticket(1)])
        server.freeze()
        monkeypatch.setattr(rq_engine.time, "monotonic", lambda: now[0])
        with pytest.raises(EngineUnavailable, match="did not take part"):
            engine.send([ticket(2)])
        server.thaw()
        with pytest.raises(EngineUnavailable, match="a moment ago"):
            engine.send([ticket(2)])
        now[0] += 6
        engine.send([ticket(2)])
        assert engine.missing([ticket(1), ticket(2)]) == []
        engine.close()


def test_a_client_of_the_users_own_is_used_and_left_open(client: Redis) -> None:
    engine = RQ(client)
    engine.send([ticket(1)])
    engine.close()
    assert client.ping()
    engine.send([ticket(2)])
    assert len(waiting(client)) == 2


@pytest.mark.parametrize("url", ["http://u:hush@here", "hush", "redis://u:hush@here:port"])
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RQ(url).send([ticket(1)])
    assert "redis://host" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_without_rq_it_says_what_to_install() -> None:
    """D1: neither the package nor an RQ object needs RQ; its use does."""
    code = (
        "import sys; sys.modules['rq'] = None\n"
        "from failbetter.engines.rq import RQ\n"
        "engine = RQ('redis://localhost')\n"
        "assert 'redis' not in sys.modules\n"
        "try: engine.missing([])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ConfigurationError")
    assert "pip install 'failbetter[rq]'" in done.stdout
