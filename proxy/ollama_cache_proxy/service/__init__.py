"""The proxy as a running service: settings, what they open, the composition root, several processes."""
