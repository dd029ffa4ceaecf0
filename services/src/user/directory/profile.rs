//! The account's own profile: name, labels and picture.

use openorch_api::{
    Body, Json,
    error::access,
    user::{Empty, ReadSelfRequest, ReadSelfResponse, ReadUserByTokenResponse, SaveSelfRequest},
};
use openorch_chassis::{Cx, Error, Result, audit::CallAudit, service::retry};
use openorch_store::{Batch, Filter, Stored};

use crate::user::{
    directory::state::Directory,
    shared::rows::{UserRow, search_prefixes},
};

pub async fn read_by_token(cx: Cx<Directory>, (): ()) -> Result<Json<ReadUserByTokenResponse>> {
    let caller = cx.caller()?;
    let account = cx.authz.require_account(&caller.user_id).await?;
    let (organizations, active_organization_id) = cx.organizations_of(&account, &caller.app).await?;
    Ok(Json(ReadUserByTokenResponse { user: account.profile.clone(), organizations, active_organization_id }))
}

pub async fn read_self(cx: Cx<Directory>, Body(request): Body<ReadSelfRequest>) -> Result<Json<ReadSelfResponse>> {
    let caller = cx.caller()?;
    let account = cx.authz.require_account(&caller.user_id).await?;
    let (organizations, active_organization_id) = cx.organizations_of(&account, &caller.app).await?;
    let token_count = match request.count_tokens {
        true => cx.authn.sessions.rows.count(&[Filter::equals("userId", &*caller.user_id)]).await?,
        false => 0,
    };
    Ok(Json(ReadSelfResponse {
        roles: caller.roles.iter().map(|role| role.to_string()).collect(),
        contacts: account.profile.contacts.clone(),
        active_organization_id,
        user: account.profile.clone(),
        organizations,
        token_count,
    }))
}

pub async fn save_self(cx: Cx<Directory>, Body(request): Body<SaveSelfRequest>) -> Result<Json<Empty>> {
    let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token was deleted");
    cx.save_profile(&cx.request.audit, &cx.caller()?.user_id, ProfileChange(request), gone).await
}

/// Changes of a profile.
pub struct ProfileChange(pub SaveSelfRequest);

impl ProfileChange {
    pub fn apply(&self, user: &mut UserRow) {
        let SaveSelfRequest { name, labels, thumbnail_file_id } = self.0.clone();
        user.name = name.unwrap_or(std::mem::take(&mut user.name));
        user.search_prefixes = search_prefixes(&user.slug, &user.name);
        user.labels = labels.unwrap_or(std::mem::take(&mut user.labels));
        user.thumbnail_file_id = thumbnail_file_id.unwrap_or(std::mem::take(&mut user.thumbnail_file_id));
    }
}

impl Directory {
    pub async fn save_profile(
        &self,
        call: &CallAudit,
        user_id: &str,
        profile: ProfileChange,
        not_found: impl Fn() -> Error,
    ) -> Result<Json<Empty>> {
        retry(|| async {
            let Stored { version, value: mut user, .. } =
                self.accounts.users.get(user_id).await?.ok_or_else(&not_found)?;
            profile.apply(&mut user);
            user.updated_at = self.now();
            let batch = Batch::new().with(self.accounts.users.replace(&user.id, &user, Some(version))?);
            self.commits.commit(call, batch, || self.authz.cache.profile_changed(user_id)).await?;
            Ok(Json(Empty {}))
        })
        .await
    }
}
