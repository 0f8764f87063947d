"""Results of other evaluation tools, as evaluations that gate and report read."""
