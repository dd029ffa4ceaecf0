//! What an account says of itself: its name, labels and picture, and what it is told of itself.

use std::collections::BTreeMap;

use openorch_api::{
    Body, Json,
    error::access,
    input::check_name,
    user::{Empty, ReadSelfRequest, ReadSelfResponse, ReadUserByTokenResponse, SaveSelfRequest},
};
use openorch_chassis::{Cx, Error, Result, service::retry};
use openorch_store::{Batch, Filter, Stored};

use crate::user::{
    directory::state::Directory,
    shared::{
        checks::{check_count, check_text},
        rows::{UserRow, search_prefixes},
    },
};

const MAX_NAME_BYTES: usize = 256;
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 256;

pub async fn read_by_token(cx: Cx<Directory>, (): ()) -> Result<Json<ReadUserByTokenResponse>> {
    let caller = cx.caller()?;
    let account = cx.authz.known_account(&caller.user_id).await?;
    let (organizations, active_organization_id) = cx.organizations_of(&account, &caller.app).await?;
    Ok(Json(ReadUserByTokenResponse { user: account.profile.clone(), organizations, active_organization_id }))
}

pub async fn read_self(cx: Cx<Directory>, Body(request): Body<ReadSelfRequest>) -> Result<Json<ReadSelfResponse>> {
    let caller = cx.caller()?;
    let account = cx.authz.known_account(&caller.user_id).await?;
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
    let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token is gone");
    cx.save_profile(&cx.caller()?.user_id, Profile::checked(request)?, gone).await
}

/// What of a profile is to change.
pub struct Profile(SaveSelfRequest);

impl Profile {
    pub fn checked(request: SaveSelfRequest) -> Result<Profile> {
        let name = request.name.map(checked_name).transpose()?;
        for (label, value) in request.labels.iter().flatten() {
            check_name("the name of a label", label, MAX_LABEL_BYTES).map_err(|e| Error::invalid(e.0))?;
            check_text("the value of a label", value, MAX_LABEL_BYTES)?;
        }
        check_count("labels", request.labels.as_ref().map_or(0, BTreeMap::len), MAX_LABELS)?;
        check_text("thumbnailFileId", request.thumbnail_file_id.as_deref().unwrap_or_default(), MAX_LABEL_BYTES)?;
        Ok(Profile(SaveSelfRequest { name, ..request }))
    }

    pub fn apply(&self, user: &mut UserRow) {
        let SaveSelfRequest { name, labels, thumbnail_file_id } = self.0.clone();
        user.name = name.unwrap_or(std::mem::take(&mut user.name));
        user.search_prefixes = search_prefixes(&user.slug, &user.name);
        user.labels = labels.unwrap_or(std::mem::take(&mut user.labels));
        user.thumbnail_file_id = thumbnail_file_id.unwrap_or(std::mem::take(&mut user.thumbnail_file_id));
    }
}

impl Directory {
    pub async fn save_profile(&self, user_id: &str, profile: Profile, gone: impl Fn() -> Error) -> Result<Json<Empty>> {
        retry(|| async {
            let Stored { version, value: mut user, .. } = self.accounts.users.get(user_id).await?.ok_or_else(&gone)?;
            profile.apply(&mut user);
            user.updated_at = self.now();
            let batch = Batch::new().with(self.accounts.users.replace(&user.id, &user, Some(version))?);
            self.commits.commit(batch, || self.authz.cache.profile_changed(user_id)).await?;
            Ok(Json(Empty {}))
        })
        .await
    }
}

pub fn checked_name(name: String) -> Result<String> {
    if !name.is_empty() {
        check_name("name", &name, MAX_NAME_BYTES).map_err(|e| Error::invalid(e.0))?;
    }
    Ok(name)
}
