"""A row of the user's own that follows its job: said once for an app, delivered, checked."""
