"""An Ollama whose answers have the real wire form, for tests and for trying the proxy out without a model.

The form was read off recorded answers of a real Ollama 0.24; recorded requests get the recorded texts and vectors,
anything else gets repeatable inventions. The map:

- `server`: sockets, the gates of a request (faults, Origin, Host), what tests see of it (`Simulator`)
- `state`: its `Behaviour`, its models, and the barriers of tests
- `routes`: the table of routes; `call`: one request and its answer; `wire`: status lines, chunks, JSON text as Go
  writes it
- `gojson`, `goschema`, `schemas`: request bodies as Go reads them
- `native`, `openai_routes`, `responses_routes`, `anthropic_routes`: the inference routes in their forms; `complete`,
  `embed`: what they share
- `generate`, `vectors`, `tokens`, `rendering`: where texts, vectors and counts come from; `recorded`: what is known
- `registry`, `naming`, `residence`: installed and loaded models; `manage`, `create`: the routes that show and change
  them
- `gatekeeping`: the rules of Origin and Host
"""

from ollama_cache_proxy.simulator.call import Fault, Received
from ollama_cache_proxy.simulator.registry import ModelRegistry
from ollama_cache_proxy.simulator.server import Simulator
from ollama_cache_proxy.simulator.state import Behaviour, Gate

__all__ = ["Behaviour", "Fault", "Gate", "ModelRegistry", "Received", "Simulator"]
