//! One-time codes: six digits sent to a contact, valid for one purpose, five attempts and ten minutes.

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
        contact_address::{EMAIL, check_address, mail_address, normalize, without_tag},
    },
};

const LIFETIME: SignedDuration = SignedDuration::from_mins(10);
/// Wrong attempts after which a code is void: guessing succeeds once in 200,000 codes.
const MAX_ATTEMPTS: u32 = 5;
const DIGITS: usize = 6;

/// Minimum interval in seconds and maximum number per hour of codes to one contact requested from one network. The same
/// for all networks: a difference would reveal that the account of the contact signs in from a network.
const MIN_INTERVAL: i64 = 60;
const HOURLY_TO_CONTACT: usize = 5;
/// Codes per hour to one contact for all networks together. Networks from which its account signed in before are exempt
/// and have only their own limit, so that requests from elsewhere cannot exhaust it.
const HOURLY_TO_CONTACT_TOTAL: usize = 10;
/// Codes per hour to one contact for one signed-in account, and for all signed-in accounts together. The contact may
/// not belong to the caller.
const HOURLY_FOR_ACCOUNT: usize = 3;
const HOURLY_FOR_ALL_ACCOUNTS: usize = 30;
/// Codes per hour requested by one network or account.
const HOURLY_FOR_CALLER: usize = 20;
const HOUR: i64 = 3600;
const MAX_LIMITER_KEYS: u64 = 50_000;

/// Rate limiter for codes, by contact and by requester. In memory only.
struct OtpRateLimiter {
    recent: Cache<String, Arc<Vec<i64>>>,
    lock: Mutex<()>,
}

impl OtpRateLimiter {
    fn new() -> OtpRateLimiter {
        OtpRateLimiter { recent: Cache::new(MAX_LIMITER_KEYS), lock: Mutex::default() }
    }

    /// Counts a code about to be sent, or fails with the time to wait. `contact` is the normalized key of the contact.
    fn count(&self, contact: &str, asked: &OtpRequest<'_>, now: i64) -> Result<()> {
        let _order = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Vec::new();
        let callers = asked.account.into_iter().chain([asked.network]);
        let by_caller = callers.map(|caller| (format!("for {caller}"), HOURLY_FOR_CALLER, 0));
        let mut to_contact = vec![(format!("to {contact} for {}", asked.network), HOURLY_TO_CONTACT, MIN_INTERVAL)];
        match asked.account {
            _ if asked.is_known_network => {}
            Some(account) => to_contact.extend([
                (format!("to {contact} for {account}"), HOURLY_FOR_ACCOUNT, 0),
                (format!("to {contact} for accounts"), HOURLY_FOR_ALL_ACCOUNTS, 0),
            ]),
            None => to_contact.push((format!("to {contact}"), HOURLY_TO_CONTACT_TOTAL, 0)),
        }
        for (key, max, pause) in by_caller.chain(to_contact) {
            let recorded = self.recent.get(&key).unwrap_or_default();
            let mut times: Vec<i64> =
                recorded.iter().copied().filter(|time| (0..HOUR).contains(&(now - time))).collect();
            let by_pause = times.last().map_or(0, |last| last + pause - now);
            let by_count = times.len().checked_sub(max).map_or(0, |first| times[first] + HOUR - now);
            let wait = by_pause.max(by_count);
            if wait > 0 {
                let sentence = format!("a code was just sent; try again in {wait} seconds");
                return Err(Error::new(&errors::TOO_MANY_CODES, sentence).with_retry_after(wait));
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

/// The conditions that a code must meet.
pub struct OtpChallenge<'a> {
    pub purpose: OtpPurpose,
    /// The account that requested it; empty if requested without signing in.
    pub user_id: &'a str,
    /// The contact, if the caller names it.
    pub contact: Option<&'a str>,
    pub app: &'a str,
}

/// The requester of a code and its purpose.
pub struct OtpRequest<'a> {
    pub purpose: OtpPurpose,
    pub user_id: &'a str,
    /// The signed-in account, if any, and the network of the client.
    pub account: Option<&'a str>,
    pub network: &'a str,
    pub app: &'a str,
    /// The account of this contact signed in from this network before.
    pub is_known_network: bool,
}

/// One-time codes.
pub struct OtpCodes {
    platform: Platform,
    accounts: Accounts,
    pub rows: Table<OtpRow>,
    rate_limiter: OtpRateLimiter,
}

impl OtpCodes {
    pub fn new(platform: &Platform, accounts: Accounts) -> OtpCodes {
        OtpCodes {
            accounts,
            rows: platform.table(&OTPS),
            rate_limiter: OtpRateLimiter::new(),
            platform: platform.clone(),
        }
    }

    /// The purpose of a code requested without signing in. The response is the same for both purposes, so that only the
    /// owner of the contact learns whether an account has it.
    pub async fn purpose_of_code(&self, contact: &str) -> Result<OtpPurpose> {
        let is_known = self.accounts.by_contact(contact).await?.is_some_and(|owner| owner.value.verified);
        Ok(if is_known { OtpPurpose::SignIn } else { OtpPurpose::Register })
    }

    pub async fn send_code(&self, request: SendOtpRequest, asked: OtpRequest<'_>) -> Result<Json<SendOtpResponse>> {
        let platform = if request.contact_platform.is_empty() { EMAIL.to_owned() } else { request.contact_platform };
        if platform != EMAIL {
            return Err(Error::invalid("codes are sent by `email` only"));
        }
        let contact = request.contact_id.trim();
        check_address("contactId", contact)?;
        self.platform.mailer.check()?;
        let now = self.platform.now();
        self.rate_limiter.count(&without_tag(contact), &asked, now.0.as_second())?;
        let code = format!("{:0width$}", random_number(10_u32.pow(DIGITS as u32)), width = DIGITS);
        let id = self.platform.ids.random("otp");
        let row = OtpRow {
            code: self.platform.encryptor.encrypt(&encryption_context(&id), code.as_bytes()),
            id,
            purpose: asked.purpose,
            app: asked.app.to_owned(),
            user_id: asked.user_id.to_owned(),
            platform,
            contact: contact.to_owned(),
            attempts: 0,
            expires_at: Time(now.0.checked_add(LIFETIME).map_err(Error::internal)?),
        };
        // Stored before it is sent, so that every delivered code works.
        self.platform.store.commit(self.rows.create(&row.id, &row)?.into()).await?;
        // The mail names the purpose, so that a victim of phone fraud knows what the code would permit.
        let what_for = asked.purpose.description();
        let text = format!(
            "Your code to {what_for} is {code}\n\nIt is valid for ten minutes. Do not share it. If you did not request it, \
             someone may have entered your address by mistake; you can ignore this mail.\n"
        );
        self.platform.mailer.send(asked.network, &mail_address(&row.contact), "Your code", text).await?;
        Ok(Json(SendOtpResponse { otp_id: row.id }))
    }

    /// Checks a code and returns its row, which the caller deletes at this version. A wrong attempt is counted.
    pub async fn verify(&self, id: &str, code: &str, expected: &OtpChallenge<'_>) -> Result<Stored<OtpRow>> {
        let invalid = |why: &str| Error::new(&errors::CODE_NOT_VALID, format!("Contact verification failed: {why}"));
        let over = || invalid("the code is unknown, used or expired; request another");
        retry(|| async {
            let found = if id.len() > 128 { None } else { self.rows.get(id).await? };
            let Stored { version, value: row, .. } = found.as_ref().ok_or_else(over)?;
            // The purpose is not checked here: for codes requested without signing in it reveals whether an account has
            // the contact, which only the holder of the code may learn.
            let matches = row.user_id == expected.user_id
                && row.app == expected.app
                && expected.contact.is_none_or(|contact| normalize(contact) == normalize(&row.contact));
            if !matches || row.expires_at <= self.platform.now() || row.attempts >= MAX_ATTEMPTS {
                return Err(over());
            }
            let sent = self.platform.encryptor.decrypt(&encryption_context(&row.id), &row.code).map_err(|_| over())?;
            if constant_time_eq(&sent, code.as_bytes()) {
                if row.purpose != expected.purpose {
                    let what_for = row.purpose.description();
                    return Err(invalid(&format!(
                        "the code was sent to {what_for} and is not valid for anything else"
                    )));
                }
                return found.clone().ok_or_else(over);
            }
            let counted = OtpRow { attempts: row.attempts + 1, ..row.clone() };
            self.platform.store.commit(self.rows.replace(&row.id, &counted, Some(*version))?.into()).await?;
            match MAX_ATTEMPTS - counted.attempts {
                0 => Err(invalid("the code is wrong and has no attempts left; request another")),
                left => Err(invalid(&format!("the code is wrong; {left} attempts left"))),
            }
        })
        .await
    }

    /// Deletes expired codes.
    pub async fn remove_expired(codes: Arc<OtpCodes>) {
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
            tracing::warn!("cannot remove expired codes, retrying: {error}");
        }
    }
}

impl OtpPurpose {
    fn description(self) -> &'static str {
        match self {
            OtpPurpose::Register => "register an account",
            OtpPurpose::SignIn => "sign in",
            OtpPurpose::Verify => "add this address to an account",
        }
    }
}

/// Compares in constant time.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn encryption_context(id: &str) -> String {
    format!("{}/{id}/code", OTPS.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_to_a_contact_and_for_a_caller_are_few() {
        let sendings = OtpRateLimiter::new();
        let asks = |contact: &str, account: Option<&str>, network: &str, is_at_home: bool, now: i64| {
            let asked = OtpRequest {
                purpose: OtpPurpose::Register,
                user_id: "",
                account,
                network,
                app: "unnamed",
                is_known_network: is_at_home,
            };
            sendings.count(contact, &asked, now).is_ok()
        };
        let counts =
            |contact: &str, network: &str, is_at_home: bool, now: i64| asks(contact, None, network, is_at_home, now);
        assert!(counts("a@b.c", "192.0.2.1", false, 0));
        assert!(!counts("a@b.c", "192.0.2.1", false, 59));
        for is_at_home in [false, true] {
            let network = if is_at_home { "198.51.100.1" } else { "192.0.2.2" };
            assert!(counts("a@b.c", network, is_at_home, 59), "requests of other networks do not count");
            assert!(!counts("a@b.c", network, is_at_home, 118));
        }
        let sent = (1..60).filter(|minute| counts("b@b.c", "192.0.2.3", false, minute * 60)).count();
        assert_eq!(sent, HOURLY_TO_CONTACT);
        let sent = (0..100).filter(|n| counts(&format!("{n}@b.c"), "192.0.2.4", false, 0)).count();
        assert_eq!(sent, HOURLY_FOR_CALLER);
        assert!(counts("z@b.c", "192.0.2.4", false, HOUR));
        let sent = (0..100).filter(|n| counts("c@b.c", &format!("203.0.113.{n}"), false, 0)).count();
        assert_eq!(sent, HOURLY_TO_CONTACT_TOTAL);
        assert!(
            counts("c@b.c", "192.0.2.9", true, 0),
            "requests from elsewhere do not use up the limit of a known network"
        );
        let as_account = |account: &str, network: &str| asks("c@b.c", Some(account), network, false, 0);
        assert!(as_account("usr_a", "192.0.2.10"), "nor that of signed-in accounts");
        let sent = (0..20).filter(|n| as_account("usr_b", &format!("192.0.2.1{n}"))).count();
        assert_eq!(sent, HOURLY_FOR_ACCOUNT, "nor do other accounts");
        let sent = (0..100).filter(|n| as_account(&format!("usr_{n}"), &format!("198.51.100.{n}"))).count();
        assert_eq!(sent, HOURLY_FOR_ALL_ACCOUNTS - HOURLY_FOR_ACCOUNT - 1);
    }
}
