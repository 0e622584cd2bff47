"""A simulated Ollama with the real wire form, for tests and for trying the proxy without a model.

The form follows recorded responses of real Ollamas, one for each release. Recorded requests get the recorded texts and
vectors, all others get made-up ones that depend only on the request and a seed. The map:

- `server`: sockets, checks of a request (faults, Origin, Host), the interface for tests (`Simulator`)
- `state`: its `Behaviour`, its models, and the barriers of tests; `releases`: what differs between releases of Ollama
- `routes`: the table of endpoints; `call`: one request and its response; `wire`: status lines, chunks, JSON text as Go
  writes it
- `gojson`, `goschema`, `schemas`: request bodies as Go reads them
- `native`, `openai_routes`, `responses_routes`, `anthropic_routes`: the inference endpoints by wire form; `complete`,
  `embed`: what they share
- `generate`, `vectors`, `tokens`, `rendering`: the source of texts, vectors and counts; `recorded`: the recorded ones
- `registry`, `naming`, `residence`: installed and loaded models; `prompt_slots`: their prompt caches; `manage`,
  `create`: the endpoints that show and change models
- `gatekeeping`: the rules of Origin and Host
"""

from ollama_cache_proxy.simulator.call import Fault, Received
from ollama_cache_proxy.simulator.registry import ModelRegistry
from ollama_cache_proxy.simulator.releases import NEWEST, RELEASES, Release
from ollama_cache_proxy.simulator.server import Simulator
from ollama_cache_proxy.simulator.state import Behaviour, Gate

__all__ = [
    "NEWEST",
    "RELEASES",
    "Behaviour",
    "Fault",
    "Gate",
    "ModelRegistry",
    "Received",
    "Release",
    "Simulator",
]
