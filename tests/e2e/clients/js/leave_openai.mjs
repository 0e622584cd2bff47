// OpenAI's SDK that leaves in the middle of a stream: `node leave_openai.mjs URL`.
import OpenAI from "openai";
import { left } from "./run.mjs";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused" });
const messages = [{ role: "user", content: "hello" }];
for await (const _ of await client.chat.completions.create({ model: "tiny", messages, stream: true })) break;
await left();
