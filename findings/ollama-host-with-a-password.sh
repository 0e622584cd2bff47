#!/usr/bin/env bash
# A user and password in OLLAMA_HOST: three official clients do three things with them, and none sends them.
#
# One would guess: `OLLAMA_HOST=https://user:secret@ollama.example`, for an Ollama behind basic authentication, sends them as
#   Authorization, as curl and most HTTP clients do, or is refused.
# What happens:
#   - Ollama's own tools (`ollama list`) take "user" for the host and the rest for a port, which is none: they warn, take 443, and
#     connect to https://user:443, another machine.
#   - ollama for Python drops them without a word.
#   - ollama for JavaScript leaves them in the URL, with which fetch refuses every request.
# Versions: github.com/ollama/ollama v0.34.3, package envconfig (Host), Go 1.26 and later; ollama 0.6.3 of PyPI; ollama 0.6.4 of npm,
#   Node 18 and later.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOPATH="$folder/go" GOFLAGS=-mod=mod
host=https://user:secret@ollama.example

mkdir "$folder/probe" && cd "$folder/probe"
go mod init probe 2>/dev/null
go get github.com/ollama/ollama/envconfig@v0.34.3 2>/dev/null
cat > main.go <<'GO'
package main

import (
    "fmt"

    "github.com/ollama/ollama/envconfig"
)

func main() { fmt.Println(envconfig.Host()) }
GO
own=$(OLLAMA_HOST=$host go run . 2>&1)

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ollama==0.6.3
python=$("$folder/venv/bin/python" -c "
import sys
from ollama import Client
client = Client(host=sys.argv[1])._client
print(client.base_url, client.headers.get('authorization'), client.auth)" "$host")

mkdir "$folder/js" && cd "$folder/js"
npm install --silent --no-save ollama@0.6.4
javascript=$(node -e "
import('ollama').then(({ Ollama }) => new Ollama({ host: process.argv[1] }).list()).catch((error) => console.log(error.message))" "$host")

own=$(grep -v WARN <<<"$own")
printf 'Go:         %s\nPython:     %s\nJavaScript: %s\n' "$own" "$python" "$javascript"
[ "$own" = "https://user:443" ]
[ "$python" = "https://ollama.example None None" ]
grep -q "includes credentials" <<<"$javascript"
echo "As described."
