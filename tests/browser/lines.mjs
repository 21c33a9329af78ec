// One JSON value a line on stdin, one a line on stdout: how the Rust tests speak with a Node program. Requests are
// answered one after the other. The program ends when stdin closes, so a test that is gone leaves nothing behind.

import { createInterface } from "node:readline";

/// Calls `start` with the first line; then each further line names the one of the handlers it returned in `do`.
/// What a handler returns is the answer; what it throws is the answer `{"error": …}`.
export async function speak(start) {
  // What libraries have to say goes elsewhere: stdout is for answers.
  console.log = console.info = console.debug = console.error;
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const say = (value) => process.stdout.write(`${JSON.stringify(value ?? null)}\n`);
  const { value: first } = await lines.next();
  const { ready, handlers, stop } = await start(JSON.parse(first));
  say(ready);
  for await (const line of lines) {
    const request = JSON.parse(line);
    try {
      const handler = handlers[request.do];
      if (!handler) throw new Error(`nothing is called ${request.do}`);
      say({ done: (await handler(request)) ?? null });
    } catch (error) {
      say({ error: String(error.message ?? error) });
    }
  }
  await stop();
  process.exit(0);
}
