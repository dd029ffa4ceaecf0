//! Signing keys (RSA-2048, the private key stored encrypted), retired keys, and the tokens signed with them (RS256, RFC
//! 7515 and 7519).

use std::sync::Arc;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize, PublicKeyComponents},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use openorch_api::user::Key;
use openorch_chassis::{Error, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The claims of a token. The first three are ours and published; the others are standard (RFC 7519, section 4.1; `sid`
/// from OpenID Connect).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// User id.
    pub oui: String,
    /// Slug.
    pub olu: String,
    /// Role ids.
    pub ori: Vec<String>,
    pub iss: String,
    pub iat: i64,
    pub exp: i64,
    pub jti: String,
    /// Session id.
    pub sid: String,
    /// The service for which a delegated token was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// The app of the session, unless it is the default app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

pub const ISSUER: &str = "openorch";

/// A public key that verifies tokens.
pub struct VerifyingKey {
    decoding: DecodingKey,
    validation: Validation,
    pub public: Key,
}

impl VerifyingKey {
    pub fn new(public: Key) -> Result<VerifyingKey> {
        let mut validation = Validation::new(Algorithm::RS256);
        // Expiry and audience are checked elsewhere: a session's token stays valid after `exp` as long as the session.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        validation.set_issuer(&[ISSUER]);
        let decoding = DecodingKey::from_rsa_components(&public.n, &public.e).map_err(Error::internal)?;
        Ok(VerifyingKey { decoding, validation, public })
    }

    /// The claims, if this key signed the token. Does not check expiry, session or audience.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).ok().map(|token| token.claims)
    }
}

/// The current key pair.
pub struct SigningKey {
    /// Parsed once, since parsing takes longer than signing.
    pair: KeyPair,
    /// The encoded header of the tokens.
    header: String,
    pub public_pem: String,
    pub verifying: VerifyingKey,
}

impl SigningKey {
    /// Generates a key pair; returns the private key as PKCS#8.
    pub fn generate() -> Result<Zeroizing<Vec<u8>>> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::internal("cannot generate an RSA key"))?;
        let der: Pkcs8V1Der = pair.as_der().map_err(|_| Error::internal("the RSA key has no PKCS#8 form"))?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    pub fn from_pkcs8(id: &str, pkcs8: &[u8]) -> Result<SigningKey> {
        let unreadable = |_| Error::internal("the stored signing key is not an RSA key");
        let pair = KeyPair::from_pkcs8(pkcs8).map_err(|error| Error::internal(error.to_string()))?;
        let spki: PublicKeyX509Der = pair.public_key().as_der().map_err(unreadable)?;
        let public: PublicKeyComponents<Vec<u8>> = pair.public_key().into();
        let (n, e) = (URL_SAFE_NO_PAD.encode(&public.n), URL_SAFE_NO_PAD.encode(&public.e));
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(id.to_owned());
        let public = Key { kid: id.to_owned(), kty: "RSA".into(), alg: "RS256".into(), use_: "sig".into(), n, e };
        Ok(SigningKey {
            pair,
            header: URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).map_err(Error::internal)?),
            public_pem: pem("PUBLIC KEY", spki.as_ref()),
            verifying: VerifyingKey::new(public)?,
        })
    }

    /// Takes about a millisecond, so it runs on the threads of `signing.rs`.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).map_err(Error::internal)?);
        let mut token = format!("{}.{claims}", self.header);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|_| Error::internal("cannot sign a token"))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&signature, &mut token);
        Ok(token)
    }
}

/// The current key and the retired keys, whose tokens stay valid as long as their sessions.
pub struct KeyRing {
    pub current: Arc<SigningKey>,
    /// With the Unix time of retirement, newest first.
    pub retired: Vec<(i64, Arc<VerifyingKey>)>,
}

impl KeyRing {
    /// The claims, if one of the keys signed the token. Does not check expiry, session or audience.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        let header = jsonwebtoken::decode_header(token).ok().filter(|header| header.alg == Algorithm::RS256)?;
        self.find(&header.kid?)?.verify(token)
    }

    /// Whether a token header (its first part, base64url) names one of the keys. Does not check the signature.
    pub fn has_key_of(&self, header: &[u8]) -> bool {
        #[derive(serde::Deserialize)]
        struct Named {
            kid: String,
        }
        let decoded = URL_SAFE_NO_PAD.decode(header).ok();
        let named = decoded.and_then(|header| serde_json::from_slice::<Named>(&header).ok());
        named.is_some_and(|named| self.find(&named.kid).is_some())
    }

    fn find(&self, kid: &str) -> Option<&VerifyingKey> {
        let retired = self.retired.iter().map(|(_, key)| &**key);
        std::iter::once(&self.current.verifying).chain(retired).find(|key| key.public.kid == kid)
    }

    /// The keys to publish: a retired key stays published for `lifetime` seconds, until the tokens signed with it have
    /// expired.
    pub fn public(&self, now: i64, lifetime: i64) -> Vec<Key> {
        let published = self.retired.iter().filter(|(since, _)| now - since <= lifetime);
        std::iter::once(&self.current.verifying)
            .chain(published.map(|(_, key)| &**key))
            .map(|key| key.public.clone())
            .collect()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| *byte as char));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_signed_a_token_verifies_it() {
        let key = |id| SigningKey::from_pkcs8(id, &SigningKey::generate().unwrap()).unwrap();
        let ring = |key| KeyRing { current: Arc::new(key), retired: Vec::new() };
        let (ours, same_name) = (ring(key("keyp_1")), ring(key("keyp_1")));
        let claims = Claims {
            oui: "usr_1".into(),
            olu: "joe".into(),
            ori: vec!["user-svc:user".into()],
            iss: ISSUER.into(),
            iat: 1,
            exp: 2,
            jti: "tok_1".into(),
            sid: "ses_1".into(),
            aud: None,
            app: None,
        };
        let token = ours.current.sign(&claims).unwrap();
        assert_eq!(ours.verify(&token), Some(claims.clone()));
        assert_eq!(ours.current.sign(&claims).unwrap(), token, "the same claims give the same token");
        assert_eq!(same_name.verify(&token), None);
        let body = token.split('.').nth(1).unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT","kid":"keyp_1"}"#);
        let symmetric = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"keyp_1"}"#);
        for forged in
            [format!("{none}.{body}."), format!("{symmetric}.{body}.AAAA"), format!("{token}A"), "a.b.c".into()]
        {
            assert_eq!(ours.verify(&forged), None, "{forged}");
        }
        assert!(ours.current.public_pem.starts_with("-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0B"));
    }
}
