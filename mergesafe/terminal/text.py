"""Text of strangers as a terminal may show it."""

from mergesafe.log_lines import printable

__all__ = ["printable"]
