"""The refusal rules: how a response begins, in eleven languages, one table each."""
