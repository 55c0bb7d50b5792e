"""Addresses of request logs: known apart from what opens them, which takes seconds to import."""

import re

# What addresses of logs begin with, and in words.
_BEGIN = re.compile(r"(sqlite|postgresql)(\+\w+)?:|parquet:")
LOG_FORMS = "sqlite:///FILE, postgresql+psycopg://USER@HOST/NAME or parquet:///FOLDER"


def is_log(address: str) -> bool:
    """Whether a text begins as the address of a log does."""
    return _BEGIN.match(address) is not None
