// The TypeScript SDK's client: does all that server-everything offers, and prints what it was answered, a line for each.
//
//     node npm_client.mjs NODE_MODULES TARGET
//
// TARGET is a URL, or a command as a JSON array. What is printed has to be the same whoever is in between.

import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [, , nodeModules, target] = process.argv;
const sdk = (path) => import(pathToFileURL(join(nodeModules, "@modelcontextprotocol/sdk/dist/esm", path)).href);
const { Client } = await sdk("client/index.js");
const { StreamableHTTPClientTransport } = await sdk("client/streamableHttp.js");
const { StdioClientTransport } = await sdk("client/stdio.js");
const types = await sdk("types.js");

function transport() {
  if (!target.startsWith("[")) return new StreamableHTTPClientTransport(new URL(target));
  const [command, ...args] = JSON.parse(target);
  return new StdioClientTransport({ command, args, stderr: "ignore" });
}

const say = (label, value) => console.log(JSON.stringify([label, value]));

async function step(label, action) {
  try {
    say(label, await action());
  } catch (error) {
    say(label, { error: { code: error.code, message: error.message, data: error.data } });
  }
}

const heard = {};
const waiting = [];
function hear(method, params) {
  (heard[method] ??= []).push(params);
  for (const wake of waiting.splice(0)) wake();
}
async function until(method, count) {
  while ((heard[method] ?? []).length < count) await new Promise((resolve) => waiting.push(resolve));
}

const capabilities = { sampling: {}, elicitation: { form: {} }, roots: { listChanged: true } };
const client = new Client({ name: "npm-client", version: "1.0" }, { capabilities });
client.setRequestHandler(types.CreateMessageRequestSchema, ({ params }) => {
  hear("sampling", params);
  return { role: "assistant", model: "capitals", content: { type: "text", text: "GRÜSSE" } };
});
client.setRequestHandler(types.ElicitRequestSchema, ({ params }) => {
  hear("elicitation", params);
  return { action: "accept", content: { name: "Ada", check: true, integer: 7 } };
});
client.setRequestHandler(types.ListRootsRequestSchema, () => {
  hear("roots", null);
  return { roots: [{ uri: "file:///projects/outlast", name: "outlast" }] };
});
client.setNotificationHandler(types.LoggingMessageNotificationSchema, ({ params }) => hear("log", params.level));
client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, ({ params }) => hear("updated", params));

await client.connect(transport());
say("server", [client.getServerVersion(), client.getServerCapabilities(), client.getInstructions()]);
await until("roots", 1);
await until("log", 1);
await step("tools", () => client.listTools());
await step("echo", () => client.callTool({ name: "echo", arguments: { message: "grüße 🌍" } }));
await step("structured", () => client.callTool({ name: "get-structured-content", arguments: { location: "Chicago" } }));
await step("no such tool", () => client.callTool({ name: "no-such-tool" }));
await step("wrong arguments", () => client.callTool({ name: "get-sum", arguments: { a: "one" } }));
await step("prompts", () => client.listPrompts());
await step("prompt", () => client.getPrompt({ name: "args-prompt", arguments: { city: "Zürich" } }));
await step("resources", () => client.listResources());
await step("templates", () => client.listResourceTemplates());
await step("no resource", () => client.readResource({ uri: "demo://nowhere" }));
const ref = { type: "ref/prompt", name: "completable-prompt" };
await step("completion", () => client.complete({ ref, argument: { name: "department", value: "S" } }));
await step("level", () => client.setLoggingLevel("info"));
const operation = { name: "trigger-long-running-operation", arguments: { duration: 0.4, steps: 4 } };
// The last step comes with the answer, and this client forgets its listener with the answer: now first, now last.
const onprogress = (progress) => progress.progress < progress.total && hear("progress", progress);
await step("operation", () => client.callTool(operation, undefined, { onprogress }));
await step("sampling", () => client.callTool({ name: "trigger-sampling-request", arguments: { prompt: "louder" } }));
await step("elicitation", () => client.callTool({ name: "trigger-elicitation-request" }));
await step("roots", () => client.callTool({ name: "get-roots-list" }));
const uri = "demo://resource/dynamic/text/1";
await step("subscribe", () => client.subscribeResource({ uri }));
await step("updates on", () => client.callTool({ name: "toggle-subscriber-updates" }));
await until("updated", 1);
await step("updates off", () => client.callTool({ name: "toggle-subscriber-updates" }));
await step("cancelled", () => {
  const slow = { name: "trigger-long-running-operation", arguments: { duration: 1, steps: 1 } };
  return client.callTool(slow, undefined, { signal: AbortSignal.timeout(400) });
});
await step("ping", () => client.ping());
await step("unknown", () => client.request({ method: "vendor/unknown" }, types.EmptyResultSchema));
await until("log", 2);
// Each once: this server's event store replays the events of all streams to whoever resumes one (servers#4099), and this
// client resumes each that ends. The gateway tells them once.
for (const [method, said] of Object.entries(heard).sort()) {
  say(`heard ${method}`, [...new Set(said.map((content) => JSON.stringify(content)))]);
}
await client.close();
process.exit(0);
