"""A phase without its bookkeeping: from configuration to network, from network to trained."""
