// A real OpenID provider for test_identity.py: npm's oidc-provider, over https, with one
// application that may ask for tokens in its own name. It prints "ready", and "rotated"
// when a line on standard input has it sign with its second key.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { generateKeyPairSync } from "node:crypto";
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

const [issuer, certificate, key] = process.argv.slice(2);
const audience = "api://carillon";
const jwk = (kid) => ({ ...generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" });
const first = jwk("first"), second = jwk("second");

const provider = (keys) => new Provider(issuer, {
  jwks: { keys },
  clients: [{ client_id: "trainer", client_secret: "s3cret-of-the-trainer", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] }],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({ scope: "run", audience: resource, accessTokenFormat: "jwt", accessTokenTTL: 300, jwt: { sign: { alg: "RS256" } } }),
    },
  },
  extraTokenClaims: () => ({ sub: "trainer", groups: ["ops"] }),
});

let current = provider([first]).callback();
createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) => current(request, response))
  .listen(new URL(issuer).port, "127.0.0.1", () => console.log("ready"));
createInterface({ input: process.stdin }).on("line", () => {
  current = provider([second, first]).callback();
  console.log("rotated");
});
