import psycopg


def connect(url):
    return psycopg.connect(url, connect_timeout=2)


def prepare(conn):
    conn.execute(
        "create temp table pages (id int primary key, slug text constraint pages_slug unique,"
        " title text not null, size int constraint pages_size check (size > 0))"
    )


def save(conn, *values):
    conn.execute("insert into pages values (%s, %s, %s, %s)", values)


def save_issue(conn, pages):
    for page in pages:
        save(conn, *page)


def lookup(conn, sql):
    return conn.execute(sql).fetchone()


def slow_report(conn, seconds):
    conn.execute("set statement_timeout = 20")
    return conn.execute("select pg_sleep(%s)", [seconds]).fetchone()
