//! Registration: accounts that users create for themselves.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use openorch_api::{
    Body, Json, Slug,
    user::{ContactInput, RegisterRequest, RegisterResponse, errors},
};
use openorch_chassis::{
    Cx, Error, Result,
    service::{RequestContext, retry},
};
use openorch_store::Batch;

use crate::user::{
    authn::{
        otp::codes::OtpChallenge,
        passwords::queue::Purpose,
        rows::OtpPurpose,
        sessions::{issue::SessionSlot, live::device_of},
    },
    authz::{accounts::account::Account, rows::RoleLinkRow},
    directory::state::Directory,
    shared::{
        rows::{UserRow, search_prefixes},
        settings::Registration,
    },
};

pub async fn register(cx: Cx<Directory>, Body(request): Body<RegisterRequest>) -> Result<Json<RegisterResponse>> {
    let slug = Slug::parse(&request.slug).map_err(|e| Error::invalid(e.0))?;
    let name = request.name.unwrap_or_default();
    let contact_input = request.contact.unwrap_or_default();
    // A contact is attached only with a code. Without one its owner is not even looked up.
    let contact = cx.parse_contact(&contact_input)?.filter(|_| !contact_input.otp_id.is_empty());
    let device = device_of(request.device.as_deref());
    let app = cx.authz.app_of_host(&request.app_host)?;
    let password = request.password;
    let invitation = request.invitation.as_deref().filter(|code| !code.is_empty());
    cx.authn.passwords.check_new_password(&password, cx.request.is_local)?;
    cx.check_slug_is_free(&slug).await?;
    let mut roles = cx.initial_roles(&app, invitation, &cx.request).await?;
    roles.sort();
    roles.dedup();
    let password =
        cx.authn.passwords.hash_password(&password, false, Purpose::Registration, cx.request.counted_address()).await?;

    let now = cx.now();
    let search_prefixes = search_prefixes(slug.as_str(), &name);
    let user = UserRow {
        id: cx.platform.ids.next("usr"),
        slug: slug.as_str().to_owned(),
        name,
        contacts: contact.into_iter().collect(),
        search_prefixes,
        labels: BTreeMap::new(),
        thumbnail_file_id: String::new(),
        home_app: app.to_string(),
        created_at: now,
        updated_at: now,
    };
    let links: Vec<RoleLinkRow> = roles.iter().map(|role| RoleLinkRow::new(&app, &user.id, role, now)).collect();
    let account = Account::new(&user, &links);
    let place = SessionSlot { app: &app, device, exchanged_from: None, client_ip: cx.request.client_ip };
    let token = retry(|| async {
        let mut user = user.clone();
        let batch =
            cx.redeem_invitation(&app, invitation).await?.with(cx.authn.passwords.rows.create(&user.id, &password)?);
        // Pending roles for the contact are added after the account exists.
        let pending_roles = cx.verify_contact(&mut user, &links, &app, &contact_input).await?;
        let (mut batch, displaced) = cx.create_account(&slug, &user, &links, batch, true).await?;
        batch.0.extend(pending_roles.0);
        cx.request.audit.set_actor(&user.id, &user.slug, None);
        // The account may have been cached before its contact was verified.
        let changed_accounts = || displaced.iter().chain([&user.id]);
        let forget = || changed_accounts().for_each(|id| cx.authz.cache.rights_changed(id));
        cx.authn.open_first_session(&cx.request.audit, &account, &place, batch, forget).await
    })
    .await?;
    tracing::info!(account.slug = %slug, "account `{slug}` registered");
    Ok(Json(RegisterResponse { token }))
}

impl Directory {
    /// Verifies the contact of a new account, if the request has a code.
    async fn verify_contact(
        &self,
        user: &mut UserRow,
        links: &[RoleLinkRow],
        app: &str,
        shown: &ContactInput,
    ) -> Result<Batch> {
        let (Some(contact), false) = (user.contacts.first_mut(), shown.otp_id.is_empty()) else {
            return Ok(Batch::new());
        };
        let purpose = self.authn.codes.purpose_of_code(&contact.value).await?;
        let expected = OtpChallenge { purpose, user_id: "", contact: Some(&contact.value), app };
        let code = self.authn.codes.verify(&shown.otp_id, &shown.otp_code, &expected).await?;
        if purpose == OtpPurpose::SignIn {
            return Err(Error::new(
                &errors::CONTACT_TAKEN,
                "contact already exists: it belongs to an account of yours; sign in with this code",
            ));
        }
        contact.verified = true;
        contact.value.clone_from(&code.value.contact);
        contact.platform = code.value.platform;
        let batch = Batch::new().with(self.authn.codes.rows.delete(&code.id, Some(code.version)));
        self.authz.apply_pending(batch, &user.id, &contact.id, links).await
    }

    /// The roles of a new account; fails if registration is not permitted.
    async fn initial_roles(
        &self,
        app: &str,
        invitation: Option<&str>,
        request: &RequestContext,
    ) -> Result<Vec<String>> {
        match (self.registration, invitation) {
            (Registration::Closed, _) => Err(Error::new(
                &errors::REGISTRATION_CLOSED,
                "registration is closed; an operator can open it with OPENORCH_REGISTRATION=open or invite",
            )),
            (_, Some(code)) => Ok(self.valid_invitation(app, code).await?.roles),
            (Registration::Invite, None) => Err(Error::new(
                &errors::INVITATION_REQUIRED,
                "registration is by invitation: ask an admin for one and send its code as `invitation`",
            )),
            (Registration::OnThisMachine, None) if !request.is_local => Err(Error::new(
                &errors::REGISTRATION_LOCAL_ONLY,
                "registration is open to programs on this machine, and this request comes from a web page, through a proxy \
                 or for another host; an operator can open it to others with OPENORCH_REGISTRATION=open or invite",
            )),
            (Registration::Open | Registration::OnThisMachine, None) => {
                self.count_registration(request)?;
                Ok(vec![openorch_api::role::USER.to_owned()])
            }
        }
    }

    /// Limits the accounts that a network registers, since what an account may have is limited by account.
    fn count_registration(&self, request: &RequestContext) -> Result<()> {
        if request.is_local {
            return Ok(());
        }
        // A customer may have a /48.
        let network = match request.counted_address().to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 80 << 80).into(),
            address => address,
        };
        let hour = Duration::from_secs(3600);
        let now = self.now().0.as_microsecond() / hour.as_secs() as i64;
        self.registrations.try_acquire(&network, now).map_err(|wait| {
            let seconds = wait.saturating_mul(hour.as_secs() as u32).as_secs() as i64 + 1;
            Error::new(
                &errors::TOO_MANY_REGISTRATIONS,
                format!(
                    "{} accounts were registered from your network within an hour, the maximum; try again in {seconds} s, or \
                     have an operator raise OPENORCH_USER_MAX_REGISTRATIONS_PER_NETWORK",
                    self.registrations.rate().burst
                ),
            )
            .with_retry_after(seconds)
        })
    }
}
