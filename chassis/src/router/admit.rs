//! Authentication and authorization of a call (decision "Refusals", decision "Delegated tokens"), and the rate limit on
//! the writes of an account.

use openorch_api::{Access, Effect, Exempt, Guard, Row, error as codes};
use tracing::Span;

use super::{Inner, origin::Origin};
use crate::{Caller, Credential, Error, Result, audit::CallAudit, rate::Rate, service::Verdict};

impl Inner {
    /// Authenticates the caller and checks the operation's permission. On the `first` check of a call the rate limit on
    /// writes applies: a refused call is a write too, in the audit log.
    pub(super) async fn admit(
        &self,
        row: &Row,
        origin: &Origin,
        audit: &CallAudit,
        first: bool,
    ) -> Result<(Option<Caller>, Verdict)> {
        if let Access::Public = row.access {
            return Ok((None, Verdict::Allowed));
        }
        let token = origin.token.as_deref().ok_or_else(|| {
            Error::new(
                &codes::access::NO_TOKEN,
                "Unauthorized: send the token of a sign-in as `Authorization: Bearer …`",
            )
        })?;
        let caller = self.identity.authenticate(token).await?;
        audit.tell_caller(&caller, || self.identity.standing(&caller));
        if first {
            Span::current().record("caller", &*caller.slug);
            if let Some(notes) = &origin.notes {
                // Set once.
                let _ = notes.caller.set(caller.slug.clone());
            }
        }
        if let (Some(audience), false) = (&caller.audience, row.delegated)
            && !self.identity.opens(audience, row.id)
        {
            let way_out = match row.answers_token() {
                true => "its answer has a token, which only the caller may have",
                false => "an admin can allow it for the service with a delegation",
            };
            return Err(Error::new(
                &codes::access::NOT_DELEGATED,
                format!("`{}` cannot be called with a delegated token of the service `{audience}`; {way_out}", row.id),
            ));
        }
        if first && (row.effect() == Effect::Write || row.audited) {
            self.count_write(row, &caller)?;
        }
        let verdict = match row.access {
            Access::Public | Access::SignedIn => Verdict::Allowed,
            Access::Needs(guard) => self.decide(&guard, &caller)?,
        };
        if let (Access::Needs(guard), Verdict::Allowed, true) = (row.access, verdict, row.audited)
            && !guard.also_slugs.contains(&&*caller.slug)
        {
            audit.require_right(self.identity.basis(&caller, guard.permission.id));
        }
        Ok((Some(caller), verdict))
    }

    /// Applies the rate limit on calls that write, which bounds what one account adds to the store and the audit log.
    pub(super) fn count_write(&self, row: &Row, caller: &Caller) -> Result<()> {
        let is_built_in = openorch_api::SERVICES.iter().any(|service| *service.slug == *caller.slug);
        if row.ends_sessions || caller.is_admin() || is_built_in {
            return Ok(());
        }
        // Calls of a service with the account's delegated tokens have a limit of their own.
        let writer = match &caller.audience {
            None => caller.user_id.to_string(),
            Some(service) => format!("{} {service}", caller.user_id),
        };
        self.writes.take(writer.as_str(), self.audit.now().as_microsecond()).map_err(|wait| {
            let (Rate { per_second, burst }, seconds) = (self.writes.rate(), wait.as_secs() as i64 + 1);
            Error::new(&codes::access::TOO_MANY_WRITES, format!(
                "the account `{}` exceeds the limit of {per_second} writing calls per second with bursts of {burst}; try \
                 again in {seconds} s (an operator can raise OPENORCH_API_MAX_WRITES_PER_ACCOUNT)",
                caller.slug
            ))
            .after(seconds)
        })
    }

    /// The credential of an authorized call.
    pub(super) fn credential(&self, row: &Row, caller: &Caller) -> Credential {
        let session_id = caller.session_id.clone();
        match row.access {
            Access::Needs(guard) if self.identity.allows(caller, guard.permission.id) => {
                Credential::Permission { session_id, permission: guard.permission.id }
            }
            _ => Credential::Session(session_id),
        }
    }

    fn decide(&self, guard: &Guard, caller: &Caller) -> Result<Verdict> {
        if guard.also_slugs.contains(&&*caller.slug) || self.identity.allows(caller, guard.permission.id) {
            return Ok(Verdict::Allowed);
        }
        if guard.exempt != Exempt::Nobody {
            return Ok(Verdict::IfOwner);
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
