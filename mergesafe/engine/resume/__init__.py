"""What an earlier run finished."""
