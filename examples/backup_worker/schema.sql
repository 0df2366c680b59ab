CREATE TABLE IF NOT EXISTS customers (
    customer      VARCHAR(60) PRIMARY KEY,
    home          VARCHAR(200) NOT NULL,
    database_name VARCHAR(60) NOT NULL
);

-- One row for each customer: how the last backup that was asked for stands. failbetter keeps
-- status, error_message and ended_at. The panel only ever makes the row.
CREATE TABLE IF NOT EXISTS customer_backup_jobs (
    customer      VARCHAR(60) PRIMARY KEY,
    status        VARCHAR(20) NOT NULL,
    error_message VARCHAR(255),
    requested_at  DATETIME NOT NULL,
    ended_at      DATETIME
);
