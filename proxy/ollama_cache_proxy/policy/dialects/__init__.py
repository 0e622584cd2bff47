"""The wire forms that Ollama's endpoints speak, one module each; `dialect.py` is their Protocol.

A row of `policy/endpoints.py` names its dialect. Nothing outside this folder tests which one it is.
"""
