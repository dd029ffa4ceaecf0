//! A minimal HTTP server that records requests and answers as a test specifies. Requests are recorded as sent, and
//! responses may be malformed.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::{WAIT_TIMEOUT, eventually_sync};

#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names are in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Index of the connection that it arrived on.
    pub connection: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

pub struct Stub {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    /// Answers each request with the bytes that `answer` returns, a complete response; closes the connection if they
    /// are empty.
    pub fn new(answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Stub {
        Stub::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    pub fn on(listener: TcpListener, answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Stub {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || serve(stream.unwrap(), connection, &log, &*answer));
            }
        });
        Stub { url, seen }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until the recorded requests satisfy the condition.
    pub fn wait(&self, what: &str, holds: impl Fn(&[Request]) -> bool) {
        eventually_sync(WAIT_TIMEOUT, what, || holds(&self.seen.lock().unwrap()));
    }
}

/// A JSON response.
pub fn json(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nX-Request-Id: req-1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn serve(stream: TcpStream, connection: usize, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> String) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = read(&mut reader) {
        request.connection = connection;
        log.lock().unwrap().push(request.clone());
        let answer = answer(&request);
        if writer.write_all(answer.as_bytes()).is_err() || answer.is_empty() || request.target.ends_with("hang-up") {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let mut request =
        Request { method: words.next()?.to_owned(), target: words.next()?.to_owned(), ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = request.headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
    let mut body = vec![0; length.map_or(0, |length| length.unwrap())];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}
