"""Ratios against a named peer, in one run, alternating. Results stand in docs/PERFORMANCE.md."""
