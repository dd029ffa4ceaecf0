//! A first service on OpenOrch, in Rust: an account, an instance, one page. On SIGTERM it deregisters and drains.

use std::process::ExitCode;

use openorch_sdk::service::{
    Service,
    axum::{http::header::CONTENT_TYPE, response::IntoResponse, routing::get},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Service::new("skeleton-svc").route("/skeleton-svc/hello", get(hello)).run().await
}

async fn hello() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], r#"{"hello": "world"}"#)
}
