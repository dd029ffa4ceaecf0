//! What a token says of its roles and its app.

use std::collections::HashMap;

use crate::user::{authz::roles::organization::organization_of, shared::rows::DEFAULT_APP};

/// Room for roles in a token, so that it stays under 4 KiB.
const MAX_ROLES_BYTES: usize = 2200;

/// The roles that a token names: a token is sent with each request, so one with very many roles names those that fit. The
/// built-in ones first, those of the service that it is for, and those that an admin gave; of the rest, which anybody may
/// have given, one of each slug and of each organization in turn, the short ones first: nobody crowds out what others gave.
/// The daemon looks roles up by session; a service can ask it.
pub fn told<'a>(roles: impl Iterator<Item = &'a str>, trusted: &[Box<str>], audience: Option<&str>) -> Vec<String> {
    let mut roles: Vec<&str> = roles.collect();
    roles.sort_by_key(|role| (role.len(), *role));
    let is_trusted = |role: &str| trusted.binary_search_by(|known| (**known).cmp(role)).is_ok();
    let mut turns: HashMap<&str, usize> = HashMap::new();
    let mut ranked: Vec<((usize, usize), &str)> = Vec::new();
    for role in roles {
        let giver = organization_of(role).or(role.split_once(':').map(|(slug, _)| slug)).unwrap_or(role);
        let rank = match role {
            _ if [openorch_api::role::ADMIN, openorch_api::role::USER].contains(&role) => (0, 0),
            _ if audience == Some(giver) => (1, 0),
            _ if is_trusted(role) => (2, 0),
            _ => {
                let turn = turns.entry(giver).or_default();
                *turn += 1;
                (3, *turn)
            }
        };
        ranked.push((rank, role));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut room = MAX_ROLES_BYTES;
    let fits = |role: &&str| {
        let fits = role.len() + 3 <= room;
        room -= if fits { role.len() + 3 } else { 0 };
        fits
    };
    let mut told: Vec<String> = ranked.into_iter().map(|(_, role)| role).filter(fits).map(str::to_owned).collect();
    told.sort();
    told
}

/// The app as a token tells it: programs that know no apps never see one.
pub fn told_app(app: &str) -> Option<String> {
    (app != DEFAULT_APP).then(|| app.to_owned())
}
