//! Registering, the own profile and password.

use std::collections::BTreeMap;

use openorch_api::{
    Body, Json, Slug,
    error::access,
    input::check_name,
    user::{
        ChangePasswordRequest, ContactInput, Empty, ReadSelfRequest, ReadSelfResponse, ReadUserByTokenResponse,
        RegisterRequest, RegisterResponse, SaveSelfRequest, errors,
    },
};
use openorch_chassis::{Cx, Error, Result, audit, service::retry};
use openorch_store::{Batch, Filter, Query, Stored};

use crate::user::{
    Registration, Users,
    authn::{
        otp::Expected,
        passwords::{check::Guess, queue::Purpose},
        sessions::{
            cache::{Account, Memory},
            issue::Place,
            session::{UNKNOWN_DEVICE, checked_device},
        },
    },
    authz::rules::{check_count, check_text},
    rows::{OtpPurpose, RoleLinkRow, UserRow, search_prefixes},
    seed::{ADMIN_SLUG, DEFAULT_ADMIN_PASSWORD},
};

const MAX_NAME_BYTES: usize = 256;
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 256;

pub async fn register(cx: Cx<Users>, Body(request): Body<RegisterRequest>) -> Result<Json<RegisterResponse>> {
    let slug = Slug::parse(request.slug.as_deref().unwrap_or_default()).map_err(|e| Error::invalid(e.0))?;
    let name = checked_name(request.name.unwrap_or_default())?;
    let shown = request.contact.unwrap_or_default();
    // It is attached where its code is shown alone: whether it is somebody's is not even looked at else.
    let contact = cx.checked_contact(&shown)?.filter(|_| !shown.otp_id.is_empty());
    let device = checked_device(request.device.as_deref())?;
    let app = cx.app_of_host(&request.app_host)?;
    let password = request.password.unwrap_or_default();
    let invitation = request.invitation.as_deref().filter(|code| !code.is_empty());
    cx.check_new_password(&password, cx.request.from_this_machine)?;
    cx.refuse_taken(&slug).await?;
    let mut roles = cx.admitted_roles(&app, invitation, cx.request.from_this_machine).await?;
    roles.sort();
    roles.dedup();
    let password = cx.hash_password(&password, false, Purpose::Registration, cx.request.client_ip).await?;

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
    let place = Place { app: &app, device, exchanged_from: None };
    let token = retry(|| async {
        let mut user = user.clone();
        let batch = cx.use_invitation(&app, invitation).await?.with(cx.password_rows.create(&user.id, &password)?);
        // What waited for the contact comes after the account that gets it.
        let waited = cx.show_contact(&mut user, &links, &app, &shown).await?;
        let (mut batch, displaced) = cx.make_account(&slug, &user, &links, batch, true).await?;
        batch.0.extend(waited.0);
        audit::tell_actor(&user.id, &user.slug, None);
        // It may have been looked up before it said which contact is shown to be its own.
        let changed = || displaced.iter().chain([&user.id]);
        let forget = |memory: &Memory| changed().for_each(|id| memory.rights_changed(id));
        cx.open_first_session(&account, &place, batch, forget).await
    })
    .await?;
    tracing::info!(account.slug = %slug, "account `{slug}` registered");
    Ok(Json(RegisterResponse { token }))
}

pub async fn read_by_token(cx: Cx<Users>, (): ()) -> Result<Json<ReadUserByTokenResponse>> {
    let caller = cx.caller()?;
    let account = cx.known_account(&caller.user_id).await?;
    let (organizations, active_organization_id) = cx.organizations_of(&account, &caller.app).await?;
    Ok(Json(ReadUserByTokenResponse { user: account.profile.clone(), organizations, active_organization_id }))
}

pub async fn read_self(cx: Cx<Users>, Body(request): Body<ReadSelfRequest>) -> Result<Json<ReadSelfResponse>> {
    let caller = cx.caller()?;
    let account = cx.known_account(&caller.user_id).await?;
    let (organizations, active_organization_id) = cx.organizations_of(&account, &caller.app).await?;
    let token_count = match request.count_tokens {
        true => cx.sessions.count(&[Filter::equals("userId", &*caller.user_id)]).await?,
        false => 0,
    };
    Ok(Json(ReadSelfResponse {
        roles: caller.roles.iter().map(|role| role.to_string()).collect(),
        contacts: account.profile.contacts.clone(),
        active_organization_id,
        user: account.profile.clone(),
        organizations,
        token_count,
    }))
}

pub async fn save_self(cx: Cx<Users>, Body(request): Body<SaveSelfRequest>) -> Result<Json<Empty>> {
    let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token is gone");
    cx.save_profile(&cx.caller()?.user_id, Profile::checked(request)?, gone).await
}

/// What of a profile is to change.
pub struct Profile(SaveSelfRequest);

impl Profile {
    pub fn checked(request: SaveSelfRequest) -> Result<Profile> {
        let name = request.name.map(checked_name).transpose()?;
        for (label, value) in request.labels.iter().flatten() {
            check_name("the name of a label", label, MAX_LABEL_BYTES).map_err(|e| Error::invalid(e.0))?;
            check_text("the value of a label", value, MAX_LABEL_BYTES)?;
        }
        check_count("labels", request.labels.as_ref().map_or(0, BTreeMap::len), MAX_LABELS)?;
        check_text("thumbnailFileId", request.thumbnail_file_id.as_deref().unwrap_or_default(), MAX_LABEL_BYTES)?;
        Ok(Profile(SaveSelfRequest { name, ..request }))
    }

    pub fn apply(&self, user: &mut UserRow) {
        let SaveSelfRequest { name, labels, thumbnail_file_id } = self.0.clone();
        user.name = name.unwrap_or(std::mem::take(&mut user.name));
        user.search_prefixes = search_prefixes(&user.slug, &user.name);
        user.labels = labels.unwrap_or(std::mem::take(&mut user.labels));
        user.thumbnail_file_id = thumbnail_file_id.unwrap_or(std::mem::take(&mut user.thumbnail_file_id));
    }
}

pub async fn change_password(cx: Cx<Users>, Body(request): Body<ChangePasswordRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    if request.slug.as_deref().is_some_and(|slug| !slug.is_empty() && slug != &*caller.slug) {
        return Err(Error::new(
            &errors::PASSWORD_OF_ANOTHER,
            format!("`{}` may change its own password only; an admin can reset that of another account", caller.slug),
        ));
    }
    let (current, new) = (request.current_password.unwrap_or_default(), request.new_password.unwrap_or_default());
    cx.check_new_password(&new, cx.request.from_this_machine)?;
    let incorrect = || Error::new(&errors::CURRENT_PASSWORD_WRONG, "current password is incorrect");
    let guess = Guess {
        password: &current,
        counted_as: &caller.user_id,
        user_id: &caller.user_id,
        address: cx.request.client_ip,
    };
    let stored = cx.match_password(&guess).await?.ok_or_else(incorrect)?.row.value;
    let is_default = *caller.slug == *ADMIN_SLUG && new == DEFAULT_ADMIN_PASSWORD;
    let row = cx.hash_password(&new, is_default, Purpose::SignIn, cx.request.client_ip).await?;
    retry(|| async {
        // The row may have changed by what a sign-in noted.
        let now = cx.password_rows.get(&caller.user_id).await?.filter(|now| now.value.hash == stored.hash);
        let changed =
            || Error::new(&errors::PASSWORD_CHANGED_MEANWHILE, "the password was just changed by someone else");
        let version = now.ok_or_else(changed)?.version;
        // The caller's own session stays, unless it is the one that programs without a device of their own share, or was
        // exchanged from one that ends.
        let own = cx.sessions.get(&caller.session_id).await?;
        let keep = own.filter(|own| own.value.device != UNKNOWN_DEVICE && own.value.exchanged_from.is_none());
        let batch = Batch::new().with(cx.password_rows.replace(&*caller.user_id, &row, Some(version))?);
        cx.end_with_password((&caller.user_id, &caller.slug), keep, batch).await?;
        Ok(Json(Empty {}))
    })
    .await
}

impl Users {
    /// Takes the code with which a new account shows that its contact is its own, if it came with one.
    async fn show_contact(
        &self,
        user: &mut UserRow,
        links: &[RoleLinkRow],
        app: &str,
        shown: &ContactInput,
    ) -> Result<Batch> {
        let (Some(contact), false) = (user.contacts.first_mut(), shown.otp_id.is_empty()) else {
            return Ok(Batch::new());
        };
        let purpose = self.purpose_of_code(&contact.value).await?;
        let expected = Expected { purpose, user_id: "", contact: Some(&contact.value), app };
        let code = self.redeem(&shown.otp_id, &shown.otp_code, &expected).await?;
        if purpose == OtpPurpose::SignIn {
            return Err(Error::new(
                &errors::CONTACT_TAKEN,
                "contact already exists: an account of yours has it; sign in with this code",
            ));
        }
        contact.verified = true;
        contact.value.clone_from(&code.value.contact);
        contact.platform = code.value.platform;
        let batch = Batch::new().with(self.otps.delete(&code.id, Some(code.version)));
        self.give_waiting(batch, &user.id, &contact.id, links).await
    }

    pub(in crate::user) async fn save_profile(
        &self,
        user_id: &str,
        profile: Profile,
        gone: impl Fn() -> Error,
    ) -> Result<Json<Empty>> {
        retry(|| async {
            let Stored { version, value: mut user, .. } = self.users.get(user_id).await?.ok_or_else(&gone)?;
            profile.apply(&mut user);
            user.updated_at = self.now();
            let batch = Batch::new().with(self.users.replace(&user.id, &user, Some(version))?);
            self.commit(batch, |memory| memory.profile_changed(user_id)).await?;
            Ok(Json(Empty {}))
        })
        .await
    }

    pub(in crate::user) async fn by_slug(&self, slug: &str) -> Result<Option<UserRow>> {
        let found = self.users.find(&Query::all().equals("slug", slug)).await?;
        Ok(found.into_iter().next().map(|found| found.value))
    }

    pub(in crate::user) async fn refuse_taken(&self, slug: &Slug) -> Result<()> {
        if slug.is_reserved() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!("slug already exists: `{slug}` belongs to the daemon itself; choose another"),
            ));
        }
        if self.tombstones.get(slug.as_str()).await?.is_some() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!(
                    "slug already exists: `{slug}` was a deleted account's; choose another, or an admin releases it"
                ),
            ));
        }
        if self.by_slug(slug.as_str()).await?.is_some() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!("slug already exists: `{slug}` is taken; sign in or choose another"),
            ));
        }
        Ok(())
    }

    pub(in crate::user) async fn known_account(&self, user_id: &str) -> Result<std::sync::Arc<Account>> {
        self.account(user_id)
            .await?
            .ok_or_else(|| Error::new(&access::ACCOUNT_GONE, "the account of this token is gone"))
    }

    /// The roles of a new account, or why none may be made.
    async fn admitted_roles(
        &self,
        app: &str,
        invitation: Option<&str>,
        from_this_machine: bool,
    ) -> Result<Vec<String>> {
        match (self.registration, invitation) {
            (Registration::Closed, _) => Err(Error::new(
                &errors::REGISTRATION_CLOSED,
                "registration is closed; an operator can open it with OPENORCH_REGISTRATION=open or invite",
            )),
            (_, Some(code)) => Ok(self.invitation(app, code).await?.roles),
            (Registration::Invite, None) => Err(Error::new(
                &errors::INVITATION_REQUIRED,
                "registration is by invitation: ask an admin for one and send its code as `invitation`",
            )),
            (Registration::OnThisMachine, None) if !from_this_machine => Err(Error::new(
                &errors::REGISTRATION_LOCAL_ONLY,
                "registration is open to programs on this machine, and this request comes from a web page, through a proxy \
                 or for another host; an operator can open it to others with OPENORCH_REGISTRATION=open or invite",
            )),
            (Registration::Open | Registration::OnThisMachine, None) => Ok(vec![openorch_api::role::USER.to_owned()]),
        }
    }
}

pub(in crate::user) fn checked_name(name: String) -> Result<String> {
    if !name.is_empty() {
        check_name("name", &name, MAX_NAME_BYTES).map_err(|e| Error::invalid(e.0))?;
    }
    Ok(name)
}
