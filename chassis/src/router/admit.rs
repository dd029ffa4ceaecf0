//! Who calls, and whether the row lets them (decision "Refusals", decision "Delegated tokens"); and how often one account
//! may call what writes.

use openorch_api::{Access, Effect, Exempt, Guard, Row, error as codes};
use tracing::Span;

use super::{Inner, origin::Origin};
use crate::{Caller, Credential, Error, Result, audit::CallAudit, rate::Rate, service::Verdict};

impl Inner {
    /// Who calls, and whether the row lets them. The `first` time the call is counted, since one that is refused leaves a
    /// trace as well.
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
                // Only the first time.
                let _ = notes.caller.set(caller.slug.clone());
            }
        }
        if let (Some(audience), false) = (&caller.audience, row.delegated)
            && !self.identity.opens(audience, row.id)
        {
            let way_out = match row.answers_token() {
                true => "its answer is for the caller alone",
                false => "an admin can open it to the service by a delegation",
            };
            return Err(Error::new(
                &codes::access::NOT_DELEGATED,
                format!(
                    "`{}` cannot be called with a token that was made for the service `{audience}`; {way_out}",
                    row.id
                ),
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

    /// What one account writes, in the store and in the audit log, is bounded by how often it may.
    pub(super) fn count_write(&self, row: &Row, caller: &Caller) -> Result<()> {
        let is_built_in = openorch_api::SERVICES.iter().any(|service| *service.slug == *caller.slug);
        if row.ends_sessions || caller.is_admin() || is_built_in {
            return Ok(());
        }
        // What a service does with the caller's delegated tokens is counted apart.
        let writer = match &caller.audience {
            None => caller.user_id.to_string(),
            Some(service) => format!("{} {service}", caller.user_id),
        };
        self.writes.take(writer.as_str(), self.audit.now().as_microsecond()).map_err(|wait| {
            let (Rate { per_second, burst }, seconds) = (self.writes.rate(), wait.as_secs() as i64 + 1);
            Error::new(&codes::access::TOO_MANY_WRITES, format!(
                "the account `{}` makes more than {per_second} calls a second that write, after {burst} at once; try again \
                 in {seconds} s (an operator can raise OPENORCH_API_MAX_WRITES_PER_ACCOUNT)",
                caller.slug
            ))
            .after(seconds)
        })
    }

    /// What a call that was admitted rests on.
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
