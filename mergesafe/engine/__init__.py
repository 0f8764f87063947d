"""The merge engine: plan from headers, then stream."""
