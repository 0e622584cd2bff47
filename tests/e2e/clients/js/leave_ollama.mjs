// ollama-js that leaves in the middle of a stream: `node leave_ollama.mjs URL`.
import { Ollama } from "ollama";
import { left } from "./run.mjs";

const client = new Ollama({ host: process.argv[2] });
const stream = await client.generate({ model: "tiny", prompt: "why?", stream: true });
await stream[Symbol.asyncIterator]().next();
stream.abort();
await left();
