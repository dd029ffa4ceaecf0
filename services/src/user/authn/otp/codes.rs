//! One-time codes: six digits sent to a contact, good for one purpose, a few tries and ten minutes.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::SignedDuration;
use moka::sync::Cache;
use openorch_api::{
    Json, Time,
    user::{SendOtpRequest, SendOtpResponse, errors},
};
use openorch_chassis::{Error, Platform, Result, ids::random_number, service::retry};
use openorch_store::{Batch, Filter, Query, Stored, Table, Write};

use crate::user::{
    authn::rows::{OTPS, OtpPurpose, OtpRow},
    shared::{
        accounts::Accounts,
        contact_address::{EMAIL, box_of, check_address, mail_address, normal},
    },
};

const LIFETIME: SignedDuration = SignedDuration::from_mins(10);
/// Wrong codes after which a code is good for nothing: a guess is right once in 200,000 times.
const MAX_ATTEMPTS: u32 = 5;
const DIGITS: usize = 6;

/// Pause between two codes to one contact that one network asks for, in seconds, and how many an hour. The same for each
/// network: one that is treated otherwise would tell that the account of the contact signs in from it.
const PAUSE: i64 = 60;
const HOURLY_TO_CONTACT: usize = 5;
/// How many an hour are sent to one contact for all networks together, but for those from where its account signs in: each of
/// these has what a network may, so that strangers elsewhere do not use it up.
const HOURLY_IN_ALL: usize = 10;
/// Codes an hour to one contact for one account that is signed in, and for all such accounts together. Whether the contact is
/// the caller's is not known yet.
const HOURLY_FOR_ACCOUNT: usize = 3;
const HOURLY_FOR_ACCOUNTS: usize = 30;
/// How many an hour are sent because one address or account asked.
const HOURLY_FOR_CALLER: usize = 20;
const HOUR: i64 = 3600;
const REMEMBERED: u64 = 50_000;

/// When codes were sent lately, by contact and by who asked. Lives in memory.
struct Sendings {
    recent: Cache<String, Arc<Vec<i64>>>,
    order: Mutex<()>,
}

impl Sendings {
    fn new() -> Sendings {
        Sendings { recent: Cache::new(REMEMBERED), order: Mutex::default() }
    }

    /// Counts a code that is about to be sent, or says how long to wait. `contact`: what codes to a contact are counted by.
    fn count(&self, contact: &str, asked: &Asked<'_>, now: i64) -> Result<()> {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Vec::new();
        let callers = asked.account.into_iter().chain([asked.network]);
        let by_caller = callers.map(|caller| (format!("for {caller}"), HOURLY_FOR_CALLER, 0));
        let mut to_contact = vec![(format!("to {contact} for {}", asked.network), HOURLY_TO_CONTACT, PAUSE)];
        match asked.account {
            _ if asked.is_at_home => {}
            Some(account) => to_contact.extend([
                (format!("to {contact} for {account}"), HOURLY_FOR_ACCOUNT, 0),
                (format!("to {contact} for accounts"), HOURLY_FOR_ACCOUNTS, 0),
            ]),
            None => to_contact.push((format!("to {contact}"), HOURLY_IN_ALL, 0)),
        }
        for (key, most, pause) in by_caller.chain(to_contact) {
            let known = self.recent.get(&key).unwrap_or_default();
            let mut times: Vec<i64> = known.iter().copied().filter(|time| (0..HOUR).contains(&(now - time))).collect();
            let by_pause = times.last().map_or(0, |last| last + pause - now);
            let by_count = times.len().checked_sub(most).map_or(0, |first| times[first] + HOUR - now);
            let wait = by_pause.max(by_count);
            if wait > 0 {
                let sentence = format!("codes were asked for lately; try again in {wait} seconds");
                return Err(Error::new(&errors::TOO_MANY_CODES, sentence).after(wait));
            }
            times.push(now);
            next.push((key, times));
        }
        for (key, times) in next {
            self.recent.insert(key, Arc::new(times));
        }
        Ok(())
    }
}

/// What a code must have been sent for.
pub struct Expected<'a> {
    pub purpose: OtpPurpose,
    /// The account that asked; empty where nobody was signed in.
    pub user_id: &'a str,
    /// The contact, where the caller names it.
    pub contact: Option<&'a str>,
    pub app: &'a str,
}

/// Who asked for a code, and what for.
pub struct Asked<'a> {
    pub purpose: OtpPurpose,
    pub user_id: &'a str,
    /// The account that asks, if one is signed in, and where it is.
    pub account: Option<&'a str>,
    pub network: &'a str,
    pub app: &'a str,
    /// Somebody signed in with this contact from where this is asked before.
    pub is_at_home: bool,
}

/// One-time codes.
pub struct Codes {
    platform: Platform,
    accounts: Accounts,
    pub rows: Table<OtpRow>,
    sendings: Sendings,
}

impl Codes {
    pub fn new(platform: &Platform, accounts: Accounts) -> Codes {
        Codes { accounts, rows: platform.table(&OTPS), sendings: Sendings::new(), platform: platform.clone() }
    }

    /// What a code is good for that somebody asks for who is not signed in. The answer is the same for both, so that
    /// nobody learns whether an account has the contact but who reads what arrives there.
    pub async fn purpose_of_code(&self, contact: &str) -> Result<OtpPurpose> {
        let is_known = self.accounts.by_contact(contact).await?.is_some_and(|owner| owner.value.verified);
        Ok(if is_known { OtpPurpose::SignIn } else { OtpPurpose::Register })
    }

    pub async fn send_code(&self, request: SendOtpRequest, asked: Asked<'_>) -> Result<Json<SendOtpResponse>> {
        let platform = if request.contact_platform.is_empty() { EMAIL.to_owned() } else { request.contact_platform };
        if platform != EMAIL {
            return Err(Error::invalid("codes are sent by `email` only"));
        }
        let contact = request.contact_id.trim();
        check_address("contactId", contact)?;
        self.platform.mailer.check()?;
        let now = self.platform.now();
        self.sendings.count(&box_of(contact), &asked, now.0.as_second())?;
        let code = format!("{:0width$}", random_number(10_u32.pow(DIGITS as u32)), width = DIGITS);
        let id = self.platform.ids.random("otp");
        let row = OtpRow {
            code: self.platform.seal.seal(&place(&id), code.as_bytes()),
            id,
            purpose: asked.purpose,
            app: asked.app.to_owned(),
            user_id: asked.user_id.to_owned(),
            platform,
            contact: contact.to_owned(),
            attempts: 0,
            expires_at: Time(now.0.checked_add(LIFETIME).map_err(Error::internal)?),
        };
        // It is stored first: a code that arrives is one that counts.
        self.platform.store.commit(self.rows.create(&row.id, &row)?.into()).await?;
        // Whoever is asked for a code on the telephone should know what would be done with it.
        let what_for = asked.purpose.words();
        let text = format!(
            "Your code to {what_for} is {code}\n\nIt is good for ten minutes. Tell it to nobody. If you did not ask for it, \
             somebody typed your address by mistake, and you need do nothing.\n"
        );
        self.platform.mailer.send(asked.network, &mail_address(&row.contact), "Your code", text).await?;
        Ok(Json(SendOtpResponse { otp_id: row.id }))
    }

    /// The code's row, to be deleted at its version by what it is good for; a wrong code is counted.
    pub async fn redeem(&self, id: &str, code: &str, expected: &Expected<'_>) -> Result<Stored<OtpRow>> {
        let failed = |why: &str| Error::new(&errors::CODE_NOT_VALID, format!("Contact verification failed: {why}"));
        let over = || failed("the code is not known, was used, or has ended; ask for another");
        retry(|| async {
            let found = if id.len() > 128 { None } else { self.rows.get(id).await? };
            let Stored { version, value: row, .. } = found.as_ref().ok_or_else(over)?;
            // Not the purpose: where nobody was signed in it says whether an account has the contact, which is told to
            // who has the code alone.
            let is_meant = row.user_id == expected.user_id
                && row.app == expected.app
                && expected.contact.is_none_or(|contact| normal(contact) == normal(&row.contact));
            if !is_meant || row.expires_at <= self.platform.now() || row.attempts >= MAX_ATTEMPTS {
                return Err(over());
            }
            let sent = self.platform.seal.open(&place(&row.id), &row.code).map_err(|_| over())?;
            if is_same(&sent, code.as_bytes()) {
                if row.purpose != expected.purpose {
                    let what_for = row.purpose.words();
                    return Err(failed(&format!("the code was sent to {what_for}, and is good for nothing else")));
                }
                return found.clone().ok_or_else(over);
            }
            let counted = OtpRow { attempts: row.attempts + 1, ..row.clone() };
            self.platform.store.commit(self.rows.replace(&row.id, &counted, Some(*version))?.into()).await?;
            match MAX_ATTEMPTS - counted.attempts {
                0 => Err(failed("the code is wrong, and was wrong too often; ask for another")),
                left => Err(failed(&format!("the code is wrong; {left} more tries"))),
            }
        })
        .await
    }

    /// Codes whose time is over go.
    pub async fn forget_codes(codes: Arc<Codes>) {
        let over = Filter::range("expiresAt", None, Some(codes.platform.now().to_string().into()));
        let outcome = async {
            let old = codes.platform.store.find(OTPS.name, &Query::all().filter(over).limit(10_000)).await?;
            let remove = |row: openorch_store::Row| Write::Delete {
                collection: OTPS.name,
                id: row.id,
                version: Some(row.version),
            };
            codes.platform.store.commit(old.rows.into_iter().map(remove).collect::<Batch>()).await
        };
        if let Err(error) = outcome.await {
            tracing::warn!("old codes could not be removed yet: {error}");
        }
    }
}

impl OtpPurpose {
    fn words(self) -> &'static str {
        match self {
            OtpPurpose::Register => "register an account",
            OtpPurpose::SignIn => "sign in",
            OtpPurpose::Verify => "add this address to an account",
        }
    }
}

/// Takes the same time wherever the first difference is.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn place(id: &str) -> String {
    format!("{}/{id}/code", OTPS.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_to_a_contact_and_for_a_caller_are_few() {
        let sendings = Sendings::new();
        let asks = |contact: &str, account: Option<&str>, network: &str, is_at_home: bool, now: i64| {
            let asked =
                Asked { purpose: OtpPurpose::Register, user_id: "", account, network, app: "unnamed", is_at_home };
            sendings.count(contact, &asked, now).is_ok()
        };
        let counts =
            |contact: &str, network: &str, is_at_home: bool, now: i64| asks(contact, None, network, is_at_home, now);
        assert!(counts("a@b.c", "192.0.2.1", false, 0));
        assert!(!counts("a@b.c", "192.0.2.1", false, 59));
        for is_at_home in [false, true] {
            let network = if is_at_home { "198.51.100.1" } else { "192.0.2.2" };
            assert!(counts("a@b.c", network, is_at_home, 59), "what another network asked for does not tell");
            assert!(!counts("a@b.c", network, is_at_home, 118));
        }
        let sent = (1..60).filter(|minute| counts("b@b.c", "192.0.2.3", false, minute * 60)).count();
        assert_eq!(sent, HOURLY_TO_CONTACT);
        let sent = (0..100).filter(|n| counts(&format!("{n}@b.c"), "192.0.2.4", false, 0)).count();
        assert_eq!(sent, HOURLY_FOR_CALLER);
        assert!(counts("z@b.c", "192.0.2.4", false, HOUR));
        let sent = (0..100).filter(|n| counts("c@b.c", &format!("203.0.113.{n}"), false, 0)).count();
        assert_eq!(sent, HOURLY_IN_ALL);
        assert!(counts("c@b.c", "192.0.2.9", true, 0), "strangers do not use up those at home");
        let as_account = |account: &str, network: &str| asks("c@b.c", Some(account), network, false, 0);
        assert!(as_account("usr_a", "192.0.2.10"), "nor those of who is signed in");
        let sent = (0..20).filter(|n| as_account("usr_b", &format!("192.0.2.1{n}"))).count();
        assert_eq!(sent, HOURLY_FOR_ACCOUNT, "nor does another account");
        let sent = (0..100).filter(|n| as_account(&format!("usr_{n}"), &format!("198.51.100.{n}"))).count();
        assert_eq!(sent, HOURLY_FOR_ACCOUNTS - HOURLY_FOR_ACCOUNT - 1);
    }
}
