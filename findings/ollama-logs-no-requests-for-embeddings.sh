#!/usr/bin/env bash
# Ollama's log of requests holds no requests for embeddings, and of all others also those that were refused.
#
# One would guess: OLLAMA_DEBUG_LOG_REQUESTS "logs inference requests to disk" (`envconfig/config.go`), "upon any inference request"
#   (pull request 14106), so with it on, what a client has asked for can be read there, or asked for again.
# What happens: the logger stands before six routes. Under the comment "Inference" in the same table are /api/embed and
#   /api/embeddings, and /v1/embeddings is among OpenAI's: none of the three is logged. A file is written when the handler has
#   returned, whatever came of it, so a request for a model that does not exist is there like any other, and one that hangs is not
#   there yet. Of the fields only Content-Type is written, into a script beside the body.
# So a tool that replays such a log, to warm a cache or to measure, leaves out the embeddings without a word.
# Versions: github.com/ollama/ollama v0.34.3, package server; the logger's file is the same since v0.18.3. Go 1.26 and later. Seen
#   by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOPATH="$folder/go" GOFLAGS=-mod=mod
cd "$folder"
go mod download github.com/ollama/ollama@v0.34.3
cp -r "$GOPATH/pkg/mod/github.com/ollama/ollama@v0.34.3" probe
chmod -R u+w probe
cd probe
cat > server/request_log_probe_test.go <<'GO'
package server

import (
    "fmt"
    "net/http/httptest"
    "os"
    "runtime"
    "strings"
    "testing"

    "github.com/gin-gonic/gin"
)

func TestWhatIsLogged(t *testing.T) {
    fmt.Println("github.com/ollama/ollama v0.34.3,", runtime.Version())
    gin.SetMode(gin.TestMode)
    t.Setenv("HOME", t.TempDir())
    t.Setenv("OLLAMA_MODELS", t.TempDir())
    t.Setenv("TMPDIR", t.TempDir())
    t.Setenv("OLLAMA_DEBUG_LOG_REQUESTS", "1")
    s := &Server{}
    if err := s.initRequestLogging(); err != nil {
        t.Fatal(err)
    }
    routes, err := s.GenerateRoutes()
    if err != nil {
        t.Fatal(err)
    }
    logged := func(route string) bool {
        before, _ := os.ReadDir(s.requestLogger.dir)
        body := `{"model": "none", "prompt": "a", "input": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}`
        request := httptest.NewRequest("POST", route, strings.NewReader(body))
        request.Header.Set("Content-Type", "application/json")
        request.Header.Set("Authorization", "Bearer a-token")
        answer := httptest.NewRecorder()
        routes.ServeHTTP(answer, request)
        after, _ := os.ReadDir(s.requestLogger.dir)
        fmt.Printf("POST %-22s status %d, %d files more\n", route, answer.Code, len(after)-len(before))
        if answer.Code != 404 {
            t.Errorf("changed: %s says %d", route, answer.Code)
        }
        for _, file := range after {
            content, _ := os.ReadFile(s.requestLogger.dir + "/" + file.Name())
            if strings.Contains(string(content), "a-token") {
                t.Errorf("changed: %s holds a credential", file.Name())
            }
        }
        return len(after) > len(before)
    }
    expected := map[string]bool{
        "/api/generate": true, "/api/chat": true, "/v1/chat/completions": true,
        "/v1/completions": true, "/v1/responses": true, "/v1/messages": true,
        "/api/embed": false, "/api/embeddings": false, "/v1/embeddings": false,
    }
    for route, is := range expected {
        if logged(route) != is {
            t.Errorf("changed: %s", route)
        }
    }
}
GO
go test ./server -run '^TestWhatIsLogged$' -v
