// Calls dots-wrapper for the tests: a line of JSON in, a line of JSON out.
//   {"token", "endpoint", "module": "firewall", "call": "createFirewall", "input": {...}}
//   -> {"data": ...} or {"error": {"name", "message", "status", "data"}}
"use strict";

const readline = require("node:readline");
const { createApiClient } = require("dots-wrapper");

async function answer(line) {
  const { token, endpoint, module, call, input } = JSON.parse(line);
  const client = createApiClient({ token, endpoint });
  try {
    const { data } = await client[module][call](input);
    return { data };
  } catch (error) {
    const { name, message, response } = error;
    return { error: { name, message, status: response?.status, data: response?.data } };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
  }
}

main();
