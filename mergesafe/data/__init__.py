"""Safety and domain sets: made by models, taken from files, filtered, with provenance."""
