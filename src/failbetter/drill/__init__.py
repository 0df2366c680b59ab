"""Real interrupted jobs in the user's own environment, and whether each came to its right end.

`failbetter.drill.run.run_drill` runs it. It uses the user's ledger, with a queue, tasks and workers
of its own; nothing of the user's code runs.
"""
