"""The request bodies of Ollama's own endpoints, as in api/types.go."""

from __future__ import annotations

from ollama_cache_proxy.simulator.goschema import (
    anything,
    boolean,
    duration,
    image,
    integer,
    listed,
    mapping,
    own_rules,
    pointer,
    string,
    struct,
    think,
)

_MESSAGE = own_rules(
    struct(
        "Message",
        {
            "role": string,
            "content": string,
            "thinking": string,
            "images": listed(image, "[]api.ImageData"),
            "tool_calls": listed(anything, "[]api.ToolCall"),
            "tool_name": string,
            "tool_call_id": string,
        },
    )
)
_SAMPLING = {
    "format": anything,
    "keep_alive": duration,
    "options": mapping,
    "think": think,
    "truncate": pointer(boolean),
    "shift": pointer(boolean),
    "_debug_render_only": boolean,
    "logprobs": boolean,
    "top_logprobs": integer,
}

GENERATE = struct(
    "GenerateRequest",
    {
        "model": string,
        "prompt": string,
        "suffix": string,
        "system": string,
        "template": string,
        "context": listed(integer, "[]int"),
        "stream": pointer(boolean),
        "raw": boolean,
        "images": listed(image, "[]api.ImageData"),
        **_SAMPLING,
    },
)
CHAT = struct(
    "ChatRequest",
    {
        "model": string,
        "messages": listed(_MESSAGE, "[]api.Message"),
        "stream": pointer(boolean),
        "tools": listed(anything, "api.Tools"),
        **_SAMPLING,
    },
)
EMBED = struct(
    "EmbedRequest",
    {
        "model": string,
        "input": anything,
        "keep_alive": duration,
        "truncate": pointer(boolean),
        "dimensions": integer,
        "options": mapping,
    },
)
EMBEDDINGS = struct("EmbeddingRequest", {"model": string, "prompt": string, "keep_alive": duration, "options": mapping})
SHOW = struct(
    "ShowRequest", {"model": string, "name": string, "system": string, "verbose": boolean, "options": mapping}
)
COPY = struct("CopyRequest", {"source": string, "destination": string})
DELETE = struct("DeleteRequest", {"model": string, "name": string})
PULL = struct("PullRequest", {"model": string, "name": string, "insecure": boolean, "stream": pointer(boolean)})
PUSH = struct("PushRequest", {"model": string, "name": string, "insecure": boolean, "stream": pointer(boolean)})
CREATE = struct(
    "CreateRequest",
    {
        "model": string,
        "name": string,
        "stream": pointer(boolean),
        "quantize": string,
        "quantization": string,
        "from": string,
        "files": mapping,
        "draft_files": mapping,
        "draft_quantize": string,
        "adapters": mapping,
        "template": string,
        "license": anything,
        "system": string,
        "parameters": mapping,
        "messages": listed(_MESSAGE, "[]api.Message"),
        "renderer": string,
        "parser": string,
    },
)
