"""Whether ``mergesafe vet RECIPE`` finds what was planted, and alarms about what was not."""
