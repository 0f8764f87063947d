"""From a plan to bytes, on this machine."""
