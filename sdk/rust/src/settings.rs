//! What a program finds in its environment. `SELF_URL` is not here: it belongs to services, not to clients.

use std::env;

use crate::{Client, ClientFactory, Error};

/// Where the server is and who calls.
///
/// ```
/// let settings = openorch_sdk::SdkSettings { url: Some("http://127.0.0.1:58231".into()), token: None };
/// assert_eq!(settings.client()?.url(), "http://127.0.0.1:58231");
/// # Ok::<(), openorch_sdk::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SdkSettings {
    /// `OPENORCH_URL`, for example `http://127.0.0.1:58231`.
    pub url: Option<String>,
    /// `OPENORCH_TOKEN`: a session's token, for programs that do not sign in by themselves.
    pub token: Option<String>,
}

impl SdkSettings {
    /// Reads `OPENORCH_URL` and `OPENORCH_TOKEN`. An empty variable counts as unset.
    ///
    /// ```no_run
    /// let client = openorch_sdk::SdkSettings::from_env().client()?;
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn from_env() -> SdkSettings {
        let read = |name| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        SdkSettings { url: read("OPENORCH_URL"), token: read("OPENORCH_TOKEN") }
    }

    /// A client for these settings. Refused without a URL: guessing one would send a service to the wrong server.
    ///
    /// ```
    /// let nowhere = openorch_sdk::SdkSettings::default();
    /// assert!(nowhere.client().unwrap_err().to_string().starts_with("OPENORCH_URL is not set"));
    /// ```
    pub fn client(&self) -> Result<Client, Error> {
        let url = self.url.as_deref().ok_or_else(|| {
            Error::Invalid(
                "OPENORCH_URL is not set; give the address of the daemon, for example http://127.0.0.1:58231".into(),
            )
        })?;
        let client = ClientFactory::new(url)?.client();
        match &self.token {
            Some(token) => client.with_token(token),
            None => Ok(client),
        }
    }
}

// Written by hand so that a token never lands in a log through `{:?}`.
impl std::fmt::Debug for SdkSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("SdkSettings").field("url", &self.url).field("token", &token).finish()
    }
}
