"""A phase, or several of them, from configuration to logged result."""
