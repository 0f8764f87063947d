"""How long a merge would take."""
