"""What the drill's workers load: `failbetter.drill.loaded:app`, on the ledger of their settings."""

import failbetter
from failbetter.drill.tasks import drill_app

app = drill_app(failbetter.App())
