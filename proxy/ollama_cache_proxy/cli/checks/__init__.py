"""What `ollama-cache-proxy doctor` looks at: table.py lists the checks, each a function by subject."""
