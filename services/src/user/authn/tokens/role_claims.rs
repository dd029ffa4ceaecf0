//! The role and app claims of a token.

use std::collections::HashMap;

use crate::user::{authz::roles::organization::organization_of, shared::rows::DEFAULT_APP};

/// Maximum size of the roles in a token, so that it stays below 4 KiB.
const MAX_ROLES_BYTES: usize = 2200;

/// The roles in a token. Tokens are sent with each request, so one with very many roles names only those that fit.
/// Built-in roles come first, then those of the audience and those assigned by admins. The others, which any account
/// may have assigned, are taken in turns by slug and organization, shortest first, so that no assigner crowds out the
/// others. The daemon checks roles by session, and services can query them.
pub fn role_claims<'a>(
    roles: impl Iterator<Item = &'a str>,
    trusted: &[Box<str>],
    audience: Option<&str>,
) -> Vec<String> {
    let mut roles: Vec<&str> = roles.collect();
    roles.sort_by_key(|role| (role.len(), *role));
    let is_trusted = |role: &str| trusted.binary_search_by(|known| (**known).cmp(role)).is_ok();
    let mut turns: HashMap<&str, usize> = HashMap::new();
    let mut ranked: Vec<((usize, usize), &str)> = Vec::new();
    for role in roles {
        let assigner = organization_of(role).or(role.split_once(':').map(|(slug, _)| slug)).unwrap_or(role);
        let rank = match role {
            _ if [openorch_api::role::ADMIN, openorch_api::role::USER].contains(&role) => (0, 0),
            _ if audience == Some(assigner) => (1, 0),
            _ if is_trusted(role) => (2, 0),
            _ => {
                let turn = turns.entry(assigner).or_default();
                *turn += 1;
                (3, *turn)
            }
        };
        ranked.push((rank, role));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut remaining_bytes = MAX_ROLES_BYTES;
    let fits = |role: &&str| {
        let fits = role.len() + 3 <= remaining_bytes;
        remaining_bytes -= if fits { role.len() + 3 } else { 0 };
        fits
    };
    let mut claims: Vec<String> = ranked.into_iter().map(|(_, role)| role).filter(fits).map(str::to_owned).collect();
    claims.sort();
    claims
}

/// The app claim; omitted for the default app, so that programs unaware of apps never see one.
pub fn app_claim(app: &str) -> Option<String> {
    (app != DEFAULT_APP).then(|| app.to_owned())
}
