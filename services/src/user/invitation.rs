//! Invitations (contract decision 30): codes with which accounts can be registered while registration is not open.

use openorch_api::{
    Body, Json, Path, Time, role,
    user::{
        CreateInvitationRequest, CreateInvitationResponse, Empty, Invitation, InvitationId, ListInvitationsResponse,
    },
};
use openorch_chassis::{Cx, Error, Result, ids::random_text, service::retry};
use openorch_store::{Batch, Query, Stored};
use sha2::{Digest, Sha256};

use super::{Users, rows::InvitationRow};

const DEFAULT_SECONDS: u64 = 7 * 24 * 3600;
const MAX_SECONDS: u64 = 365 * 24 * 3600;
const MAX_USES: u32 = 10_000;
const MAX_ROLES: usize = 32;
/// About 142 bits: nobody guesses one.
const CODE_LENGTH: usize = 24;

pub async fn create(
    cx: Cx<Users>,
    Body(request): Body<CreateInvitationRequest>,
) -> Result<Json<CreateInvitationResponse>> {
    let seconds = request.expires_in.unwrap_or(DEFAULT_SECONDS);
    let uses = request.uses.unwrap_or(1);
    if !(1..=MAX_SECONDS).contains(&seconds) {
        return Err(Error::invalid(format!("expiresIn is in seconds, from 1 to {MAX_SECONDS} (a year)")));
    }
    if !(1..=MAX_USES).contains(&uses) {
        return Err(Error::invalid(format!("uses is from 1 to {MAX_USES}")));
    }
    let mut role_ids = request.role_ids.unwrap_or_else(|| vec![role::USER.to_owned()]);
    role_ids.sort();
    role_ids.dedup();
    if role_ids.len() > MAX_ROLES {
        return Err(Error::invalid(format!("an invitation gives at most {MAX_ROLES} roles")));
    }
    for id in &role_ids {
        if !cx.memory.rules().roles.contains_key(id.as_str()) {
            return Err(Error::invalid(format!("there is no role `{id}`")));
        }
    }
    super::enroll::refuse_foreign_roles(cx.caller()?, &role_ids, &cx.caller()?.app)?;
    let now = cx.now();
    let expires_at = now.0.checked_add(jiff::SignedDuration::from_secs(seconds as i64)).map_err(Error::internal)?;
    let code = random_text(CODE_LENGTH);
    let row = InvitationRow {
        id: cx.shared.ids.random("invi"),
        code_hash: hash(&code),
        app: cx.caller()?.app.to_string(),
        created_at: now,
        expires_at: Time(expires_at),
        uses_left: uses,
        role_ids,
        created_by: cx.caller()?.slug.to_string(),
    };
    let batch: Batch = cx.in_app(&row.app)?.into_iter().chain([cx.invitations.create(&row.id, &row)?]).collect();
    cx.store.commit(batch).await?;
    Ok(Json(CreateInvitationResponse { invitation: Invitation { code, ..to_wire(row) } }))
}

pub async fn list(cx: Cx<Users>, (): ()) -> Result<Json<ListInvitationsResponse>> {
    let rows = cx.invitations.find(&Query::all().limit(cx.shared.list_most as u64 + 1)).await?;
    cx.shared.refuse_long_list(rows.len(), "invitations", "revoke some")?;
    Ok(Json(ListInvitationsResponse { invitations: rows.into_iter().map(|row| to_wire(row.value)).collect() }))
}

pub async fn revoke(cx: Cx<Users>, Path(id): Path<InvitationId>) -> Result<Json<Empty>> {
    let unknown = || Error::not_found(format!("there is no invitation `{}`", id.0));
    retry(|| async {
        let Stored { version, .. } = cx.invitations.get(&id.0).await?.ok_or_else(unknown)?;
        cx.store.commit(Batch::new().with(cx.invitations.delete(&id.0, Some(version)))).await?;
        Ok(())
    })
    .await?;
    Ok(Json(Empty {}))
}

impl Users {
    /// The invitation to an app with this code, if it still holds.
    pub(super) async fn invitation(&self, app: &str, code: &str) -> Result<Stored<InvitationRow>> {
        let found = self.invitations.find(&Query::all().equals("codeHash", hash(code))).await?;
        let holds = |row: &InvitationRow| row.app == app && row.expires_at > self.now();
        found.into_iter().next().filter(|found| holds(&found.value)).ok_or_else(|| {
            Error::forbidden("this invitation is not known, has ended or was used up; ask an admin for another")
        })
    }

    /// A batch that takes one use from the invitation, if there is one.
    pub(super) async fn use_invitation(&self, app: &str, code: Option<&str>) -> Result<Batch> {
        let Some(code) = code else { return Ok(Batch::new()) };
        let Stored { version, value: mut row, .. } = self.invitation(app, code).await?;
        row.uses_left = row.uses_left.saturating_sub(1);
        Ok(Batch::new().with(match row.uses_left {
            0 => self.invitations.delete(&row.id, Some(version)),
            _ => self.invitations.replace(&row.id, &row, Some(version))?,
        }))
    }
}

fn to_wire(row: InvitationRow) -> Invitation {
    Invitation {
        id: row.id,
        code: String::new(),
        created_at: row.created_at,
        expires_at: row.expires_at,
        uses_left: row.uses_left,
        role_ids: row.role_ids,
        created_by: row.created_by,
    }
}

fn hash(code: &str) -> String {
    Sha256::digest(code).iter().map(|byte| format!("{byte:02x}")).collect()
}
