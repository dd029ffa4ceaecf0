//! Prints the permissive OpenAPI document ([`openorch_api::openapi::permissive_document`]), from which tests generate
//! requests.

fn main() {
    println!("{}", openorch_api::openapi::permissive_document(env!("CARGO_PKG_VERSION")));
}
