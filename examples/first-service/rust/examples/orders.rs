//! A service with its own permissions: every account may view the orders; dropping one requires a second permission,
//! which `oo role set-permissions`, `oo permit save` and `oo grant save` give. Run it like the first service, with
//! `cargo run --example orders`.

use std::process::ExitCode;

use openorch_sdk::{
    api::role,
    service::{
        ApiError, Caller, Platform, Service,
        axum::{extract::Path, routing::get},
    },
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Service::new("orders-svc")
        .permission("order:view", "See all orders.", &[role::ADMIN, role::USER])
        .permission("order:drop", "Drop orders.", &[role::ADMIN])
        .route_with_permission("/orders-svc/orders", "order:view", get(async || "two orders"))
        .route("/orders-svc/order/{id}", get(view).delete(drop_order))
        .run()
        .await
}

async fn view(Path(id): Path<String>, caller: Option<Caller>) -> String {
    format!("order {id}, as {} sees it", caller.as_ref().map_or("anonymous", Caller::slug))
}

/// `granting` names services that may pass on any permission that they have.
async fn drop_order(platform: Platform, caller: Caller, Path(id): Path<String>) -> Result<String, ApiError> {
    platform.guard().with_granted_slugs(&["billing-svc"]).require(&caller, "orders-svc:order:drop").await?;
    Ok(format!("order {id} is dropped"))
}
