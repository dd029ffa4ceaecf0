//! Invitations (decision "Invitations"): codes that permit registration while it is not open.

use openorch_api::{
    Body, Json, Path, Query, Time,
    query::PageRequest,
    role,
    user::{
        CreateInvitationRequest, CreateInvitationResponse, Empty, Invitation, InvitationId, ListInvitationsResponse,
        USER_CREATE, errors,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result, ids::random_text, service::retry};
use openorch_store::{Batch, Filter, Guard, Query as Asked, Stored};
use sha2::{Digest, Sha256};

use crate::{
    query::{Paging, cursor_by_id},
    user::{
        authz::{
            guards::{assigner_guards, assignment_guard},
            roles::assignable::check_initial_roles,
            rules::usage,
        },
        directory::{
            rows::{INVITATIONS, InvitationRow},
            state::Directory,
        },
        shared::settings::Registration,
    },
};

const DEFAULT_LIFETIME_SECONDS: u64 = 7 * 24 * 3600;
/// Limit for accounts other than admins.
const MAX_INVITATIONS: u64 = 1000;
/// About 142 bits, so a code cannot be guessed.
const CODE_LENGTH: usize = 24;

pub async fn create(
    cx: Cx<Directory>,
    Body(request): Body<CreateInvitationRequest>,
) -> Result<Json<CreateInvitationResponse>> {
    if cx.registration == Registration::Closed {
        return Err(Error::new(
            &errors::INVITATIONS_CLOSED,
            "registration is closed, so invitations cannot be redeemed: have an operator start the daemon with \
             OPENORCH_REGISTRATION=invite; or create the account yourself with POST /user-svc/user",
        ));
    }
    let seconds = request.expires_in.unwrap_or(DEFAULT_LIFETIME_SECONDS);
    let uses = request.uses.unwrap_or(1);
    let mut role_ids = request.role_ids.unwrap_or_else(|| vec![role::USER.to_owned()]);
    role_ids.sort();
    role_ids.dedup();
    for id in &role_ids {
        if !cx.authz.rules().roles.contains_key(id.as_str()) {
            return Err(Error::invalid(format!("there is no role `{id}`")));
        }
    }
    let caller = cx.caller()?;
    check_initial_roles(caller, &role_ids, &caller.app)?;
    let now = cx.now();
    let expires_at = now.0.checked_add(jiff::SignedDuration::from_secs(seconds as i64)).map_err(Error::internal)?;
    let code = random_text(CODE_LENGTH);
    let row = InvitationRow {
        id: cx.platform.ids.random("invi"),
        code_hash: hash(&code),
        app: caller.app.to_string(),
        created_at: now,
        expires_at: Time(expires_at),
        uses_left: uses,
        role_ids,
        created_by: caller.slug.to_string(),
        created_by_id: caller.user_id.to_string(),
    };
    retry(|| async {
        let mut batch: Batch =
            cx.authz.require_app(&row.app)?.into_iter().chain([cx.invitations.create(&row.id, &row)?]).collect();
        if usage::is_limited(caller) {
            let own = vec![Filter::equals("createdById", &*caller.user_id)];
            if cx.invitations.count(&own).await? >= MAX_INVITATIONS {
                return Err(Error::new(
                    &errors::QUOTA_REACHED,
                    format!("an account may have {MAX_INVITATIONS} invitations, including expired ones; revoke some"),
                ));
            }
            batch = batch.require(Guard::at_most(INVITATIONS.name, own, MAX_INVITATIONS));
        }
        Ok(cx.platform.commit(&cx.request.audit, batch).await?)
    })
    .await?;
    Ok(Json(CreateInvitationResponse { invitation: Invitation { code, ..row.into() } }))
}

/// Lists the invitations to the caller's app; for admins, to all apps.
pub async fn list(cx: Cx<Directory>, Query(request): Query<PageRequest>) -> Result<Json<ListInvitationsResponse>> {
    let caller = cx.caller()?;
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let all = Asked::all();
    let mut query = if caller.is_admin() { all } else { all.equals("app", &*caller.app) };
    query = query.limit(paging.limit as u64 + u64::from(!paging.is_page));
    query.after = cursor_by_id(paging.after.clone())?;
    let page = cx.invitations.page(&query).await?;
    paging.check_length(page.items.len(), "invitations", "name a `limit`")?;
    let next = page.next.as_ref().map(crate::query::to_wire).unwrap_or_default();
    Ok(Json(ListInvitationsResponse {
        invitations: page.items.into_iter().map(|row| row.value.into()).collect(),
        next,
    }))
}

pub async fn revoke(cx: Cx<Directory>, Path(id): Path<InvitationId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let unknown = || Error::new(&errors::NO_SUCH_INVITATION, format!("there is no invitation `{}`", id.0));
    retry(|| async {
        let found = cx.invitations.get(&id.0).await?;
        let may_revoke = |row: &InvitationRow| caller.is_admin() || *row.app == *caller.app;
        let Stored { version, .. } = found.filter(|found| may_revoke(&found.value)).ok_or_else(unknown)?;
        cx.platform.commit(&cx.request.audit, cx.invitations.delete(&id.0, Some(version)).into()).await?;
        Ok(())
    })
    .await?;
    Ok(Json(Empty {}))
}

/// A valid invitation.
pub struct Redeemable {
    pub stored: Stored<InvitationRow>,
    /// The roles that it assigns, without deleted ones.
    pub roles: Vec<String>,
    maker: Caller,
}

impl Directory {
    /// The valid invitation to an app with this code. Its creator must still have the right to create it.
    pub async fn valid_invitation(&self, app: &str, code: &str) -> Result<Redeemable> {
        let invalid = || {
            Error::new(
                &errors::INVITATION_NOT_VALID,
                "this invitation is unknown, expired or used up, or its creator may no longer assign its roles; ask \
                 an admin for another",
            )
        };
        let found = self.invitations.find(&Asked::all().equals("codeHash", hash(code))).await?;
        let is_valid = |row: &InvitationRow| row.app == app && row.expires_at > self.now();
        let stored = found.into_iter().next().filter(|found| is_valid(&found.value)).ok_or_else(invalid)?;
        let row = &stored.value;
        let maker_id = match row.created_by_id.as_str() {
            "" => self.accounts.by_slug(&row.created_by).await?.map(|user| user.id).unwrap_or_default(),
            id => id.to_owned(),
        };
        let maker = self.authz.account(&maker_id).await?.ok_or_else(invalid)?.caller_in(app);
        let rules = self.authz.rules();
        let roles: Vec<String> =
            row.role_ids.iter().filter(|role| rules.roles.contains_key(role.as_str())).cloned().collect();
        if !self.authz.allows(&maker, USER_CREATE.id) || check_initial_roles(&maker, &roles, app).is_err() {
            return Err(invalid());
        }
        Ok(Redeemable { stored, roles, maker })
    }

    /// A batch that uses the invitation once; empty without a code.
    pub async fn redeem_invitation(&self, app: &str, code: Option<&str>) -> Result<Batch> {
        let Some(code) = code else { return Ok(Batch::new()) };
        let Redeemable { stored: Stored { version, value: mut row, .. }, maker, roles } =
            self.valid_invitation(app, code).await?;
        row.uses_left = row.uses_left.saturating_sub(1);
        let given = roles.iter().filter(|role| **role != *role::USER);
        let rights = given.filter_map(|role| assignment_guard(&maker, role, app));
        let rights = rights.chain(self.authz.rules().permission_guards(&maker, USER_CREATE.id));
        let still_gives = rights.fold(assigner_guards(&maker), Batch::require);
        Ok(still_gives.with(match row.uses_left {
            0 => self.invitations.delete(&row.id, Some(version)),
            _ => self.invitations.replace(&row.id, &row, Some(version))?,
        }))
    }
}

fn hash(code: &str) -> String {
    Sha256::digest(code).iter().map(|byte| format!("{byte:02x}")).collect()
}
