//! Slugs: unique account names, which are also the first path segment of a service (decision "Slugs").

use std::fmt;

use crate::InvalidInput;

/// Maximum number of characters, so that a slug fits a DNS label.
pub const MAX_LENGTH: usize = 63;

/// First path segments of the daemon itself, which are not available as slugs.
const RESERVED_PATHS: &[&str] =
    &["openapi.json", "docs", "metrics", "health", "ready", ".well-known", "ui", "assets", "api", "v1"];

/// Built-in services, including planned ones.
const RESERVED_SERVICES: &[&str] = &[
    "user-svc",
    "registry-svc",
    "proxy-svc",
    "policy-svc",
    "secret-svc",
    "config-svc",
    "data-svc",
    "file-svc",
    "firehose-svc",
    "email-svc",
    "chat-svc",
    "container-svc",
    "deploy-svc",
    "source-svc",
    "model-svc",
    "prompt-svc",
    "image-svc",
    "platform-svc",
];

/// A well-formed slug; created only by [`Slug::parse`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(String);

impl Slug {
    /// Lower-case letters and digits in groups joined by single dashes, at most 63 characters.
    pub fn parse(text: &str) -> Result<Slug, InvalidInput> {
        let shown: String = text.chars().take(MAX_LENGTH + 1).filter(|c| !c.is_control()).collect();
        if text.is_empty() {
            return Err(InvalidInput("slug is required, for example `my-service`".into()));
        }
        if text.len() > MAX_LENGTH {
            return Err(InvalidInput(format!("slug `{shown}…` is longer than {MAX_LENGTH} characters")));
        }
        let well_formed = text.split('-').all(|group| {
            !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        });
        if !well_formed {
            return Err(InvalidInput(format!(
                "slug `{shown}` may contain only a-z, 0-9 and single dashes between them, for example `my-service`"
            )));
        }
        Ok(Slug(text.to_owned()))
    }

    /// Whether the slug is reserved for the daemon.
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }

    /// The text of the slug.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a decoded first path segment is reserved for the daemon, so that it never names a user's service.
pub fn is_reserved(segment: &str) -> bool {
    RESERVED_PATHS.contains(&segment) || RESERVED_SERVICES.contains(&segment)
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_lower_case_groups_joined_by_single_dashes() {
        for good in ["a", "skeleton-svc", "9lives", &"a".repeat(63)] {
            assert!(Slug::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "A", "a_b", "ä", "a b", "a/b", "a\0", &"a".repeat(64)] {
            assert!(Slug::parse(bad).is_err(), "{bad:?}");
        }
    }
}
