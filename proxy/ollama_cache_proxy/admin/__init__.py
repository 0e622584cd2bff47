"""The proxy's own routes: health, metrics, entries, the live page."""
