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
from sqlalchemy import text, update
from tests.conformance.kit import Ledger
from tests.unit.processes import other

from failbetter import App, SchemaMismatch
from failbetter.ledger import migrate
from failbetter.ledger.database import Database
from failbetter.ledger.schema import KEY_LENGTH, REVISION, VERSION_TABLE, metadata, notes


@pytest.fixture
def fresh(empty_url: str) -> Iterator[Database]:
    """A database without tables."""
    database = Database(empty_url)
    yield database
    database.close()


@pytest.fixture
def made(fresh: Database) -> Database:
    """One with tables, made in the way of its kind."""
    if not fresh.kind.makes_schema:
        migrate.upgrade(fresh)
    fresh.ensure_schema()
    return fresh


@pytest.fixture
def _makes_schema(fresh: Database) -> None:
    if not fresh.kind.makes_schema:
        pytest.skip("its tables are made by migrate alone")


at_first_use = pytest.mark.usefixtures("_makes_schema")


def set_revision(database: Database, revision: str) -> None:
    with database.engine.connect() as connection:
        connection.execute(text("UPDATE failbetter_version SET version_num = :r"), {"r": revision})
        connection.commit()


def set_oldest_code(database: Database, revision: str) -> None:
    with database.engine.connect() as connection:
        connection.execute(update(notes).values(value=revision))
        connection.commit()


def test_the_migrations_make_what_the_metadata_says(fresh: Database) -> None:
    migrate.upgrade(fresh)
    with fresh.engine.connect() as connection:
        options = {"compare_type": True, "version_table": VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        differences = [
            one
            for one in compare_metadata(context, metadata)
            # On MySQL a text of any length has a name of its own.
            if not (fresh.kind.name == "mysql" and "LONGTEXT()" in repr(one))
        ]
        assert differences == []


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
    if fresh.kind.name != "sqlite":
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


@at_first_use
def test_made_at_first_use(fresh: Database) -> None:
    assert fresh.revision() is None
    assert Ledger(fresh).add()
    assert fresh.revision() == REVISION


@at_first_use
def test_a_read_is_a_use_too(fresh: Database) -> None:
    assert Ledger(fresh).rows() == []
    assert fresh.revision() == REVISION


def test_a_server_is_not_given_tables_unasked(fresh: Database) -> None:
    if fresh.kind.makes_schema:
        pytest.skip("made at first use")
    for use in (lambda: Ledger(fresh).add(), lambda: Ledger(fresh).rows()):
        with pytest.raises(SchemaMismatch, match="failbetter migrate"):
            use()
    assert fresh.revision() is None


def test_ensuring_twice_is_ensuring_once(made: Database, empty_url: str) -> None:
    number = Ledger(made).add()
    made.ensure_schema()
    again = Database(empty_url)
    again.ensure_schema()
    assert Ledger(again).row(number)
    again.close()


def test_upgrading_says_from_where_to_where(fresh: Database) -> None:
    assert migrate.upgrade(fresh) == (None, REVISION)
    assert migrate.upgrade(fresh) == (REVISION, REVISION)


@at_first_use
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
    if not app.database.kind.makes_schema:
        app.migrate()
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
    if fresh.kind.name == "mysql":
        assert fresh.revision() != REVISION  # each change is committed at once, and made again
    else:
        assert fresh.revision() is None
    migrate.upgrade(fresh)
    assert Ledger(fresh).add()


# -- refused


@pytest.mark.parametrize("revision", ["9999", "0000"])
def test_another_schema_is_refused_clearly(made: Database, empty_url: str, revision: str) -> None:
    Ledger(made).add()
    set_revision(made, revision)
    set_oldest_code(made, "9998")
    later = Database(empty_url)
    for use in (lambda: Ledger(later).add(), lambda: Ledger(later).rows()):
        with pytest.raises(SchemaMismatch, match=revision) as caught:
            use()
        assert REVISION in str(caught.value)
        assert "migrate" in str(caught.value)
    later.close()


def test_old_code_works_on_a_newer_schema_that_only_adds(made: Database, empty_url: str) -> None:
    """A rolling deploy: migrated first, and old producers and workers go on."""
    number = Ledger(made).add()
    set_revision(made, "9999")
    set_oldest_code(made, REVISION)
    with made.engine.connect() as connection:
        added = "ALTER TABLE failbetter_jobs ADD COLUMN from_the_future INTEGER"
        connection.execute(text(added))
        connection.commit()
    old = Database(empty_url)
    ledger = Ledger(old)
    ledger.register(1)
    assert {job.id for job in ledger.claim()} == {number}
    ledger.add()
    ledger.end(ledger.claim_one())
    assert ledger.rows(states=("succeeded",))
    old.close()


def test_a_newer_schema_cannot_be_upgraded_and_that_is_said(made: Database) -> None:
    set_revision(made, "9999")
    with pytest.raises(SchemaMismatch, match="9999"):
        migrate.upgrade(made)
    assert made.revision() == "9999"


def test_tables_that_are_gone_are_said(made: Database) -> None:
    fresh = made
    with fresh.engine.connect() as connection:
        connection.execute(text("DROP TABLE failbetter_effects"))
        connection.execute(text("DROP TABLE failbetter_jobs"))
        connection.commit()
    with pytest.raises(SchemaMismatch, match="migrate"):
        Ledger(fresh).add()
    with pytest.raises(SchemaMismatch):
        Ledger(fresh).rows()
