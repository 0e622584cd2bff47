#!/usr/bin/env bash
# One request to Ollama is read by two readers: the names beside `options` match without regard to case, those inside only exactly.
#
# One would guess: `{"Options": {"Temperature": 0}}` is read like `{"options": {"temperature": 0}}`, since Ollama takes `MODEL` for
#   `model` and `STREAM` for `stream`; and that a `num_ctx` of 4096.7, or a `seed` past 64 bits, is an error as a wrong type is.
# What happens: the outer name is taken, the inner one is dropped with a line in the server's log and no word to the client, who
#   gets a response at the default temperature of 0.8. `Options.FromMap` compares names as text and takes every JSON number as a
#   float64 first: 4096.7 becomes 4096, a seed of 1e20 the smallest int64 (on amd64), a temperature of 1e60 infinity, none of them
#   an error. A string is one: `option "temperature" must be of type float32`.
# So a client in another language that writes `Temperature` asks for something else at each call, and nothing shows it.
# Versions: github.com/ollama/ollama v0.24.0, package api (api/types.go), Go 1.24 and later. Seen by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
mkdir "$folder/probe"
cd "$folder/probe"
export GOPATH="$folder/go"
cat > go.mod <<'GO'
module probe

go 1.24

require github.com/ollama/ollama v0.24.0
GO
cat > main.go <<'GO'
package main

import (
    "encoding/json"
    "fmt"
    "io"
    "log/slog"
    "os"
    "runtime"

    "github.com/ollama/ollama/api"
)

type seen struct {
    temperature   float32
    context, seed int
    failed        bool
}

func read(body string) seen {
    var request api.GenerateRequest
    if err := json.Unmarshal([]byte(body), &request); err != nil {
        panic(err)
    }
    options := api.DefaultOptions()
    err := options.FromMap(request.Options)
    fmt.Printf("%-60s temperature %v, num_ctx %d, seed %d, error: %v\n", body, options.Temperature, options.NumCtx, options.Seed, err)
    return seen{options.Temperature, options.NumCtx, options.Seed, err != nil}
}

func main() {
    slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
    fmt.Println("github.com/ollama/ollama v0.24.0,", runtime.Version())
    usual := read(`{"options": {}}`)
    checks := []bool{
        read(`{"options": {"temperature": 0.25, "num_ctx": 4096}}`) == seen{0.25, 4096, usual.seed, false},
        read(`{"OPTIONS": {"temperature": 0.25}}`) == seen{0.25, usual.context, usual.seed, false},
        read(`{"options": {"Temperature": 0.25}}`) == usual,
        read(`{"options": {"num_ctx": 4096.7}}`) == seen{usual.temperature, 4096, usual.seed, false},
        !read(`{"options": {"seed": 1e20}}`).failed,
        !read(`{"options": {"temperature": 1e60}}`).failed,
        read(`{"options": {"temperature": "0.25"}}`).failed,
    }
    for number, holds := range checks {
        if !holds {
            fmt.Println("changed: check", number)
            os.Exit(1)
        }
    }
}
GO
go mod tidy 2>/dev/null
go run .
