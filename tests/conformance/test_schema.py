"""The schema: made at first use, the same by migration and by metadata, refused when unknown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from tests.conformance.kit import Ledger
from tests.unit.processes import other

from failbetter import App, SchemaMismatch
from failbetter.ledger import migrate
from failbetter.ledger.database import Database
from failbetter.ledger.schema import KEY_LENGTH, REVISION, metadata


@pytest.fixture
def fresh(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.close()


def set_revision(database: Database, revision: str) -> None:
    with database.engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
        connection.commit()


def test_the_migrations_make_what_the_metadata_says(fresh: Database) -> None:
    migrate.upgrade(fresh)
    with fresh.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def indexes(engine: sqlalchemy.Engine) -> dict[str, object]:
    """Each index with its table, columns, uniqueness and condition, as the database knows it."""
    inspector = sqlalchemy.inspect(engine)
    found = {}
    for table in metadata.tables:
        for index in inspector.get_indexes(table):
            options = {key: str(value) for key, value in index.get("dialect_options", {}).items()}
            found[str(index["name"])] = (
                table,
                index["column_names"],
                bool(index["unique"]),
                options,
            )
    return found


def test_the_same_indexes_with_the_same_conditions(fresh: Database, tmp_path: Path) -> None:
    migrate.upgrade(fresh)
    direct = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    if fresh.dialect.name != "sqlite":
        pytest.skip("compared where a second database costs nothing")
    metadata.create_all(direct)
    assert indexes(fresh.engine) == indexes(direct)
    assert len(indexes(direct)) >= 6
    direct.dispose()


def test_the_code_works_with_the_newest_migration() -> None:
    assert migrate.head() == REVISION


def test_names_fit_every_database() -> None:
    for table in metadata.tables.values():
        for name in [table.name, *(str(index.name) for index in table.indexes)]:
            assert len(name) <= 63
        for index in table.indexes:
            # MySQL: an index entry holds at most 3072 bytes, four for each character.
            lengths = [getattr(column.type, "length", None) or 2 for column in index.columns]
            assert 4 * sum(lengths) <= 3072
    assert 4 * KEY_LENGTH <= 768


# -- made at first use


def test_made_at_first_use(fresh: Database) -> None:
    assert fresh.revision() is None
    assert Ledger(fresh).add()
    assert fresh.revision() == REVISION


def test_a_read_is_a_use_too(fresh: Database) -> None:
    assert Ledger(fresh).rows() == []
    assert fresh.revision() == REVISION


def test_ensuring_twice_is_ensuring_once(fresh: Database, empty_url: str) -> None:
    fresh.ensure_schema()
    number = Ledger(fresh).add()
    fresh.ensure_schema()
    again = Database(empty_url)
    again.ensure_schema()
    assert Ledger(again).row(number)
    again.close()


def test_upgrading_says_from_where_to_where(fresh: Database) -> None:
    assert migrate.upgrade(fresh) == (None, REVISION)
    assert migrate.upgrade(fresh) == (REVISION, REVISION)


def test_threads_at_first_use(fresh: Database) -> None:
    start = threading.Barrier(6)
    errors: list[BaseException] = []

    def use() -> None:
        start.wait()
        try:
            Ledger(fresh).add()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(Ledger(fresh).rows()) == 6


FIRST_USE = """
    import sys
    import failbetter
    app = failbetter.App(sys.argv[1])
    @app.task
    def work(n: int) -> None: ...
    import alembic.command  # what takes long, before the start
    print("ready")
    sys.stdin.readline()
    for n in range(5):
        work.enqueue(n)
    print("done")
"""


def test_processes_at_first_use(empty_url: str) -> None:
    with (
        other(FIRST_USE, empty_url) as one,
        other(FIRST_USE, empty_url) as two,
        other(FIRST_USE, empty_url) as three,
        other(FIRST_USE, empty_url) as four,
    ):
        all_of_them = (one, two, three, four)
        for process in all_of_them:
            assert process.hear() == "ready"
        for process in all_of_them:
            process.tell()
        assert [process.hear() for process in all_of_them] == ["done"] * 4
    app = App(empty_url)
    assert app.jobs.count() == 20
    app.close()


def test_a_migration_that_breaks_off_leaves_nothing(
    fresh: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.upgrade

    def half(config: object, revision: str) -> None:
        real(config, revision)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", half)
        with pytest.raises(KeyboardInterrupt):
            migrate.upgrade(fresh)
    assert fresh.revision() is None
    assert Ledger(fresh).add()


# -- refused


@pytest.mark.parametrize("revision", ["9999", "0000"])
def test_another_schema_is_refused_clearly(fresh: Database, empty_url: str, revision: str) -> None:
    Ledger(fresh).add()
    set_revision(fresh, revision)
    later = Database(empty_url)
    for use in (lambda: Ledger(later).add(), lambda: Ledger(later).rows()):
        with pytest.raises(SchemaMismatch, match=revision) as caught:
            use()
        assert REVISION in str(caught.value)
        assert "migrate" in str(caught.value)
    later.close()


def test_a_newer_schema_cannot_be_upgraded_and_that_is_said(fresh: Database) -> None:
    fresh.ensure_schema()
    set_revision(fresh, "9999")
    with pytest.raises(SchemaMismatch, match="9999"):
        migrate.upgrade(fresh)
    assert fresh.revision() == "9999"


def test_tables_that_are_gone_are_said(fresh: Database) -> None:
    fresh.ensure_schema()
    with fresh.engine.connect() as connection:
        connection.execute(text("DROP TABLE effects"))
        connection.execute(text("DROP TABLE jobs"))
        connection.commit()
    with pytest.raises(SchemaMismatch, match="migrate"):
        Ledger(fresh).add()
    with pytest.raises(SchemaMismatch):
        Ledger(fresh).rows()
