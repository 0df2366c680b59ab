"""Finding jobs and acting on many of them."""
