"""What observes facts: metrics, log, statistics, recent requests."""
