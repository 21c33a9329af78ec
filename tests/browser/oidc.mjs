// A certified OAuth server on loopback in Google's place: `oidc-provider`, with login and consent pages of our own.
//
// It differs from its defaults only where Google does: every grant brings a refresh token (Google's word for that is
// `access_type=offline`), the identity token holds the e-mail, `prompt=select_account` is known, and a revocation
// names no client. PKCE is required of everybody. What it hands out is kept, so that a test can look for it where it
// does not belong.
//
// First line on stdin: {key, cert, client_id, client_secret, scopes, rotate, access_token_seconds}. Then, a line each:
//   {"do": "log"}                      every token request and its outcome, and every secret so far
//   {"do": "forge", "claims": {…}}     change claims of the identity tokens from now on; their signature breaks

import { createHash, randomBytes } from "node:crypto";
import { createServer } from "node:https";
import { Provider, interactionPolicy } from "oidc-provider";

import { speak } from "./lines.mjs";

speak(async (options) => {
  const server = createServer({ key: options.key, cert: options.cert });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const issuer = `https://localhost:${server.address().port}`;

  const log = { requests: [], secrets: [] };
  const forged = {};
  const provider = new Provider(issuer, configuration(options));
  provider.use(record(log, forged));
  const answer = provider.callback();
  server.on("request", async (request, response) => {
    try {
      if (request.url.startsWith("/interaction/")) return await interact(provider, request, response);
      if (request.url === "/revoke") request.body = await withClient(request, options);
      await answer(request, response);
    } catch (error) {
      if (!response.headersSent) response.writeHead(500, { "content-type": "text/plain" });
      response.end(`${error.message}: ${error.error_description ?? ""}\n`);
    }
  });
  return {
    ready: { issuer, authorization: `${issuer}/auth`, token: `${issuer}/token`, revocation: `${issuer}/revoke` },
    handlers: {
      log: () => log,
      forge: ({ claims }) => void Object.assign(forged, claims),
    },
    stop: () => server.closeAllConnections(),
  };
});

function configuration(options) {
  const policy = interactionPolicy.base();
  policy.add(new interactionPolicy.Prompt({ name: "select_account", requestable: true }), 0);
  return {
    clients: [
      {
        client_id: options.client_id,
        client_secret: options.client_secret,
        application_type: "native",
        // A loopback address of a native application stands for any port (RFC 8252 7.3).
        redirect_uris: ["http://127.0.0.1/callback"],
        grant_types: ["authorization_code", "refresh_token"],
        response_types: ["code"],
        token_endpoint_auth_method: "client_secret_post",
      },
    ],
    scopes: ["openid", ...options.scopes],
    claims: { openid: ["sub"], email: ["email", "email_verified"] },
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    issueRefreshToken: async () => true,
    // What was granted outlives the browser's session.
    expiresWithSession: async () => false,
    rotateRefreshToken: () => options.rotate,
    ttl: {
      AccessToken: options.access_token_seconds,
      AuthorizationCode: 60,
      Grant: 86400,
      IdToken: 3600,
      Interaction: 3600,
      RefreshToken: 86400,
      Session: 86400,
    },
    features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
    interactions: { policy, url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: emails.get(id), email_verified: true }),
    }),
    routes: { authorization: "/auth", token: "/token", revocation: "/revoke" },
    cookies: { keys: [randomBytes(16).toString("hex")] },
    renderError: (ctx, out) => {
      ctx.type = "html";
      ctx.body = page("Not possible", `<p class="error">${escape(out.error)}: ${escape(out.error_description)}</p>`);
    },
  };
}

/// Google's subjects are numbers, and so is ours: who takes it for an e-mail address is found out.
function subject(email) {
  const number = BigInt(`0x${createHash("sha256").update(email).digest("hex").slice(0, 16)}`);
  const id = `1${number.toString().padStart(20, "0")}`;
  emails.set(id, email);
  return id;
}

const emails = new Map();

/// Keeps what the endpoints gave out and were given, after the fact.
function record(log, forged) {
  return async (ctx, next) => {
    await next();
    const place = new URL(ctx.response.get("location") || "/", "https://localhost");
    if (place.searchParams.has("code")) log.secrets.push(place.searchParams.get("code"));
    if (ctx.path !== "/token" && ctx.path !== "/revoke") return;
    const { code, code_verifier, refresh_token, grant_type, scope } = ctx.oidc?.params ?? {};
    const body = ctx.body ?? {};
    if (body.id_token && Object.keys(forged).length > 0) body.id_token = forge(body.id_token, forged);
    log.requests.push({ path: ctx.path, grant_type, scope, error: body.error ?? null, granted: body.scope ?? null });
    const given = [code, code_verifier, refresh_token, body.access_token, body.refresh_token, body.id_token];
    log.secrets.push(...given.filter((secret) => secret && !log.secrets.includes(secret)));
  };
}

function forge(token, claims) {
  const [header, payload, signature] = token.split(".");
  const changed = { ...JSON.parse(Buffer.from(payload, "base64url")), ...claims };
  return [header, Buffer.from(JSON.stringify(changed)).toString("base64url"), signature].join(".");
}

async function withClient(request, options) {
  const form = new URLSearchParams(await text(request));
  if (!form.has("client_id")) {
    form.set("client_id", options.client_id);
    form.set("client_secret", options.client_secret);
  }
  return form.toString();
}

/// The pages: who are you, and what may this program do? One form each, sent to the address it came from.
async function interact(provider, request, response) {
  const { prompt, params, grantId, session } = await provider.interactionDetails(request, response);
  const asksWho = prompt.name === "login" || prompt.name === "select_account";
  if (request.method === "GET") {
    response.writeHead(200, { "content-type": "text/html; charset=utf-8", "cache-control": "no-store" });
    return void response.end(asksWho ? loginPage(params) : consentPage(params));
  }
  const form = new URLSearchParams(await text(request));
  const finish = (result) =>
    provider.interactionFinished(request, response, result, { mergeWithLastSubmission: !asksWho });
  if (asksWho) {
    return finish({ select_account: {}, login: { accountId: subject(form.get("email")) } });
  }
  if (form.get("verdict") !== "allow") {
    return finish({ error: "access_denied", error_description: "the user said no" });
  }
  const existing = grantId && !params.prompt?.includes("consent") && (await provider.Grant.find(grantId));
  const grant = existing || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const ticked = ["openid", ...form.getAll("scope")];
  grant.addOIDCScope(ticked.join(" "));
  grant.rejectOIDCScope(scopes(params).filter((scope) => !ticked.includes(scope)).join(" "));
  return finish({ consent: { grantId: await grant.save() } });
}

function loginPage(params) {
  const hint = escape(params.login_hint ?? "");
  return page(
    "Sign in",
    `<label>E-mail <input type="email" name="email" value="${hint}" required></label> <button>Next</button>`,
  );
}

/// As at Google, what identifies the user cannot be left out.
function consentPage(params) {
  const boxes = scopes(params)
    .filter((scope) => scope !== "openid")
    .map((scope) => {
      const fixed = scope === "email" ? `disabled` : `name="scope"`;
      const kept = scope === "email" ? `<input type="hidden" name="scope" value="email">` : "";
      return `${kept}<li><label><input type="checkbox" ${fixed} value="${escape(scope)}" checked> ${escape(scope)}</label>`;
    });
  return page(
    "Consent",
    `<ul>${boxes.join("")}</ul><button name="verdict" value="allow">Allow</button> <button name="verdict" value="deny">Deny</button>`,
  );
}

function page(title, inside) {
  return `<!doctype html><html lang="en"><title>${title}</title><h1>${title}</h1><form method="post">${inside}</form></html>`;
}

const scopes = (params) => [...new Set((params.scope ?? "").split(" ").filter(Boolean))];

const escape = (text) => String(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

async function text(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
