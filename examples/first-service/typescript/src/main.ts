// A first service on OpenOrch, in TypeScript, with the published client: an account, an instance, one page.

import { randomBytes } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { homedir } from "node:os";
import { join } from "node:path";
import { Configuration, RegistrySvcApi, ResponseError, UserSvcApi } from "@openorch/client";

const basePath = process.env.OPENORCH_URL;
if (!basePath) throw new Error("OPENORCH_URL is not set; set it to the daemon's URL, for example http://127.0.0.1:58231");
const selfUrl = process.env.SELF_URL ?? "http://127.0.0.1:9311";

const token = await signIn(new UserSvcApi(new Configuration({ basePath })), credential());
const configuration = new Configuration({ basePath, apiKey: `Bearer ${token}` });
await new RegistrySvcApi(configuration).registerInstance({ body: { url: selfUrl } });

createServer((request, response) => {
  const known = request.url === "/skeleton-svc/hello";
  response.writeHead(known ? 200 : 404, { "Content-Type": "application/json" });
  response.end(known ? '{"hello": "world"}' : '{"error": "not found; this service has only /skeleton-svc/hello"}');
}).listen(Number(new URL(selfUrl).port || 80), new URL(selfUrl).hostname, () => console.log(`listening on ${selfUrl}`));

// The password is generated once, and stored before it is sent to the server.
function credential(): { slug: string; password: string } {
  const directory = process.env.SKELETON_DATA ?? join(homedir(), ".openorch", "skeleton-svc");
  const path = join(directory, "credential.json");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const fresh = { slug: "skeleton-svc", password: `cred_${randomBytes(24).toString("base64url")}` };
  const whole = `${path}.${process.pid}`;
  writeFileSync(whole, JSON.stringify(fresh), { mode: 0o600 });
  try {
    linkSync(whole, path); // Never overwrites an existing one: if two copies start at the same time, one wins.
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    rmSync(whole);
  }
  return JSON.parse(readFileSync(path, "utf8"));
}

async function signIn(users: UserSvcApi, credential: { slug: string; password: string }): Promise<string> {
  try {
    return (await users.login({ body: credential })).token!.token!;
  } catch (error) {
    const text = error instanceof ResponseError ? await error.response.text() : "";
    if (!text.includes("Slug not found")) throw new Error(`cannot sign in: ${text || error}`, { cause: error });
  }
  return (await users.register({ body: { ...credential, name: "Skeleton Svc" } })).token!.token!;
}
