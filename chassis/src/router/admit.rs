//! Authentication and authorization of a call (decision "Refusals", decision "Delegated tokens"), and the rate limit on
//! the writes of an account.

use openorch_api::{Access, Effect, Exempt, Operation, PermissionRequirement, error as codes};
use tracing::Span;

use super::{Inner, origin::CallOrigin};
use crate::{Caller, Credential, Error, Result, audit::CallAudit, rate_limit::Rate, service::Authorization};

impl Inner {
    /// Authenticates the caller and checks the operation's permission. On the `first` check of a call the rate limit on
    /// writes applies: a refused call is a write too, in the audit log.
    pub(super) async fn authorize(
        &self,
        row: &Operation,
        origin: &CallOrigin,
        audit: &CallAudit,
        first: bool,
    ) -> Result<(Option<Caller>, Authorization)> {
        if let Access::Public = row.access {
            return Ok((None, Authorization::Allowed));
        }
        let token = origin.token.as_deref().ok_or_else(|| {
            Error::new(
                &codes::access::NO_TOKEN,
                "Unauthorized: send the token of a sign-in as `Authorization: Bearer …`",
            )
        })?;
        let caller = self.identity.authenticate(token).await?;
        audit.set_caller(&caller, || self.identity.session_guards(&caller));
        if first {
            Span::current().record("caller", &*caller.slug);
            if let Some(notes) = &origin.call_info {
                // Set once.
                let _ = notes.caller.set(caller.slug.clone());
            }
        }
        if let (Some(audience), false) = (&caller.audience, row.delegated)
            && !self.identity.delegation_allows(audience, row.id)
        {
            let remedy = match row.returns_token() {
                true => "its answer has a token, which only the caller may have",
                false => "an admin can allow it for the service with a delegation",
            };
            return Err(Error::new(
                &codes::access::NOT_DELEGATED,
                format!("`{}` cannot be called with a delegated token of the service `{audience}`; {remedy}", row.id),
            ));
        }
        if first && (row.effect() == Effect::Write || row.audited) {
            self.check_write_rate(row, &caller)?;
        }
        let authorization = match row.access {
            Access::Public | Access::SignedIn => Authorization::Allowed,
            Access::Needs(guard) => self.check_permission(&guard, &caller)?,
        };
        if let (Access::Needs(guard), Authorization::Allowed, true) = (row.access, authorization, row.audited)
            && !guard.exempt_slugs.contains(&&*caller.slug)
        {
            audit.require_permission_guards(self.identity.permission_guards(&caller, guard.permission.id));
        }
        Ok((Some(caller), authorization))
    }

    /// Applies the rate limit on calls that write, which bounds what one account adds to the store and the audit log.
    pub(super) fn check_write_rate(&self, row: &Operation, caller: &Caller) -> Result<()> {
        let is_built_in = openorch_api::SERVICES.iter().any(|service| *service.slug == *caller.slug);
        if row.ends_sessions || caller.is_admin() || is_built_in {
            return Ok(());
        }
        // Calls of a service with the account's delegated tokens have a limit of their own.
        let writer = match &caller.audience {
            None => caller.user_id.to_string(),
            Some(service) => format!("{} {service}", caller.user_id),
        };
        self.write_limiter.try_acquire(writer.as_str(), self.audit.now().as_microsecond()).map_err(|wait| {
            let (Rate { per_second, burst }, seconds) = (self.write_limiter.rate(), wait.as_secs() as i64 + 1);
            Error::new(&codes::access::TOO_MANY_WRITES, format!(
                "the account `{}` exceeds the limit of {per_second} writing calls per second with bursts of {burst}; try \
                 again in {seconds} s (an operator can raise OPENORCH_API_MAX_WRITES_PER_ACCOUNT)",
                caller.slug
            ))
            .with_retry_after(seconds)
        })
    }

    /// The credential of an authorized call.
    pub(super) fn credential(&self, row: &Operation, caller: &Caller) -> Credential {
        let session_id = caller.session_id.clone();
        match row.access {
            Access::Needs(guard) if self.identity.allows(caller, guard.permission.id) => {
                Credential::Permission { session_id, permission: guard.permission.id }
            }
            _ => Credential::Session(session_id),
        }
    }

    fn check_permission(&self, guard: &PermissionRequirement, caller: &Caller) -> Result<Authorization> {
        if guard.exempt_slugs.contains(&&*caller.slug) || self.identity.allows(caller, guard.permission.id) {
            return Ok(Authorization::Allowed);
        }
        if guard.exempt != Exempt::None {
            return Ok(Authorization::OwnerOnly);
        }
        Err(Error::new(
            &codes::access::PERMISSION_MISSING,
            format!(
                "the account `{}` lacks the permission `{}`; an admin can give it",
                caller.slug, guard.permission.id
            ),
        ))
    }
}
