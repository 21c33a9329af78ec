// Strings for a real Chromium: does what the test says, tells what the page says, and knows nothing of sign-ins.
//
// First line on stdin: {chromium, profile, resolve?}, where `resolve` maps foreign names to loopback, as DNS that an
// attacker owns would. Then one request a line. A `tab` is any word; it comes to be when first opened. A `selector`
// is Playwright's.
//   open {tab, url}                       go there; the status, or `failed` where nothing answered
//   fill {tab, selector, text} · click {tab, selector} · tick {tab, selector, on}
//   wait {tab, url?, text?}               until address and text contain these
//   wait_any {tab, selectors}             which of these comes first
//   read {tab}                            address, title, text, source, referrer
//   run {tab, script, argument}           calls the function `script` in the page
//   back {tab}                            as the button
//   history {tab}                         every address that the button could bring back
//   hold {tab, prefix} · held {tab}       requests to `prefix` find nobody, redirected ones too; the first of them
//   shot {tab, path, scheme, width, height}
//   requests {}                           all requests of all tabs, as sent: method, url, headers, status
//   close {tab}

import { chromium } from "playwright-core";

import { speak } from "./lines.mjs";

speak(async ({ chromium: executablePath, profile, resolve }) => {
  const rules = resolve ? [`--host-resolver-rules=${resolve}`] : [];
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: [...FLAGS, ...rules],
    // The authority is the test's own; how Chromium judges certificates is not what is tested.
    ignoreHTTPSErrors: true,
    viewport: { width: 1280, height: 800 },
  });
  context.setDefaultTimeout(PATIENCE);

  const tabs = new Map();
  const sent = [];
  context.on("request", (request) => sent.push(request));

  const tab = ({ tab: name }) => {
    if (!tabs.has(name)) throw new Error(`no tab ${name}`);
    return tabs.get(name);
  };
  const handlers = {
    async open({ tab: name, url }) {
      if (!tabs.has(name)) tabs.set(name, { page: await context.newPage(), held: [] });
      for (;;) {
        try {
          const response = await tabs.get(name).page.goto(url);
          return { status: response?.status() ?? null };
        } catch (error) {
          // Somebody else on this machine made or removed a network interface.
          if (!error.message.includes("ERR_NETWORK_CHANGED")) return { failed: error.message };
        }
      }
    },
    fill: (request) => tab(request).page.fill(request.selector, request.text),
    // Where a click leads may answer only after the test has done something.
    click: (request) => tab(request).page.click(request.selector, { noWaitAfter: true }),
    tick: (request) => tab(request).page.setChecked(request.selector, request.on),
    async wait(request) {
      const { page } = tab(request);
      const { url = "", text = "" } = request;
      const deadline = Date.now() + PATIENCE;
      for (;;) {
        const seen = await read(page).catch((error) => ({ url: page.url(), text: "", error: error.message }));
        if (seen.url.includes(url) && seen.text.includes(text) && !seen.error) return seen;
        if (Date.now() > deadline) {
          throw new Error(`waited for ${JSON.stringify({ url, text })} and saw ${JSON.stringify(seen)}`);
        }
        await new Promise((done) => setTimeout(done, 25));
      }
    },
    async wait_any(request) {
      const { page } = tab(request);
      const waits = request.selectors.map((selector) => page.waitForSelector(selector).then(() => selector));
      return Promise.any(waits).catch(async () => {
        throw new Error(`none of ${request.selectors} at ${JSON.stringify(await read(page))}`);
      });
    },
    read: (request) => read(tab(request).page),
    run: (request) => tab(request).page.evaluate(`(${request.script})(${JSON.stringify(request.argument ?? null)})`),
    async back(request) {
      await tab(request).page.goBack().catch(() => null);
      return read(tab(request).page);
    },
    async history(request) {
      // A page that is being replaced has no session for a moment.
      const ask = async () => {
        const session = await context.newCDPSession(tab(request).page);
        const { entries } = await session.send("Page.getNavigationHistory");
        await session.detach();
        return entries;
      };
      const entries = await ask().catch(ask);
      return entries.map(({ url, userTypedURL, title }) => ({ url, typed: userTypedURL, title }));
    },
    async hold(request) {
      if (!tabs.has(request.tab)) tabs.set(request.tab, { page: await context.newPage(), held: [] });
      const { page, held } = tab(request);
      // Playwright's own routes do not see redirected requests; the protocol below does.
      const session = await context.newCDPSession(page);
      session.on("Fetch.requestPaused", ({ requestId, request: paused }) => {
        held.push(paused.url);
        session.send("Fetch.failRequest", { requestId, errorReason: "ConnectionRefused" }).catch(() => null);
      });
      await session.send("Fetch.enable", { patterns: [{ urlPattern: `${request.prefix}*` }] });
    },
    async held(request) {
      const { held } = tab(request);
      const deadline = Date.now() + PATIENCE;
      while (held.length === 0) {
        if (Date.now() > deadline) throw new Error("nothing was held");
        await new Promise((done) => setTimeout(done, 25));
      }
      return held[0];
    },
    async shot(request) {
      const { page } = tab(request);
      const { path, scheme, width, height } = request;
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme: scheme });
      await page.screenshot({ path });
    },
    requests: () => Promise.all(sent.map(describe)),
    async close(request) {
      await tab(request).page.close();
      tabs.delete(request.tab);
    },
  };
  return { ready: { version: context.browser()?.version() ?? null }, handlers, stop: () => context.close() };
});

async function read(page) {
  const inside = () => ({
    text: document.body?.innerText ?? "",
    source: document.documentElement?.outerHTML ?? "",
    referrer: document.referrer,
    name: window.name,
  });
  return { url: page.url(), title: await page.title(), ...(await page.evaluate(inside)) };
}

async function describe(request) {
  const headers = await request.allHeaders().catch(() => request.headers());
  const response = await Promise.race([request.response().catch(() => null), new Promise((done) => setTimeout(done, 1000))]);
  return {
    method: request.method(),
    url: request.url(),
    headers,
    status: response?.status() ?? null,
    from: request.frame()?.url() ?? null,
  };
}

const PATIENCE = 20_000;

// Nothing but what the test asks for: no calls home, no second transport, no first-run pages.
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
