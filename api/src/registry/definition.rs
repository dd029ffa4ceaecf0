//! Service definitions.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::form;

/// A definition to save; an existing definition with the same id is replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SaveDefinitionRequest {
    /// The definition, which is stored under its `id`.
    pub definition: Definition,
}

/// An empty object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SaveDefinitionResponse {}

/// All definitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListDefinitionsResponse {
    /// The definitions; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub definitions: Vec<Definition>,
}

/// A service definition: its image or repository, its API and its settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// Id of the definition, chosen by the client: 1 to 128 characters.
    #[schemars(schema_with = "form::given_name::<128>")]
    pub id: String,
    /// The container image that runs the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    /// The source repository from which the service is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositorySpec>,
    /// The specifications of its API, at most 1,000.
    #[serde(default, rename = "apiSpecs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub api_specs: Vec<ApiSpec>,
    /// The clients generated for its API, at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub clients: Vec<Client>,
    /// The environment variables of its containers, at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub envars: Vec<EnvVar>,
    /// The ports of its containers that are published on the host, at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub ports: Vec<PortMapping>,
}

/// A container image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// The name of the image with its registry and tag, for example `docker.io/library/nginx:1`.
    #[schemars(schema_with = "form::name::<2048>")]
    pub name: String,
    /// The ports on which the containers listen; empty if omitted.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub internal_ports: Vec<u16>,
}

/// A source repository from which a container image is built.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositorySpec {
    /// The URL from which the repository is cloned.
    #[schemars(schema_with = "form::name::<2048>")]
    pub url: String,
    /// The ports on which the containers listen; empty if omitted.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub ports: Vec<u16>,
    /// The branch, tag or commit to build.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub version: String,
    /// The directory in the repository that is the build context.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<2048>")]
    pub build_context: String,
    /// The path of the container file (Dockerfile).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<2048>")]
    pub container_file: String,
}

/// A specification of the API of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiSpec {
    /// The URL of the specification.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<2048>")]
    pub url: String,
    /// The kind of the specification, for example `OpenAPI`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub protocol_type: String,
    /// The version of the specification.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub version: String,
    /// Further text by key: at most 1,000 keys, values of at most 4,096 characters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "form::words")]
    pub metadata: BTreeMap<String, String>,
}

/// A client for the API of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Client {
    /// The programming language of the client.
    pub language: Language,
    /// The URL of the client, for example of its package or repository.
    #[schemars(schema_with = "form::name::<2048>")]
    pub url: String,
}

/// Languages that the published client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "each variant is the name of a language")]
pub enum Language {
    JavaScript,
    Python,
    Java,
    #[serde(rename = "C#")]
    CSharp,
    #[serde(rename = "C++")]
    CPlusPlus,
    Ruby,
    Go,
    Swift,
    #[serde(rename = "PHP")]
    Php,
    TypeScript,
    Kotlin,
    Scala,
    Perl,
    Rust,
    Haskell,
    Clojure,
    Elixir,
    #[serde(rename = "Objective-C")]
    ObjectiveC,
    #[serde(rename = "F#")]
    FSharp,
}

/// An environment variable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvVar {
    /// The name of the variable.
    #[schemars(schema_with = "form::name::<1024>")]
    pub key: String,
    /// The value, at most 65,536 characters. It is not secret: accounts that may see definitions can read it.
    #[schemars(schema_with = "form::text::<65536>")]
    pub value: String,
}

/// A port of a container that is published on the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortMapping {
    /// The port on which the container listens.
    pub internal: u16,
    /// The port on the host.
    pub host: u16,
}
