//! Outputs of operations: the success status and the body, encoded by the server and decoded by the client.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};

/// What the document says of an output.
pub struct OutputShape {
    pub status: u16,
    /// Content type and schema, for outputs that have a body.
    pub body: Option<(&'static str, Schema)>,
}

/// A body ready to be sent.
pub struct Encoded {
    pub content_type: &'static str,
    pub bytes: Vec<u8>,
}

pub trait Output: Sized + Send + 'static {
    fn describe(generator: &mut SchemaGenerator) -> OutputShape;
    /// `None`: the answer has no body.
    fn encode(self) -> Result<Option<Encoded>, serde_json::Error>;
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error>;
    /// The status this output is sent with.
    const STATUS: u16;
}

pub const JSON: &str = "application/json";

macro_rules! json_output {
    ($($(#[doc = $doc:literal])+ $name:ident $status:literal;)*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name<T>(pub T);

            impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Output for $name<T> {
                const STATUS: u16 = $status;
                fn describe(generator: &mut SchemaGenerator) -> OutputShape {
                    OutputShape { status: $status, body: Some((JSON, generator.subschema_for::<T>())) }
                }
                fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
                    Ok(Some(Encoded { content_type: JSON, bytes: serde_json::to_vec(&self.0)? }))
                }
                fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
                    serde_json::from_slice(bytes).map($name)
                }
            }
        )*
    };
}

json_output! {
    /// 200 with a JSON body.
    Json 200;
    /// 201 with a JSON body.
    Created 201;
}

/// 204.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoContent;

impl Output for NoContent {
    const STATUS: u16 = 204;
    fn describe(_: &mut SchemaGenerator) -> OutputShape {
        OutputShape { status: 204, body: None }
    }
    fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
        Ok(None)
    }
    fn decode(_: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(NoContent)
    }
}

macro_rules! text_output {
    ($($(#[doc = $doc:literal])+ $name:ident $content_type:literal;)*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name(pub String);

            impl Output for $name {
                const STATUS: u16 = 200;
                fn describe(_: &mut SchemaGenerator) -> OutputShape {
                    let media_type = $content_type.split(';').next().unwrap_or($content_type);
                    OutputShape { status: 200, body: Some((media_type, schemars::json_schema!({ "type": "string" }))) }
                }
                fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
                    Ok(Some(Encoded { content_type: $content_type, bytes: self.0.into_bytes() }))
                }
                fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
                    Ok($name(String::from_utf8_lossy(bytes).into_owned()))
                }
            }
        )*
    };
}

text_output! {
    /// 200 with a page.
    Html "text/html; charset=utf-8";
    /// 200 with samples in the Prometheus text format 0.0.4.
    Samples "text/plain; version=0.0.4; charset=utf-8";
}
