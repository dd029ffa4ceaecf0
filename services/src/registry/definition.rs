//! Definitions: stored descriptions of services, for the programs that deploy them.

use openorch_api::{
    Body, Created, Json, NoContent, Path,
    input::refuse_hidden,
    registry::{DefinitionId, ListDefinitionsResponse, SaveDefinitionRequest, SaveDefinitionResponse},
};
use openorch_chassis::{Cx, Error, Result};
use openorch_store::{Batch, Query};
use serde_json::Value;

use super::Registry;

pub async fn save(
    cx: Cx<Registry>,
    Body(request): Body<SaveDefinitionRequest>,
) -> Result<Created<SaveDefinitionResponse>> {
    let definition = request.definition;
    check_texts(&serde_json::to_value(&definition).map_err(Error::internal)?)?;
    let id = definition.id.clone();
    cx.platform.commit(&cx.request.audit, Batch::new().with(cx.definitions.upsert(&id, &definition.into())?)).await?;
    Ok(Created(SaveDefinitionResponse {}))
}

/// Refuses hidden characters in any string. Line breaks and tabs are allowed, since a definition may contain scripts.
fn check_texts(value: &Value) -> Result<()> {
    let check = |text: &str| refuse_hidden("a text of the definition", &text.replace(['\n', '\r', '\t'], " "));
    match value {
        Value::String(text) => check(text).map_err(|error| Error::invalid(error.0)),
        Value::Array(list) => list.iter().try_for_each(check_texts),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            check(name).map_err(|error| Error::invalid(error.0))?;
            check_texts(value)
        }),
        _ => Ok(()),
    }
}

pub async fn list(cx: Cx<Registry>, (): ()) -> Result<Json<ListDefinitionsResponse>> {
    let found = cx.definitions.find(&Query::all().limit(cx.platform.max_unpaged_list as u64 + 1)).await?;
    cx.platform.check_list_length(found.len(), "definitions", "remove some")?;
    Ok(Json(ListDefinitionsResponse { definitions: found.into_iter().map(|row| row.value.into()).collect() }))
}

pub async fn delete(cx: Cx<Registry>, Path(id): Path<DefinitionId>) -> Result<NoContent> {
    let unknown = |error: openorch_store::StoreError| match error {
        openorch_store::StoreError::NotFound(_) => {
            Error::new(&openorch_api::registry::NO_SUCH_DEFINITION, format!("there is no definition `{}`", id.0))
        }
        other => other.into(),
    };
    cx.platform
        .commit(&cx.request.audit, Batch::new().with(cx.definitions.delete(&id.0, None)))
        .await
        .map_err(unknown)?;
    Ok(NoContent)
}
