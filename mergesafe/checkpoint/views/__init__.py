"""Views: what an input of a merge is, lazily, and how elements of it get into memory."""
