"""Workers killed at every boundary and at random, once more on MariaDB.

What kills them is the same on every database; what a server makes of half a transaction is not.
Mirrored rows follow there, too. Promises 1 to 4 and 9; C1, C6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.faults.conftest import on_mariadb
from tests.faults.test_boundaries import test_child_killed_at, test_supervisor_killed_at
from tests.faults.test_deaths import (
    test_death_in_the_middle_of_an_effect,
    test_killed_from_outside,
    test_on_lost_fail_runs_nothing_twice,
    test_worker_and_all_its_children_killed,
)
from tests.faults.test_mirror import test_killed_at_random
from tests.faults.test_random_kills import test_random_kills
from tests.servers import mariadb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "test_child_killed_at",
    "test_death_in_the_middle_of_an_effect",
    "test_killed_at_random",
    "test_killed_from_outside",
    "test_on_lost_fail_runs_nothing_twice",
    "test_random_kills",
    "test_supervisor_killed_at",
    "test_worker_and_all_its_children_killed",
]


@pytest.fixture
def new_ledger() -> Callable[[Path], str]:
    """On the shared server, to which nothing happens."""
    mariadb.shared_server()  # from this thread, which lasts
    return on_mariadb
