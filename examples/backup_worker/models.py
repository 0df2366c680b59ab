"""The panel's own tables, as far as backups need them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import sqlalchemy

engine = sqlalchemy.create_engine(os.environ["PANEL_DATABASE"], pool_pre_ping=True)


@dataclass
class Account:
    """What there is of a customer to back up."""

    customer: str
    home: str
    database_name: str


def find_account(customer: str) -> Account | None:
    """The customer's account."""
    sought = sqlalchemy.text("SELECT * FROM customers WHERE customer = :customer")
    with engine.connect() as connection:
        row = connection.execute(sought, {"customer": customer}).mappings().first()
    return None if row is None else Account(**row)
