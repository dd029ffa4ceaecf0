//! Prints the OpenAPI document of what is accepted, from which requests are made in tests ([`openorch_api::openapi::accepted`]).

fn main() {
    println!("{}", openorch_api::openapi::accepted(env!("CARGO_PKG_VERSION")));
}
