"""Which kind of database a URL names, what its options mean, and that no password is shown."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from failbetter import ConfigurationError
from failbetter.ledger.kinds import Kind, kind_of


def kind(url: str, schema: str | None = None) -> Kind:
    return kind_of(make_url(url), durable=True, schema=schema)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///jobs.db", "sqlite"),
        ("postgresql://shop@db/shop", "postgresql"),
        ("postgresql+psycopg://shop@db/shop", "postgresql"),
        ("mysql://shop@db/shop", "mysql"),
        ("mysql+pymysql://shop@db/shop", "mysql"),
        ("mariadb+pymysql://shop@db/shop", "mysql"),
    ],
)
def test_known(url: str, name: str) -> None:
    assert kind(url).name == name


@pytest.mark.parametrize(
    "url",
    [
        "oracle://db/shop",
        "mysql+mysqldb://db/shop",
        "postgresql+psycopg2://db/shop",
        "sqlite+aiosqlite:///jobs.db",
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not supported"):
        kind(url)


def test_sqlite_has_no_schemas() -> None:
    with pytest.raises(ConfigurationError, match="no schemas"):
        kind("sqlite:///jobs.db", schema="jobs")


def test_on_mysql_a_schema_is_a_database() -> None:
    with pytest.raises(ConfigurationError, match="is a database"):
        kind("mysql+pymysql://db/shop", schema="jobs")
    with pytest.raises(ConfigurationError, match="must name a database"):
        kind("mysql+pymysql://shop@db/")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop:hunter2@db/shop",
        "postgresql://shop@db/shop?password=hunter2",
        "mysql://shop:hunter2@db/shop",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    assert "hunter2" not in kind(url).shown


@pytest.mark.parametrize(("text", "number"), [("none", None), ("0", 0), ("9", 9)])
def test_poolers_without_prepared_statements(text: str, number: int | None) -> None:
    found = kind(f"postgresql://shop@db/shop?prepare_threshold={text}")
    assert found._arguments["prepare_threshold"] == number  # type: ignore[attr-defined]


def test_a_threshold_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="prepare_threshold"):
        kind("postgresql://shop@db/shop?prepare_threshold=often")
