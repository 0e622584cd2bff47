#!/usr/bin/env bash
# A vector that is read and written again as float32 is not the same text, though both sides write the shortest one.
#
# One would guess: the shortest decimal text that reads back as the same float32 is one text, so Ollama's `/api/embed` (Go) and a
#   proxy or client that keeps the vector in numpy and writes it with orjson agree byte for byte, exponents perhaps aside.
# What happens: for 2^-12, which is 0.000244140625, two texts of eight digits are equally short, equally near, and read back as the
#   same number. Go takes the upper one, 0.00024414063; numpy and orjson take the even digit, 0.00024414062. It is
#   so where a float32 lies halfway between two texts of the least length. And Go writes 1.5474251e+26, orjson 1.5474251e26.
# So a cache or test that compares vectors compares numbers, or writes them as the upstream did.
# Versions: Go 1.26 (encoding/json), numpy 2.3.5, orjson 3.11.4, Python 3.11. Seen by running them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
printf 'module probe\n\ngo 1.21\n' > go.mod
cat > main.go <<'GO'
package main

import (
  "encoding/json"
  "os"
  "runtime"
)

func main() {
  os.Stderr.WriteString(runtime.Version() + "\n")
  var numbers []float32
  if err := json.NewDecoder(os.Stdin).Decode(&numbers); err != nil {
    panic(err)
  }
  json.NewEncoder(os.Stdout).Encode(numbers)
}
GO
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.3.5 orjson==3.11.4
numbers='[0.000244140625,0.0029296875,0.1,154742504910672534362390528]'
go run . <<<"$numbers" > go.json
venv/bin/python - "$numbers" <<'PYTHON'
import json
import sys

import numpy
import orjson

given = numpy.array(json.loads(sys.argv[1]), dtype=numpy.float32)
texts = {
    "Go": open("go.json").read().strip(),
    "orjson": orjson.dumps(given, option=orjson.OPT_SERIALIZE_NUMPY).decode(),
    "numpy": "[" + ",".join(map(str, given)) + "]",
}
for name, text in texts.items():
    print(f"{name:<8}{text}")
same = all(numpy.array_equal(numpy.array(json.loads(text), dtype=numpy.float32), given) for text in texts.values())
print("all read back as the same float32:", same)
expected = {
    "Go": ["0.00024414063", "0.0029296875", "0.1", "1.5474251e+26"],
    "orjson": ["0.00024414062", "0.0029296875", "0.1", "1.5474251e26"],
    "numpy": ["0.00024414062", "0.0029296875", "0.1", "1.5474251e+26"],
}
sys.exit(0 if same and {name: text[1:-1].split(",") for name, text in texts.items()} == expected else 1)
PYTHON
