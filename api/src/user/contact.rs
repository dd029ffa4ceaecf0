//! Wire types of contacts (e-mail addresses of accounts) and of the one-time codes that verify them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_false;
use crate::{Time, form};

/// A contact of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Contact {
    /// The normalized form of `value`, as `removeContact` takes it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// When the contact was added.
    pub created_at: Time,
    /// When the contact was last changed.
    pub updated_at: Time,
    /// Id of the account that has the contact; omitted where that is the account it is listed in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    /// Kind of contact, such as `email`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// The contact as it was given, for example an e-mail address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Whether the account has verified the contact with a code.
    #[serde(skip_serializing_if = "is_false")]
    pub verified: bool,
    /// Whether it was the first contact of the account.
    #[serde(skip_serializing_if = "is_false")]
    pub is_primary: bool,
}

/// A contact given by a caller. It is verified only by a code that was sent to it: a registration without a code adds no
/// contact, and its response does not reveal whether another account has the contact.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContactInput {
    /// Kind of contact, such as `email`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<32>")]
    pub platform: String,
    /// The contact, for example an e-mail address. Also accepted as `id`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<320>")]
    pub value: String,
    /// The `otpId` that `sendOtp` returned for this contact; sent together with `otpCode`, the code that arrived.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<128>")]
    pub otp_id: String,
    /// The code that arrived at the contact.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<64>")]
    pub otp_code: String,
}

/// Body of `sendOtp` and `sendOwnOtp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendOtpRequest {
    /// The contact, such as an e-mail address.
    #[schemars(schema_with = "form::given_name::<320>")]
    pub contact_id: String,
    /// The host of the app in which the code is valid; `unnamed` by default. Ignored for a signed-in caller, whose session
    /// determines the app.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// `email` (default).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<32>")]
    pub contact_platform: String,
}

/// Response of `sendOtp` and `sendOwnOtp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SendOtpResponse {
    /// The id of the code, to be sent together with it.
    pub otp_id: String,
}

/// Body of `verifyContact`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyContactRequest {
    /// The `otpId` that `sendOwnOtp` returned.
    #[schemars(schema_with = "form::text::<128>")]
    pub otp_id: String,
    /// The code that arrived at the contact.
    #[schemars(schema_with = "form::text::<64>")]
    pub otp_code: String,
}
