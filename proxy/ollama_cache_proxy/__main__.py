"""`python -m ollama_cache_proxy` is the command `ollama-cache-proxy`."""

import sys

from ollama_cache_proxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
