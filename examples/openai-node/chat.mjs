// Talks to a running gateway with the official OpenAI client.
//
//   npm install
//   node chat.mjs [question]        BASE_URL, MODEL and API_KEY as environment variables
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.API_KEY ?? "none",
});
const model = process.env.MODEL ?? "chat";
const messages = [{ role: "user", content: process.argv[2] ?? "Why is the sky blue?" }];

const whole = await client.chat.completions.create({ model, messages, max_tokens: 64, temperature: 0 });
console.log("whole:   ", whole.choices[0].message.content);
console.log("usage:   ", whole.usage.prompt_tokens, "+", whole.usage.completion_tokens, "tokens");

process.stdout.write("streamed: ");
const stream = await client.chat.completions.create({
  model,
  messages,
  max_tokens: 64,
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  if (chunk.choices.length > 0) process.stdout.write(chunk.choices[0].delta.content ?? "");
  else if (chunk.usage) console.log(`\nusage:    ${chunk.usage.prompt_tokens} + ${chunk.usage.completion_tokens} tokens`);
}
