// OpenAI's package for JavaScript, which asks for base64 and decodes whatever comes.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { url, model, texts, many } = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const vectors = (made) => made.data.map((one) => Array.from(one.embedding));

async function refusal(wrong) {
  try {
    await client.embeddings.create({ model, input: texts, ...wrong });
  } catch (error) {
    return { status: error.status, code: error.code, param: error.param, message: error.message };
  }
  throw new Error("expected an error");
}

const models = [];
for await (const one of client.models.list()) models.push(one.id);
const base64 = await client.embeddings.create({ model, input: texts });
console.log(
  JSON.stringify({
    base64: vectors(base64),
    float: vectors(await client.embeddings.create({ model, input: texts, encoding_format: "float" })),
    dimensions: vectors(await client.embeddings.create({ model, input: texts, dimensions: 64 })),
    many: vectors(await client.embeddings.create({ model, input: many })),
    usage: base64.usage,
    models,
    "token ids": await refusal({ input: [[9906, 1917]] }),
  }),
);
