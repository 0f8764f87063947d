"""Models that answer: conversations, records of them, and what generates and scores text."""
