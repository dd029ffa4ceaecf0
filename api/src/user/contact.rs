//! Wire types of contacts: how an account can be reached, and the codes that show whose a contact is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_false;
use crate::{Time, form};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Contact {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The account showed that it is its own.
    #[serde(skip_serializing_if = "is_false")]
    pub verified: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub is_primary: bool,
}

/// How an account can be reached. What a caller says of verification is ignored, but for a code that was sent there: a
/// registration without it attaches no contact, and answers the same whether another account has it or not.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContactInput {
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<32>")]
    pub platform: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<320>")]
    pub value: String,
    /// The answer to `sendOtp` for this contact, and the code that arrived there.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<128>")]
    pub otp_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<64>")]
    pub otp_code: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendOtpRequest {
    /// The contact, such as an e-mail address.
    #[schemars(schema_with = "form::given_name::<320>")]
    pub contact_id: String,
    /// The host of the app for which the code is to be good, `unnamed` where it is left out. Who is signed in is in an app
    /// already, and asks for that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// `email`, also where it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<32>")]
    pub contact_platform: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SendOtpResponse {
    /// To be sent with the code.
    pub otp_id: String,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyContactRequest {
    #[schemars(schema_with = "form::text::<128>")]
    pub otp_id: String,
    #[schemars(schema_with = "form::text::<64>")]
    pub otp_code: String,
}
