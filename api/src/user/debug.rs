//! `Debug` for wire types with a password, a token or a code: omits the secret, so that none is logged.

use std::fmt;

use super::{
    AuthToken, ChangePasswordRequest, ContactInput, CreateUserRequest, Invitation, LoginRequest, RegisterRequest,
    ResetPasswordRequest, VerifyContactRequest,
};

/// Implements `Debug` with the listed fields only.
macro_rules! shows {
    ($($name:ident { $($field:ident),* })*) => {
        $(
            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_struct(stringify!($name))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
                }
            }
        )*
    };
}

shows! {
    RegisterRequest { name, slug, device }
    LoginRequest { slug, device }
    AuthToken { id, created_at, updated_at, user_id, active, device, expires_at }
    ChangePasswordRequest { slug }
    CreateUserRequest { user, role_ids, contacts }
    ResetPasswordRequest {}
    ContactInput { platform, value, otp_id }
    VerifyContactRequest { otp_id }
    Invitation { id, created_at, expires_at, uses_left, role_ids, created_by }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::user::{CreateInvitationResponse, LoginResponse, RegisterResponse};

    #[test]
    fn secrets_are_not_shown() {
        fn shown<T: DeserializeOwned + fmt::Debug>(json: &str) -> String {
            format!("{:?}", serde_json::from_str::<T>(json).unwrap())
        }
        let token = r#"{"token": {"id": "a", "token": "s3cret"}}"#;
        for text in [
            shown::<RegisterRequest>(r#"{"slug": "a", "password": "s3cret", "invitation": "s3cret"}"#),
            shown::<LoginRequest>(r#"{"slug": "a", "password": "s3cret"}"#),
            shown::<ChangePasswordRequest>(r#"{"slug": "a", "currentPassword": "s3cret", "newPassword": "s3cret"}"#),
            shown::<CreateUserRequest>(r#"{"user": {"slug": "a", "name": "A"}, "password": "s3cret"}"#),
            shown::<RegisterResponse>(token),
            shown::<LoginResponse>(token),
            shown::<CreateInvitationResponse>(r#"{"invitation": {"id": "a", "code": "s3cret"}}"#),
        ] {
            assert!(text.contains("\"a\"") && !text.contains("s3cret"), "{text}");
        }
        assert!(!shown::<ResetPasswordRequest>(r#"{"newPassword": "s3cret"}"#).contains("s3cret"));
    }
}
