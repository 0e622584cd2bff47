"""What `ollama-cache-proxy doctor` checks: table.py lists the checks, one function each."""
