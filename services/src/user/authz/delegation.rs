//! Delegations: operations that an admin permits a service to call on behalf of its callers (decision "Delegated
//! tokens").

use openorch_api::{
    Access, Body, Json, Path,
    user::{Delegation, Empty, ListDelegationsResponse, ServiceSlug, errors},
};
use openorch_chassis::{Cx, Error, Result};
use openorch_store::Batch;

use crate::user::{
    authz::{rules::Change, state::Authz},
    shared::quote::quote,
};

pub async fn save(cx: Cx<Authz>, Body(mut row): Body<Delegation>) -> Result<Json<Empty>> {
    for id in &row.operations {
        let found = openorch_api::operations().find(|operation| operation.id == id);
        let Some(operation) = found else {
            return Err(Error::invalid(format!("there is no operation `{}`; /docs lists them", quote(id))));
        };
        if matches!(operation.access, Access::Public) {
            return Err(Error::invalid(format!("`{id}` is already public")));
        }
        // A service may act for its callers during their calls, but must not obtain their tokens.
        if operation.returns_token() {
            return Err(Error::invalid(format!(
                "`{id}` returns a session token, which only the caller may have: it cannot be delegated to a service"
            )));
        }
    }
    for names in [&mut row.operations, &mut row.services] {
        names.sort();
        names.dedup();
    }
    cx.change_rules(&cx.request.audit, |_| Ok((vec![Change::SaveDelegation(row.into())], Batch::new()))).await?;
    Ok(Json(Empty {}))
}

pub async fn list(cx: Cx<Authz>, (): ()) -> Result<Json<ListDelegationsResponse>> {
    let rules = cx.rules();
    let mut delegations: Vec<Delegation> = rules.delegations.values().map(|row| (&**row).into()).collect();
    cx.platform.check_list_length(delegations.len(), "delegations", "delete some")?;
    delegations.sort_by(|a, b| a.slug.cmp(&b.slug));
    Ok(Json(ListDelegationsResponse { delegations }))
}

pub async fn delete(cx: Cx<Authz>, Path(slug): Path<ServiceSlug>) -> Result<Json<Empty>> {
    cx.change_rules(&cx.request.audit, |rules| {
        if !rules.delegations.contains_key(slug.0.as_str()) {
            return Err(Error::new(&errors::NO_SUCH_DELEGATION, format!("`{}` has no delegation", slug.0)));
        }
        Ok((vec![Change::DeleteDelegation(slug.0.clone())], Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}
