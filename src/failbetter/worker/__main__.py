"""`python -m failbetter.worker SETTINGS`: a supervisor without the command line's libraries."""

import sys

import msgspec

from failbetter.worker.settings import Settings
from failbetter.worker.supervisor import main

sys.exit(main(msgspec.json.decode(sys.argv[1], type=Settings)))
