"""The model card of a merge with what was measured: figures, judges, sets, the gate's verdict."""
