//! `oo node`: machines that run the platform.

use openorch_sdk::api::{
    Body, Json,
    registry::{LIST_NODES, ListNodesRequest},
};

use crate::{context::Context, failure::Failure, print};

pub async fn list(context: &Context) -> Result<String, Failure> {
    let Json(list) = context.client()?.call(LIST_NODES, Body(ListNodesRequest::default())).await?;
    print::list(context.format(), ["NODE ID", "URL", "LAST HEARTBEAT"], &list.nodes, |node| {
        [node.id.clone(), node.url.clone(), print::ago(node.last_heartbeat)]
    })
}
