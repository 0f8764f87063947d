"""Is a model safe? Judges, evaluation, vetting, gates and similarity."""
