//! Sign-in by slug or contact with a password, or by a one-time code; token exchange for another app; token refresh.

use openorch_api::{
    Body, Json,
    error::access,
    user::{AuthToken, ContactInput, ExchangeTokenRequest, LoginRequest, LoginResponse, errors},
};
use openorch_chassis::{
    Cx, Error, Result,
    service::{RequestContext, retry},
};
use openorch_store::{Batch, Guard, Stored};
use zeroize::Zeroizing;

use crate::user::{
    authn::{
        otp::codes::OtpChallenge,
        passwords::check::PasswordAttempt,
        rows::{OtpPurpose, PASSWORDS, SESSIONS},
        sessions::{
            issue::SessionSlot,
            live::{MAX_DEVICE_BYTES, device_of},
        },
        state::Authn,
    },
    shared::{contact_address::throttle_key, rows::CONTACTS},
};

pub async fn login(cx: Cx<Authn>, Body(request): Body<LoginRequest>) -> Result<Json<LoginResponse>> {
    cx.request.audit.record_unchanged();
    let place = SessionSlot {
        app: &cx.authz.app_of_host(&request.app_host)?,
        device: device_of(request.device.as_deref()),
        exchanged_from: None,
        client_ip: cx.request.client_ip,
    };
    let slug = request.slug.unwrap_or_default();
    let contact = request.contact.unwrap_or_default();
    let password = Zeroizing::new(request.password.unwrap_or_default());
    let has_contact = slug.is_empty() && !contact.value.is_empty();
    let token = if has_contact && !contact.otp_id.is_empty() {
        cx.sign_in_by_code(&cx.request, &contact, &place).await?
    } else {
        let (account, counted_as) = if has_contact {
            let owner = cx.accounts.by_contact(&contact.value).await?.filter(|owner| owner.value.verified);
            (owner.map(|owner| owner.value.user_id), throttle_key(&contact.value))
        } else {
            let id = cx
                .accounts
                .by_slug(&slug)
                .await?
                .ok_or_else(|| Error::new(&errors::SLUG_NOT_FOUND, "Slug not found"))?
                .id;
            (Some(id.clone()), id)
        };
        let user_id = account.as_deref().unwrap_or_default();
        let address = cx.request.counted_address();
        let guess =
            PasswordAttempt { password: &password, throttle_key: &counted_as, user_id, address, is_signed_in: false };
        cx.sign_in_by_password(&cx.request, &guess, &place).await?
    };
    Ok(Json(LoginResponse { token }))
}

pub async fn refresh(cx: Cx<Authn>, (): ()) -> Result<Json<LoginResponse>> {
    let caller = cx.caller()?;
    let account = cx.authz.require_account(&caller.user_id).await?;
    Ok(Json(LoginResponse { token: cx.refresh_token(&cx.request.audit, &account, &caller.session_id).await? }))
}

/// An exchanged session ends with its origin, so revoking the origin revokes all tokens derived from it.
pub async fn exchange(cx: Cx<Authn>, Body(request): Body<ExchangeTokenRequest>) -> Result<Json<LoginResponse>> {
    cx.request.audit.record_unchanged();
    let caller = cx.caller()?;
    let device = request.new_device.filter(|device| !device.is_empty());
    let app = match (request.new_app_id.as_str(), request.new_app_host.as_str()) {
        ("", "") if device.is_none() => {
            return Err(Error::invalid("name a `newAppHost`, a `newAppId` or a `newDevice`"));
        }
        ("", "") => caller.app.clone(),
        ("", host) => cx.authz.app_of_host(host)?,
        (id, "") => cx.authz.app_with_id(id)?,
        _ => return Err(Error::invalid("name the app by `newAppHost` or `newAppId`, not both")),
    };
    let ended = || Error::new(&access::SESSION_ENDED, "the session of this token has ended; sign in again");
    let token = retry(|| async {
        let from = cx.sessions.rows.get(&caller.session_id).await?.ok_or_else(ended)?.value;
        if from.exchanged_from.is_some() {
            return Err(Error::new(
                &errors::ALREADY_EXCHANGED,
                "this token was itself obtained by exchange; exchange the token you signed in with",
            ));
        }
        let device = device.clone().unwrap_or_else(|| derived_device(&from.device, &from.app));
        let (device, client_ip) = (device_of(Some(&device)), cx.request.client_ip);
        let slot = SessionSlot { app: &app, device, exchanged_from: Some(&from), client_ip };
        let account = cx.authz.require_account(&caller.user_id).await?;
        let origin_exists = Batch::new().require(Guard::Exists { collection: SESSIONS.name, id: from.id.clone() });
        cx.open_session(&cx.request.audit, &account, &slot, origin_exists).await
    })
    .await?;
    Ok(Json(LoginResponse { token }))
}

/// The device of an exchanged session that names none. Derived from its origin, so that it replaces no other session.
fn derived_device(device: &str, app: &str) -> String {
    let suffix = format!(" (from {app})");
    let max_len = MAX_DEVICE_BYTES.saturating_sub(suffix.len());
    let cut = (0..=max_len.min(device.len())).rev().find(|at| device.is_char_boundary(*at)).unwrap_or_default();
    format!("{}{suffix}", &device[..cut])
}

impl Authn {
    async fn sign_in_by_password(
        &self,
        request: &RequestContext,
        guess: &PasswordAttempt<'_>,
        place: &SessionSlot<'_>,
    ) -> Result<AuthToken> {
        let wrong = || Error::new(&errors::WRONG_PASSWORD, "Invalid password");
        let matched = self.passwords.check_password(guess).await?.ok_or_else(wrong)?;
        let account = self.authz.require_account(guess.user_id).await?;
        request.audit.set_actor(&account.id, &account.slug, None);
        let hash = self.passwords.record_match(guess, matched).await;
        self.passwords.refuse_weak_over_network(guess.password, request.is_local)?;
        retry(|| async {
            // A concurrent password change ends all sessions, and none may be created with the old password afterwards.
            let version = self.passwords.still_matches(guess, &hash).await?.ok_or_else(wrong)?;
            let unchanged = Guard::Version { collection: PASSWORDS.name, id: guess.user_id.to_owned(), version };
            let account = self.authz.require_account(guess.user_id).await?;
            self.open_session(&request.audit, &account, place, Batch::new().require(unchanged)).await
        })
        .await
    }

    /// Signs in with a one-time code, which authenticates the account of the contact.
    async fn sign_in_by_code(
        &self,
        request: &RequestContext,
        contact: &ContactInput,
        place: &SessionSlot<'_>,
    ) -> Result<AuthToken> {
        let expected =
            OtpChallenge { purpose: OtpPurpose::SignIn, user_id: "", contact: Some(&contact.value), app: place.app };
        let (token, user_id) = retry(|| async {
            let code = self.codes.verify(&contact.otp_id, &contact.otp_code, &expected).await?;
            let owner = self.accounts.by_contact(&contact.value).await?.filter(|owner| owner.value.verified);
            let gone = || Error::new(&errors::CONTACT_GONE, "no account has this contact any more");
            let Stored { id, version, value: owner } = owner.ok_or_else(gone)?;
            let account = self.authz.account(&owner.user_id).await?.ok_or_else(gone)?;
            request.audit.set_actor(&account.id, &account.slug, None);
            let used = Batch::new()
                .require(Guard::Version { collection: CONTACTS.name, id, version })
                .with(self.codes.rows.delete(&code.id, Some(code.version)));
            Ok((self.open_session(&request.audit, &account, place, used).await?, account.id.clone()))
        })
        .await?;
        self.passwords.store_address(&user_id, &throttle_key(&contact.value), request.counted_address()).await;
        Ok(token)
    }
}
