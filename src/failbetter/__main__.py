"""`python -m failbetter`: the command line."""

import sys

from failbetter.cli import main

sys.exit(main())
