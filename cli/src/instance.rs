//! `oo instance`: running copies of services.

use openorch_sdk::api::{
    Json, NoContent, Path, Query,
    registry::{InstanceId, LIST_INSTANCES, ListInstancesRequest, REMOVE_INSTANCE},
};

use crate::{context::Context, failure::Failure, print};

pub async fn list(context: &Context) -> Result<String, Failure> {
    let Json(list) = context.client()?.call(LIST_INSTANCES, Query(ListInstancesRequest::default())).await?;
    let header = ["INSTANCE ID", "URL", "STATUS", "OWNER SLUG", "LAST HEARTBEAT"];
    print::list(context.format(), header, &list.instances, |instance| {
        [
            instance.id.clone(),
            instance.url.clone(),
            instance.status.as_str().into(),
            instance.slug.clone(),
            print::ago(instance.last_heartbeat),
        ]
    })
}

pub async fn remove(context: &Context, id: String) -> Result<String, Failure> {
    let NoContent = context.client()?.call(REMOVE_INSTANCE, Path(InstanceId(id))).await?;
    Ok(String::new())
}
