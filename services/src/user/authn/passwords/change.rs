//! Password changes: the operation, and the end of the account's other sessions.

use openorch_api::{
    Body, Json,
    user::{ChangePasswordRequest, Empty, errors},
};
use openorch_chassis::{Cx, Error, Result, audit::CallAudit, service::retry};
use openorch_store::{Batch, Stored};

use crate::user::{
    authn::{
        passwords::{check::PasswordAttempt, default_password::DEFAULT_ADMIN_PASSWORD, queue::Purpose},
        rows::SessionRow,
        sessions::live::UNKNOWN_DEVICE,
        state::Authn,
    },
    shared::accounts::ADMIN_SLUG,
};

pub async fn change_password(cx: Cx<Authn>, Body(request): Body<ChangePasswordRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    if request.slug.as_deref().is_some_and(|slug| !slug.is_empty() && slug != &*caller.slug) {
        return Err(Error::new(
            &errors::PASSWORD_OF_ANOTHER,
            format!("`{}` may change its own password only; an admin can reset that of another account", caller.slug),
        ));
    }
    let (current, new) = (request.current_password, request.new_password);
    cx.passwords.check_new_password(&new, cx.request.is_local)?;
    let incorrect = || Error::new(&errors::CURRENT_PASSWORD_WRONG, "current password is incorrect");
    let guess = PasswordAttempt {
        password: &current,
        throttle_key: &caller.user_id,
        user_id: &caller.user_id,
        address: cx.request.counted_address(),
        is_signed_in: true,
    };
    let stored = cx.passwords.check_password(&guess).await?.ok_or_else(incorrect)?.row.value;
    let is_default = *caller.slug == *ADMIN_SLUG && new == DEFAULT_ADMIN_PASSWORD;
    let row = cx.passwords.hash_password(&new, is_default, Purpose::KnownSignIn, cx.request.counted_address()).await?;
    retry(|| async {
        // A concurrent sign-in may have updated the row.
        let now = cx.passwords.rows.get(&caller.user_id).await?.filter(|now| now.value.hash == stored.hash);
        let changed =
            || Error::new(&errors::PASSWORD_CHANGED_MEANWHILE, "the password was just changed by another request");
        let version = now.ok_or_else(changed)?.version;
        // The caller's own session stays, unless it is shared by programs without a device, or was exchanged from a
        // session that ends.
        let own = cx.sessions.rows.get(&caller.session_id).await?;
        let keep = own.filter(|own| own.value.device != UNKNOWN_DEVICE && own.value.exchanged_from.is_none());
        let batch = Batch::new().with(cx.passwords.rows.replace(&*caller.user_id, &row, Some(version))?);
        cx.end_with_password(&cx.request.audit, (&caller.user_id, &caller.slug), keep, batch).await?;
        Ok(Json(Empty {}))
    })
    .await
}

impl Authn {
    /// Ends all sessions of an account but `keep`, in one batch with `and`, which sets the new password.
    pub async fn end_with_password(
        &self,
        call: &CallAudit,
        (user_id, slug): (&str, &str),
        keep: Option<Stored<SessionRow>>,
        and: Batch,
    ) -> Result<()> {
        let outcome = self.sessions.revoke_all_sessions(call, user_id, keep, and).await;
        if slug == ADMIN_SLUG {
            self.passwords.default_password.changed(user_id, &self.passwords.rows).await;
        }
        outcome
    }
}
