"""The wire forms that Ollama's endpoints speak, one module each; `dialect.py` says what each module tells.

A row of `policy/endpoints.py` names its dialect. Nothing outside this folder asks which one it is.
"""
