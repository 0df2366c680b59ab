"""The systems that are measured; each is an adapter of a few lines and a tasks module."""
