// ollama-js against the host in argv: `node ollama.mjs URL`.
import { Ollama } from "ollama";
import { run, twice } from "./run.mjs";

const client = new Ollama({ host: process.argv[2] });
const model = "tiny";
const options = { temperature: 0, num_predict: 8 };
const messages = [{ role: "user", content: "hello" }];
const tools = [{ type: "function", function: { name: "f", description: "d", parameters: { type: "object" } } }];
const embed = { model: "all-minilm", input: "a text" };

const generate = (more) => () => client.generate({ model, prompt: "why?", options, ...more });
const chat = (more) => () => client.chat({ model, messages, options, ...more });

await run({
  version: [() => client.version()],
  list: twice(() => client.list()),
  show: twice(() => client.show({ model })),
  generate: [...twice(generate()), () => client.ps()],
  "generate a stream": twice(generate({ stream: true })),
  chat: twice(chat()),
  "chat a stream": twice(chat({ stream: true })),
  "chat with tools": [chat({ tools }), chat({ tools, stream: true })],
  "embed a text": twice(() => client.embed(embed)),
  "embed a list": twice(() => client.embed({ ...embed, input: ["one", "two"] })),
  embeddings: twice(() => client.embeddings({ model: "all-minilm", prompt: "a text" })),
  create: [
    () => client.create({ model: "mine", from: "tiny", system: "be brief" }),
    generate({ model: "mine" }),
    () => client.create({ model: "mine", from: "tiny", system: "be long", stream: true }),
    ...twice(generate({ model: "mine" })),
  ],
  "copy and delete": [
    () => client.copy({ source: "mine", destination: "other" }),
    generate({ model: "other" }),
    () => client.delete({ model: "other" }),
    () => client.list(),
  ],
  "pull what is not there": [
    () => client.pull({ model: "nobody/nothing" }),
    () => client.pull({ model: "nobody/nothing", stream: true }),
  ],
  "a missing model": [
    generate({ model: "missing" }),
    generate({ model: "missing", stream: true }),
    chat({ model: "missing" }),
    () => client.embed({ ...embed, model: "missing" }),
    () => client.delete({ model: "missing" }),
  ],
});
