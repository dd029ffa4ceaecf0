//! Operations that send a one-time code, with and without a session.

use openorch_api::{
    Body, Json,
    user::{SendOtpRequest, SendOtpResponse},
};
use openorch_chassis::{Cx, Result, forwarded::network};

use crate::user::authn::{otp::codes::Asked, rows::OtpPurpose, state::Authn};

pub async fn send(cx: Cx<Authn>, Body(request): Body<SendOtpRequest>) -> Result<Json<SendOtpResponse>> {
    cx.request.audit.tell_anyway();
    let address = network(cx.request.counted_address()).to_string();
    let app = cx.authz.app_of_host(&request.app_host)?;
    let purpose = cx.codes.purpose_of_code(&request.contact_id).await?;
    let is_at_home = cx.passwords.knows_contact_at(&request.contact_id, cx.request.counted_address()).await;
    cx.codes
        .send_code(request, Asked { purpose, user_id: "", app: &app, account: None, network: &address, is_at_home })
        .await
}

pub async fn send_own(cx: Cx<Authn>, Body(request): Body<SendOtpRequest>) -> Result<Json<SendOtpResponse>> {
    cx.request.audit.tell_anyway();
    let caller = cx.caller()?;
    let address = network(cx.request.counted_address()).to_string();
    let purpose = OtpPurpose::Verify;
    let is_at_home = cx.passwords.knows_contact_at(&request.contact_id, cx.request.counted_address()).await;
    let (user_id, account) = (&*caller.user_id, Some(&*caller.user_id));
    let asked = Asked { purpose, user_id, app: &caller.app, account, network: &address, is_at_home };
    cx.codes.send_code(request, asked).await
}
