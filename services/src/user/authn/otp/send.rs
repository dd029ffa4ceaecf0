//! Operations that send a one-time code, with and without a session.

use openorch_api::{
    Body, Json,
    user::{SendOtpRequest, SendOtpResponse},
};
use openorch_chassis::{Cx, Result, forwarded::client_network};

use crate::user::authn::{otp::codes::OtpRequest, rows::OtpPurpose, state::Authn};

pub async fn send(cx: Cx<Authn>, Body(request): Body<SendOtpRequest>) -> Result<Json<SendOtpResponse>> {
    cx.request.audit.record_unchanged();
    let address = client_network(cx.request.counted_address()).to_string();
    let app = cx.authz.app_of_host(&request.app_host)?;
    let purpose = cx.codes.purpose_of_code(&request.contact_id).await?;
    let is_at_home = cx.passwords.is_known_network(&request.contact_id, cx.request.counted_address()).await;
    cx.codes
        .send_code(
            request,
            OtpRequest {
                purpose,
                user_id: "",
                app: &app,
                account: None,
                network: &address,
                is_known_network: is_at_home,
            },
        )
        .await
}

pub async fn send_to_caller(cx: Cx<Authn>, Body(request): Body<SendOtpRequest>) -> Result<Json<SendOtpResponse>> {
    cx.request.audit.record_unchanged();
    let caller = cx.caller()?;
    let address = client_network(cx.request.counted_address()).to_string();
    let purpose = OtpPurpose::Verify;
    let is_at_home = cx.passwords.is_known_network(&request.contact_id, cx.request.counted_address()).await;
    let (user_id, account) = (&*caller.user_id, Some(&*caller.user_id));
    let asked =
        OtpRequest { purpose, user_id, app: &caller.app, account, network: &address, is_known_network: is_at_home };
    cx.codes.send_code(request, asked).await
}
