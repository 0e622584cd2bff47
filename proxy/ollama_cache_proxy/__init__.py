"""A transparent caching reverse proxy in front of Ollama. This is the map of the package.

    core/          one exchange from top to bottom: start reading at core/exchange.py
    policy/        decisions, pure: endpoints, dialects, classify, key, storing, reuse, fields, usage, forecast, prompts
    downstream/    HTTP/1.1 towards clients
    upstream/      Ollama: HTTP/1.1 towards it, the digests of its models, those that are loaded; several as one
    stores/        stored entries: memory, Redis and private servers (stores/redis/), a hot tier in front; sealing
    telemetry/     observers: metrics, log, statistics, recent requests; recordings for warm; the sample for forecasts
    admin/         the proxy's own routes: health, metrics, entries, the live page
    service/       the running proxy: settings, what they open, the composition root, workers
    cli/           the command line, one module a command
    workbench/     what bench, warm and quantize compute and decide, and the form of packs, pure
    gpu/           metrics of NVIDIA cards under the names of dcgm-exporter, a command of its own
    simulator/     an Ollama with the real wire form, for tests and demo
    web/           the live page: HTML, CSS and JavaScript as they are served

Imports point one way: policy <- core <- downstream, upstream, stores, telemetry, admin <- service <- cli.
tests/project/test_architecture.py enforces who may import whom.
"""

__version__ = "0.2.0"
