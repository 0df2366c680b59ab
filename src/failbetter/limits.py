"""Sizes that several rooms must agree on."""

KEY_LENGTH = 190
"""Longest indexed text, in characters: MySQL's index entries end at 768 bytes."""

MAX_RESULT = 1_000_000
"""Longest result of a body or an effect that is kept, in bytes of JSON."""
