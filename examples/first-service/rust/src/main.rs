//! A first service on OpenOrch, in Rust: an account, an instance, one page. On SIGTERM it says good-bye first.

use std::{convert::Infallible, env, error::Error};

use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use openorch_sdk::{FileCredentialStore, InstanceRegistration, SdkSettings, register_service_account};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

const SLUG: &str = "skeleton-svc";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let self_url = env::var("SELF_URL").unwrap_or_else(|_| "http://127.0.0.1:9311".into());
    let client = SdkSettings::from_env().client()?;
    let store = match env::var_os("SKELETON_DATA") {
        Some(folder) => FileCredentialStore::new(folder, SLUG),
        None => FileCredentialStore::in_home(SLUG)?,
    };
    let token = register_service_account(&client, SLUG, "Skeleton Svc", &store).await?;
    let client = client.with_token(&token)?;
    let instance = InstanceRegistration::new(&self_url).register(&client).await?;

    let mut stop = signal(SignalKind::terminate())?;
    let address = self_url.trim_start_matches("http://").trim_end_matches('/');
    let listener = TcpListener::bind(address).await?;
    println!("listening on {address}");
    loop {
        tokio::select! {
            accepted = listener.accept() => drop(tokio::spawn(serve(accepted?.0))),
            _ = stop.recv() => break,
        }
    }
    Ok(instance.deregister().await?)
}

async fn serve(stream: TcpStream) {
    // A connection that breaks is the caller's business: the next one is served all the same.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(hello)).await;
}

async fn hello<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut answer = match request.uri().path() {
        "/skeleton-svc/hello" => Response::new(Full::from(r#"{"hello": "world"}"#)),
        _ => {
            let mut nothing = Response::new(Full::from(r#"{"error": "there is only /skeleton-svc/hello here"}"#));
            *nothing.status_mut() = StatusCode::NOT_FOUND;
            nothing
        }
    };
    answer.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(answer)
}
