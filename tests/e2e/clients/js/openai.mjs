// OpenAI's SDK against the host in argv: `node openai.mjs URL`.
import OpenAI from "openai";
import { run, twice } from "./run.mjs";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused" });
const model = "tiny";
const brief = { model, temperature: 0, max_tokens: 8 };
const messages = [{ role: "user", content: "hello" }];
const usage = { stream: true, stream_options: { include_usage: true } };

const chat = (more) => () => client.chat.completions.create({ ...brief, messages, ...more });
const complete = (more) => () => client.completions.create({ ...brief, prompt: "why?", ...more });
const respond = (more) => () =>
  client.responses.create({ model, input: "hello", temperature: 0, max_output_tokens: 8, ...more });
const embed = (more) => () => client.embeddings.create({ model: "all-minilm", input: "a text", ...more });

await run({
  list: twice(() => client.models.list()),
  retrieve: [() => client.models.retrieve(model)],
  chat: twice(chat()),
  "chat a stream": [chat({ stream: true }), chat(usage)],
  complete: twice(complete()),
  "complete a stream": [complete({ stream: true }), complete(usage)],
  respond: [respond(), respond({ stream: true })],
  "embed a text": twice(embed()),
  "embed a list": twice(embed({ input: ["one", "two"] })),
  "embed as floats": twice(embed({ encoding_format: "float" })),
  "a missing model": [
    chat({ model: "missing" }),
    chat({ model: "missing", stream: true }),
    complete({ model: "missing" }),
    respond({ model: "missing" }),
    embed({ model: "missing" }),
  ],
});
