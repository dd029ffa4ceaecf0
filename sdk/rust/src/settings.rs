//! Client settings from environment variables. `SELF_URL` is not here, since it configures services, not clients.

use std::env;

use crate::{Client, ClientFactory, Error};

/// The URL of the server and the token.
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
    /// `OPENORCH_TOKEN`: a session token, for programs that do not sign in themselves.
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

    /// A client with these settings. Fails without a URL; there is no default, which could be the wrong server.
    ///
    /// ```
    /// let settings = openorch_sdk::SdkSettings::default();
    /// assert!(settings.client().unwrap_err().to_string().starts_with("OPENORCH_URL is not set"));
    /// ```
    pub fn client(&self) -> Result<Client, Error> {
        let url = self.url.as_deref().ok_or_else(|| {
            Error::Invalid(
                "OPENORCH_URL is not set; set it to the URL of the daemon, for example http://127.0.0.1:58231".into(),
            )
        })?;
        let client = ClientFactory::new(url)?.client();
        match &self.token {
            Some(token) => client.with_token(token),
            None => Ok(client),
        }
    }
}

// Not derived, so that `{:?}` never logs the token.
impl std::fmt::Debug for SdkSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("SdkSettings").field("url", &self.url).field("token", &token).finish()
    }
}
