"""What may become of a job, decided purely: no I/O, no clock, no randomness of its own."""
