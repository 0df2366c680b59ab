"""What a worker of these tests loads: `tests.faults.served:app`."""

from tests.faults.apps import make_app

app = make_app()
