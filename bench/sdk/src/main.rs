//! Measures the CPU time of calls through the SDK relative to plain reqwest, with one thread, one connection and a minimal
//! server in a separate process. Rounds of both are interleaved, so that both run under the same conditions.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use openorch_sdk::{
    Client, ClientFactory,
    api::{
        Body, Json, Query,
        registry::{LIST_INSTANCES, ListInstancesRequest, ListInstancesResponse},
        user::{IS_AUTHORIZED, IsAuthorizedRequest, IsAuthorizedResponse, PermissionId},
    },
};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 15;
const CALLS: usize = 2_000;
const TARGET: f64 = 1.3;
const SERVE: &str = "serve";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJvdWkiOiJ1c3JfMSJ9.c2lnbmF0dXJl";

const ALLOWED: &str = r#"{"authorized":true,"user":{"id":"usr_lqYS1mUebZ","createdAt":"2026-11-25T09:41:00.920354Z","updatedAt":"2026-11-25T09:41:00.920354Z","name":"Joe","slug":"joe"}}"#;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        return serve();
    }
    let (mut server, url) = start_server()?;
    let measured = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&url));
    server.kill()?;
    server.wait()?;
    measured
}

async fn measure(url: &str) -> Result<(), Error> {
    let sdk = ClientFactory::new(url)?.client().with_token(TOKEN)?;
    let http_client = reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    println!("{:<44} {:>9} {:>9} {:>7}", "call", "reqwest", "SDK", "ratio");
    let mut worst: f64 = 0.0;
    for (name, instances) in
        [("isAuthorized (POST, 180-byte response)", None), ("listInstances (GET, 20 instances)", Some(()))]
    {
        let (mut hands, mut sdks) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (hand, ours) = match instances {
                None => (is_authorized_with_reqwest(&http_client, url).await?, is_authorized(&sdk).await?),
                Some(()) => (list_with_reqwest(&http_client, url).await?, list(&sdk).await?),
            };
            // The first round is a warm-up.
            if round > 0 {
                hands.push(hand);
                sdks.push(ours);
            }
        }
        let (hand, ours) = (median(hands), median(sdks));
        println!("{name:<44} {hand:>6.1} us {ours:>6.1} us {:>7.2}", ours / hand);
        worst = worst.max(ours / hand);
    }
    println!("limit {TARGET}: {}", if worst <= TARGET { "met" } else { "MISSED" });
    if worst > TARGET { Err("the overhead of the SDK exceeds the limit".into()) } else { Ok(()) }
}

async fn is_authorized(client: &Client) -> Result<f64, Error> {
    let before = cpu();
    for _ in 0..CALLS {
        let permission = openorch_sdk::api::Path(PermissionId("skeleton-svc:thing:view".into()));
        let Json(answer) = client.call(IS_AUTHORIZED, (permission, Body(IsAuthorizedRequest::default()))).await?;
        assert!(answer.authorized);
    }
    Ok(per_call(before))
}

async fn is_authorized_with_reqwest(client: &reqwest::Client, url: &str) -> Result<f64, Error> {
    let before = cpu();
    for _ in 0..CALLS {
        let url = format!("{url}/user-svc/permission/{}/is-authorized", "skeleton-svc%3Athing%3Aview");
        let body = serde_json::to_vec(&IsAuthorizedRequest::default())?;
        let request = client.post(url).header(CONTENT_TYPE, "application/json").body(body);
        let answer = send_with_reqwest(request).await?;
        assert!(serde_json::from_slice::<IsAuthorizedResponse>(&answer)?.authorized);
    }
    Ok(per_call(before))
}

async fn list(client: &Client) -> Result<f64, Error> {
    let before = cpu();
    for _ in 0..CALLS {
        let input = ListInstancesRequest { slug: Some("skeleton-svc".into()), ..ListInstancesRequest::default() };
        let Json(answer) = client.call(LIST_INSTANCES, Query(input)).await?;
        assert_eq!(answer.instances.len(), 20);
    }
    Ok(per_call(before))
}

async fn list_with_reqwest(client: &reqwest::Client, url: &str) -> Result<f64, Error> {
    let before = cpu();
    for _ in 0..CALLS {
        let answer = send_with_reqwest(client.get(format!("{url}/registry-svc/instances?slug=skeleton-svc"))).await?;
        assert_eq!(serde_json::from_slice::<ListInstancesResponse>(&answer)?.instances.len(), 20);
    }
    Ok(per_call(before))
}

/// Sends the same headers as the SDK and checks the status.
async fn send_with_reqwest(request: reqwest::RequestBuilder) -> Result<Vec<u8>, Error> {
    let token = HeaderValue::try_from(format!("Bearer {TOKEN}"))?;
    let request =
        request.header(AUTHORIZATION, token).header(ACCEPT, "application/json").header("openorch-extended", "1");
    let answer = request.send().await?;
    let status = answer.status();
    let bytes = answer.bytes().await?;
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)).into());
    }
    Ok(bytes.into())
}

/// User and system CPU time of this process.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// CPU time per call since `before`, in microseconds.
fn per_call(before: Duration) -> f64 {
    (cpu() - before).as_secs_f64() * 1e6 / CALLS as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Starts this program again as the server; returns the process and its URL.
fn start_server() -> Result<(Child, String), Error> {
    let mut child = Command::new(std::env::current_exe()?).arg(SERVE).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("the server's output is not piped")?).read_line(&mut line)?;
    Ok((child, line.trim().to_owned()))
}

/// Sends a fixed response per method.
fn serve() -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}", listener.local_addr()?);
    let instance = r#"{"id":"inst_lqYS1r2Egb","url":"http://127.0.0.1:43655","status":"Healthy","lastHeartbeat":"2026-11-25T09:41:00.920354Z","scheme":"http","host":"127.0.0.1","ip":"127.0.0.1","port":43655,"slug":"skeleton-svc"}"#;
    let list = format!(r#"{{"instances":[{}]}}"#, vec![instance; 20].join(","));
    let response = |body: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let (allowed, list) = (response(ALLOWED), response(&list));
    for stream in listener.incoming() {
        let (mut stream, allowed, list) = (stream?, allowed.clone(), list.clone());
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut read = 0;
            loop {
                match stream.read(&mut buffer[read..]) {
                    Ok(more) if more > 0 => read += more,
                    _ => return,
                }
                // A POST body is always `{}`.
                let is_post = buffer.starts_with(b"POST");
                let end: &[u8] = if is_post { b"\r\n\r\n{}" } else { b"\r\n\r\n" };
                if !buffer[..read].ends_with(end) {
                    continue;
                }
                let answer = if is_post { &allowed } else { &list };
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
                read = 0;
            }
        });
    }
    Ok(())
}
