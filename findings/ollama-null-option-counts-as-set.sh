#!/usr/bin/env bash
# An option that is null changes how Ollama loads a model, though null stands for "not set".
#
# One would guess: `{"options": {"num_batch": null}}` is the same request as one without options. `Options.FromMap` skips a null,
#   and a comment in `scheduleRunner` says that "null is unset". Clients rely on it: LangChain's embeddings send 13 options that are
#   null unless somebody sets them, num_ctx among them.
# What happens: three names are also looked for in the map as it came, where a null counts as set. With `num_batch: null` an
#   embedding model is loaded with a batch of 512 tokens, not 2048. A text has to fit into one batch, so a longer one is cut there
#   (`EmbedHandler`; read, not run): another vector for the same text. `draft_num_predict: null` leaves a draft length of 4 where
#   there is no draft model, so the model is loaded anew. With `num_ctx: null` the context is not lowered where memory is short.
# So a client that writes out what it does not set, and one that leaves it out, get different vectors, or each other's model
#   unloaded. Before 0.30 no null said anything.
# Versions: github.com/ollama/ollama v0.34.3, package server (server/routes.go), Go 1.26 and later. Seen by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOPATH="$folder/go" GOFLAGS=-mod=mod
cd "$folder"
go mod download github.com/ollama/ollama@v0.34.3
cp -r "$GOPATH/pkg/mod/github.com/ollama/ollama@v0.34.3" probe
chmod -R u+w probe
cd probe
cat > server/null_options_test.go <<'GO'
package server

import (
    "encoding/json"
    "fmt"
    "runtime"
    "testing"

    "github.com/ollama/ollama/types/model"
)

type seen struct {
    batch, draft int
    mayBeLowered bool
}

func TestNullOptions(t *testing.T) {
    fmt.Println("github.com/ollama/ollama v0.34.3,", runtime.Version())
    m := &Model{Name: "an embedding model"}
    m.Config.Capabilities = []string{string(model.CapabilityEmbedding)}
    s := &Server{defaultNumCtx: 4096}
    read := func(options map[string]any) seen {
        opts, err := s.modelOptions(m, options)
        found := seen{opts.NumBatch, opts.DraftNumPredict, usesAutomaticNumCtx(m, options)}
        written, _ := json.Marshal(options)
        fmt.Printf("%-28s num_batch %d, draft_num_predict %d, context may be lowered: %v, error: %v\n",
            written, found.batch, found.draft, found.mayBeLowered, err)
        return found
    }
    usual := read(nil)
    checks := []bool{
        usual == seen{2048, 0, true},
        read(map[string]any{"temperature": nil}) == usual,
        read(map[string]any{"num_gpu": nil}) == usual,
        read(map[string]any{"num_batch": nil}) == seen{512, 0, true},
        read(map[string]any{"draft_num_predict": nil}) == seen{2048, 4, true},
        read(map[string]any{"num_ctx": nil}) == seen{2048, 0, false},
    }
    for number, holds := range checks {
        if !holds {
            t.Errorf("changed: check %d", number)
        }
    }
}
GO
go test ./server -run '^TestNullOptions$' -v
