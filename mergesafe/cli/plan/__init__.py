"""``mergesafe plan``: what a merge would do, as plain data and as text, a section a module."""
