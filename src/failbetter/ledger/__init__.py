"""The ledger: one durable, truthful record of every job. The only room that speaks SQL."""
