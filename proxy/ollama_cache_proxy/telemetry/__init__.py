"""What observes facts.

The modules:

    metric_table       every metric: name, kind, labels, help text
    metrics            counts facts
    exchange_metrics   counts exchanges, many in one call
    metric_families    counters, gauges and histograms
    metric_exposition  the text of a scrape, and sums over processes
    log                log lines; line_writer: writes them in a thread of its own
    statistics         totals that live in the store
    recent             the last requests and minutes, for the live page
    request_recorder   requests in files, for `warm`
    forecaster         the sample of keys that forecasts are made of
"""
