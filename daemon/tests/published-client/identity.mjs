// Calls every operation of identity through the published JavaScript client, against the daemon at OPENORCH_URL with
// the default admin. Exits with 1 at the first response that does not match the client's types.

import assert from "node:assert/strict";
import { Configuration, ResponseError, UserSvcApi } from "@openorch/client";

const basePath = process.env.OPENORCH_URL;
const open = new UserSvcApi(new Configuration({ basePath }));
const as = (token) => new UserSvcApi(new Configuration({ basePath, apiKey: `Bearer ${token}` }));

async function refused(status, call) {
  const error = await call.then(() => assert.fail(`${status} was expected`), (error) => error);
  if (!(error instanceof ResponseError)) throw error;
  const { error: sentence } = await error.response.json();
  assert.equal(error.response.status, status, sentence);
  return sentence;
}

const registered = await open.register({ body: { slug: "shop-svc", name: "Shop", password: "pass" } });
const shop = as(registered.token.token);
const admin = as((await open.login({ body: { slug: "openorch", password: "changeme" } })).token.token);
const login = await open.login({ body: { slug: "shop-svc", password: "pass" } });
assert.equal(login.token.id, registered.token.id, "a login gives no new token");
assert.match((await open.getPublicKey()).publicKey, /BEGIN PUBLIC KEY/);
assert.match(await refused(400, open.login({ body: { slug: "nobody", password: "x" } })), /Slug not found/);
assert.match(await refused(401, open.login({ body: { slug: "shop-svc", password: "x" } })), /Invalid password/);

// Accounts.
await admin.createUser({ body: { user: { name: "Ann", slug: "ann" }, password: "pass", roleIds: ["user-svc:user"] } });
const query = { filters: [{ fields: ["slug"], op: "equals", jsonValues: JSON.stringify(["ann"]) }], count: true };
const found = await admin.getUsers({ body: { query } });
assert.equal(found.count, 1);
const [{ id: annId, createdAt }] = found.users;
assert.ok(createdAt && !Number.isNaN(Date.parse(createdAt)));
await admin.saveUser({ userId: annId, body: { name: "Ann B." } });
await admin.resetPassword({ userId: annId, body: { newPassword: "other" } });
const ann = as((await open.login({ body: { slug: "ann", password: "other" } })).token.token);
assert.equal((await ann.readUserByToken()).user.name, "Ann B.");
await ann.saveSelf({ userId: annId, body: { name: "Ann" } });
await refused(403, ann.getUsers({ body: {} }));

// Roles, permissions and grants; ids with colons are percent-encoded by the client.
await shop.savePermissions({ body: { permissions: [{ id: "shop-svc:order:view", name: "See orders" }] } });
const { role } = await shop.createRole({ body: { id: "shop-svc:clerk", name: "Clerk", permissionIds: [] } });
assert.equal(role.ownerId, registered.token.userId);
await shop.setRolePermission({ roleId: role.id, body: { permissionIds: ["shop-svc:order:view"] } });
const { permissions } = await shop.getPermissionsByRole({ roleId: role.id });
assert.deepEqual(permissions.map((permission) => permission.id), ["shop-svc:order:view"]);
await refused(401, ann.isAuthorized({ permissionId: "shop-svc:order:view", body: {} }));
await shop.assignPermissions({
  body: { permissionLinks: [{ roleId: "user-svc:user", permissionId: "shop-svc:order:view" }] },
});
const allowed = await ann.isAuthorized({ permissionId: "shop-svc:order:view", body: {} });
assert.equal(allowed.authorized, true);
assert.equal(allowed.user.passwordHash, undefined);
await admin.saveGrants({ body: { grants: [{ permissionId: "user-svc:user:view", slugs: ["ann"] }] } });
assert.equal((await admin.listGrants({ body: { slug: "ann" } })).grants.length, 1);
assert.ok((await ann.getUsers({ body: {} })).users.length > 1);
assert.equal((await admin.getRoles()).roles.length, 3);
await shop.deleteRole({ roleId: role.id });

// Organizations.
await ann.createOrganization({ body: { id: "org_1", name: "One", slug: "one" } });
await ann.addUserToOrganization({ organizationId: "org_1", body: { userId: registered.token.userId } });
assert.equal((await shop.readUserByToken()).organizations[0].slug, "one");
await ann.removeUserFromOrganization({ organizationId: "org_1", userId: registered.token.userId, body: {} });
assert.equal((await shop.readUserByToken()).organizations, undefined);

await shop.changePassword({ body: { currentPassword: "pass", newPassword: "new" } });
await open.login({ body: { slug: "shop-svc", password: "new" } });
await admin.deleteUser({ userId: annId });
await refused(401, ann.readUserByToken());
console.log("every operation of identity matches the published client");
