//! The user service: accounts of people and services, authentication and authorization. The data that requests need is
//! cached in memory and loaded from the store on first use.
//!
//! Imports go one way, `directory` → `authn` → `authz` → `shared`, and files do not import each other in cycles. Each
//! directory has a `state.rs` with the state of its handlers and a `rows.rs` with its stored rows; `state.rs`,
//! `seed.rs` and this file combine the parts. `daemon/tests/it/tidy/mod.rs` enforces this.

mod audit;
mod authn;
mod authz;
mod clock_grace;
mod directory;
mod migrations;
#[cfg(test)]
mod plan_tests;
mod seed;
mod shared;
mod state;
#[cfg(test)]
mod store_tests;

use std::{sync::Arc, time::Duration};

use openorch_api::{Body, Path, Query, user as api};
use openorch_chassis::{BuiltService, ServiceBuilder};
use openorch_store::Collection;

pub use self::{
    authn::passwords::{check::PasswordCounts, rules::PasswordRules},
    clock_grace::stored as stored_clock_grace,
    seed::{Seeded, open, reset_admin_password, seed},
    shared::{
        accounts::ADMIN_SLUG,
        rows::USERS as ACCOUNTS,
        settings::{AuditSettings, Registration, UserSettings},
        start_error::StartError,
    },
    state::Users,
};
use self::{
    authn::{
        otp::{codes, send},
        passwords::change,
        sessions::{live, revoke},
        sign_in,
        tokens::keys,
    },
    authz::{
        check, delegation, grant, permission,
        roles::{enroll, role},
    },
    directory::{app, contact, invitation, organization, profile, registration, users},
};

/// The collections of this service, to be opened before [`seed`].
pub fn collections() -> &'static [&'static Collection] {
    COLLECTIONS
}

static COLLECTIONS: &[&Collection] = &[
    &shared::rows::USERS,
    &shared::rows::CONTACTS,
    &authn::rows::OTPS,
    &authz::rows::CONTACT_ENROLLS,
    &shared::rows::TOMBSTONES,
    &directory::rows::ORGANIZATIONS,
    &authn::rows::PASSWORDS,
    &authn::rows::SESSIONS,
    &authn::rows::KNOWN_ADDRESSES,
    &shared::rows::MIGRATIONS,
    &shared::rows::CLOCK_GRACE,
    &authz::rows::ROLES,
    &authz::rows::ROLE_LINKS,
    &authz::rows::PERMISSIONS,
    &authz::rows::PERMISSION_LINKS,
    &authz::rows::GRANTS,
    &authz::rows::DELEGATIONS,
    &directory::rows::INVITATIONS,
    &authz::rows::APPS,
    &authn::rows::KEY_PAIRS,
    &openorch_chassis::audit::ENTRIES,
];

/// The operations, each bound to its handler with the state of its part.
pub fn service(users: Arc<Users>) -> BuiltService {
    let (authz, authn, directory) = (users.authz.clone(), users.authn.clone(), users.directory.clone());
    let (audit, clock_grace) = (users.audit.clone(), users.clock_grace.clone());
    let (codes, sessions, tokens) = (authn.codes.clone(), authn.sessions.clone(), authn.tokens.clone());
    ServiceBuilder::new(api::SERVICE.slug, users)
        .every(Duration::from_secs(1), "reconcile rules, keys and accounts", Users::reconcile)
        .with_state(clock_grace)
        .every(Duration::from_secs(1), "watch the clock", clock_grace::watch)
        .with_state(authn)
        .on(api::LOGIN, sign_in::login)
        .on(api::EXCHANGE_TOKEN, sign_in::exchange)
        .on(api::REFRESH_TOKEN, sign_in::refresh)
        .on(api::SEND_OTP, send::send)
        .on(api::SEND_OWN_OTP, send::send_to_caller)
        .on(api::CHANGE_PASSWORD, change::change_password)
        .on_owned(
            api::REVOKE_TOKENS,
            |cx, Body(request)| cx.account_or_caller(request.user_id.as_deref()),
            revoke::revoke_tokens,
        )
        .on_owned(
            api::LIST_SESSIONS,
            |cx, Query(request)| cx.account_or_caller(request.user_id.as_deref()),
            revoke::list,
        )
        .on_owned_in_store(api::REVOKE_SESSION, |cx, Path(id)| Box::pin(revoke::owner(cx, id)), revoke::revoke)
        .with_state(sessions)
        .every(Duration::from_secs(60), "store the last use of sessions", live::flush_last_used)
        .with_state(codes)
        .every(Duration::from_secs(600), "remove expired codes", codes::OtpCodes::remove_expired)
        .with_state(tokens)
        .on(api::GET_PUBLIC_KEY, keys::public_key)
        .on(api::GET_KEY_SET, keys::key_set)
        .on(api::ROTATE_KEY, keys::rotate_key)
        .with_state(authz)
        .on(api::IS_AUTHORIZED, check::is_authorized)
        .on(api::GET_ROLES, role::list)
        .on(api::CREATE_ROLE, role::create)
        .on_owned(api::DELETE_ROLE, |authz, Path(id)| role::owner(authz, id), role::delete)
        .on_owned(api::GET_PERMISSIONS_BY_ROLE, |authz, (Path(id), _)| role::owner(authz, id), role::permissions)
        .on_owned(api::SET_ROLE_PERMISSIONS, |authz, (Path(id), _)| role::owner(authz, id), role::set_permissions)
        .on(api::SAVE_PERMISSIONS, permission::save)
        .on(api::LIST_PERMISSIONS, role::list_permissions)
        .on_owned(api::DELETE_PERMISSION, |authz, Path(id)| permission::owner(authz, id), permission::delete)
        .on(api::ASSIGN_PERMISSIONS, permission::assign)
        .on(api::SAVE_GRANTS, grant::save)
        .on(api::LIST_GRANTS, grant::list)
        .on_owned(api::DELETE_GRANT, |cx, Path(id)| grant::owner(cx, id), grant::delete)
        .on_condition(api::SAVE_PERMITS, grant::may_save_permits, grant::save_permits)
        .on(api::LIST_PERMITS, grant::list_permits)
        .on_condition(api::SAVE_ENROLLS, enroll::may_save, enroll::save)
        .on_condition(api::LIST_ENROLLS, enroll::may_list, enroll::list)
        .on_condition(api::DELETE_ENROLL, enroll::may_delete, enroll::delete)
        .on(api::SAVE_DELEGATION, delegation::save)
        .on(api::LIST_DELEGATIONS, delegation::list)
        .on(api::DELETE_DELEGATION, delegation::delete)
        .on(api::HAS_PERMISSION, check::has)
        .with_state(directory)
        .on(api::REGISTER, registration::register)
        .on_condition(api::LIST_APPS, app::may_list, app::list)
        .on(api::READ_APP, app::read)
        .on(api::UPDATE_APP, app::update)
        .on(api::DELETE_APP, app::delete)
        .on(api::READ_USER_BY_TOKEN, profile::read_by_token)
        .on(api::READ_SELF, profile::read_self)
        .on(api::SAVE_SELF, profile::save_self)
        .on(api::VERIFY_CONTACT, contact::verify)
        .on(api::REMOVE_CONTACT, contact::remove)
        .on(api::GET_USERS, users::list)
        .on(api::CREATE_USER, users::create)
        .on(api::SAVE_USER, users::save)
        .on(api::DELETE_USER, users::delete)
        .on(api::RELEASE_SLUG, users::release_slug)
        .on(api::RESET_PASSWORD, users::reset_password)
        .on(api::CREATE_ORGANIZATION, organization::create)
        .on(api::SAVE_ORGANIZATION, organization::save)
        .on(api::LIST_ORGANIZATIONS, organization::list)
        .on_condition_in_store(
            api::DELETE_ORGANIZATION,
            |cx, Path(id)| Box::pin(organization::require_admin_of(cx, id)),
            organization::delete,
        )
        .on(api::RELEASE_ORGANIZATION_ID, organization::release_id)
        .on_condition_in_store(
            api::LIST_MEMBERS,
            |cx, (Path(id), _)| Box::pin(organization::require_member_of(cx, id)),
            organization::members,
        )
        .on_condition_in_store(
            api::ADD_USER_TO_ORGANIZATION,
            |cx, (Path(id), _)| Box::pin(organization::require_admin_of(cx, id)),
            organization::add_user,
        )
        .on_condition_in_store(
            api::SAVE_MEMBERSHIP,
            |cx, (Path(id), ..)| Box::pin(organization::require_admin_of(cx, id)),
            organization::save_membership,
        )
        .on_condition_in_store(
            api::REMOVE_USER_FROM_ORGANIZATION,
            |cx, (Path(id), Path(user_id))| Box::pin(organization::require_admin_or_self(cx, id, user_id)),
            organization::remove_user,
        )
        .on(api::CREATE_INVITATION, invitation::create)
        .on(api::LIST_INVITATIONS, invitation::list)
        .on(api::REVOKE_INVITATION, invitation::revoke)
        .with_state(audit)
        .on(api::LIST_AUDIT, audit::list)
        .every(Duration::from_secs(1), "write aggregated refusals to the audit log", audit::write_aggregated)
        .every(Duration::from_secs(3600), "remove old entries of the audit log", audit::remove_old)
        .build()
}
