//! Sends mail through the operator's mail server (SMTP, RFC 5321).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use lettre::{
    Address, Message,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        Error as SmtpError,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, AsyncTokioStream, TlsParameters},
        extension::ClientId,
    },
};
use openorch_api::user::errors;
use openorch_chassis::{BoxFuture, Error, LogLimit, Result, fair_semaphore::FairSemaphore, mail::Mailer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use crate::{
    StartError,
    settings::{MailSettings, SmtpSecurity},
};

/// Timeout for sending a message, including the wait in the queue.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout for the server's reply to QUIT after a message was accepted.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of concurrent deliveries.
const MAX_CONCURRENT_DELIVERIES: usize = 8;
/// Maximum bytes read from the server per message, certificates included: reply lines are buffered whole.
const MAX_REPLY_BYTES: usize = 256 << 10;

/// Used when no mail server is configured.
pub struct NoMailer;

impl Mailer for NoMailer {
    fn check(&self) -> Result<()> {
        Err(Error::new(
            &errors::NO_MAIL_SERVER,
            "this daemon cannot send mail: an operator must set OPENORCH_SMTP_HOST and OPENORCH_SMTP_FROM",
        ))
    }

    fn send<'a>(&'a self, _: &'a str, _: &'a str, _: &'a str, _: String) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.check() })
    }
}

/// Sends through an SMTP server, with a new connection for each message.
pub struct SmtpMailer {
    host: String,
    port: u16,
    security: Security,
    credentials: Option<Credentials>,
    from: Mailbox,
    /// Fair queue, keyed by the requester of the message.
    turns: FairSemaphore<String>,
    timeout: Duration,
    failures: LogLimit,
}

enum Security {
    None,
    StartTls(TlsParameters),
    Tls(TlsParameters),
}

/// Why a message was not sent.
enum DeliveryError {
    /// The server rejects this recipient.
    Address(SmtpError),
    Server(String),
}

impl DeliveryError {
    fn of_server(error: impl ToString) -> DeliveryError {
        DeliveryError::Server(error.to_string())
    }
}

impl SmtpMailer {
    /// Does not connect; the first message does.
    pub fn new(host: &str, settings: &MailSettings) -> Result<SmtpMailer, StartError> {
        let from = settings.from.as_deref().ok_or_else(|| {
            StartError("OPENORCH_SMTP_HOST requires OPENORCH_SMTP_FROM, the sender of the daemon's mail".into())
        })?;
        let from = from.parse().map_err(|error| StartError(format!("OPENORCH_SMTP_FROM: `{from}`: {error}")))?;
        let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let usual = if is_loopback { SmtpSecurity::None } else { SmtpSecurity::StartTls };
        let security = settings.security.unwrap_or(usual);
        if security == SmtpSecurity::None && !is_loopback && settings.password.is_some() {
            return Err(StartError(
                "OPENORCH_SMTP_SECURITY=none would send the password of the mail account unencrypted over the network; use \
                 starttls or tls"
                    .into(),
            ));
        }
        let unusable = |error| StartError(format!("OPENORCH_SMTP_HOST: `{}` cannot be used: {error}", host));
        let tls = || TlsParameters::new(host.to_owned()).map_err(unusable);
        let (security, usual_port) = match security {
            SmtpSecurity::StartTls => (Security::StartTls(tls()?), 587),
            SmtpSecurity::Tls => (Security::Tls(tls()?), 465),
            SmtpSecurity::None => (Security::None, 587),
        };
        let credentials = settings.user.as_ref().map(|user| {
            let password = settings.password.as_ref().map(|secret| secret.0.clone()).unwrap_or_default();
            Credentials::new(user.clone(), password)
        });
        Ok(SmtpMailer {
            host: host.to_owned(),
            port: settings.port.unwrap_or(usual_port),
            security,
            credentials,
            from,
            turns: FairSemaphore::new(MAX_CONCURRENT_DELIVERIES),
            timeout: TIMEOUT,
            failures: LogLimit::once_a_minute(),
        })
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, DeliveryError> {
        let (address, hello) = ((&*self.host, self.port), ClientId::default());
        let bounded = async || {
            let stream = TcpStream::connect(address).await.map_err(DeliveryError::of_server)?;
            let stream = Box::new(LimitedStream { stream, remaining: MAX_REPLY_BYTES });
            AsyncSmtpConnection::connect_with_transport(stream, &hello).await.map_err(DeliveryError::of_server)
        };
        let mut connection = match &self.security {
            Security::None => bounded().await?,
            Security::StartTls(tls) => {
                let mut connection = bounded().await?;
                if !connection.can_starttls() {
                    return Err(DeliveryError::of_server(
                        "it does not offer STARTTLS, which OPENORCH_SMTP_SECURITY requires",
                    ));
                }
                connection.starttls(tls.clone(), &hello).await.map_err(DeliveryError::of_server)?;
                connection
            }
            // Unlimited: only the server with the verified certificate can send here.
            Security::Tls(tls) => {
                let connecting =
                    AsyncSmtpConnection::connect_tokio1(address, Some(self.timeout), &hello, Some(tls.clone()), None);
                connecting.await.map_err(DeliveryError::of_server)?
            }
        };
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await.map_err(DeliveryError::of_server)?;
        }
        Ok(connection)
    }

    async fn deliver(&self, message: &Message) -> Result<(), DeliveryError> {
        let mut connection = self.connect().await?;
        match connection.send(message.envelope(), &message.formatted()).await {
            Ok(_) => {
                // The message is accepted, whatever the reply to QUIT.
                let _ = timeout(QUIT_TIMEOUT, connection.quit()).await;
                Ok(())
            }
            // A recipient with characters that the server does not support (RFC 6531).
            Err(error) if error.is_client() || is_mailbox_error(&error) => Err(DeliveryError::Address(error)),
            Err(error) => Err(DeliveryError::of_server(error)),
        }
    }
}

/// Whether the server rejects the mailbox permanently: it does not exist, is not local, or its name is not allowed (RFC
/// 5321, 4.2.3).
fn is_mailbox_error(error: &SmtpError) -> bool {
    error.status().is_some_and(|code| [550, 551, 553].contains(&u16::from(code)))
}

/// A connection with a limit on the bytes read.
#[derive(Debug)]
struct LimitedStream {
    stream: TcpStream,
    remaining: usize,
}

impl AsyncRead for LimitedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let Some(left) = self.remaining.checked_sub(buf.filled().len() - before) else {
            return Poll::Ready(Err(io::Error::other(format!("it sent more than {MAX_REPLY_BYTES} bytes"))));
        };
        self.remaining = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncTokioStream for LimitedStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl Mailer for SmtpMailer {
    fn send<'a>(&'a self, asked_by: &'a str, to: &'a str, subject: &'a str, text: String) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let to: Address =
                to.parse().map_err(|_| Error::new(&errors::MAIL_NOT_POSSIBLE, "invalid e-mail address"))?;
            let message = Message::builder()
                .from(self.from.clone())
                .to(Mailbox::new(None, to))
                .subject(subject)
                .header(ContentType::TEXT_PLAIN)
                .body(text)
                .map_err(|error| {
                    Error::new(&errors::MAIL_NOT_POSSIBLE, "mail cannot be sent to this e-mail address")
                        .with_cause(error)
                })?;
            let sending = timeout(self.timeout, async {
                let _turn = self.turns.acquire(asked_by.to_owned()).await;
                self.deliver(&message).await
            });
            let too_slow = |_| {
                Err(DeliveryError::Server(format!("it did not accept the message within {} s", self.timeout.as_secs())))
            };
            match sending.await.unwrap_or_else(too_slow) {
                Ok(()) => Ok(()),
                Err(DeliveryError::Address(error)) => {
                    Err(Error::new(&errors::MAIL_NOT_POSSIBLE, "the mail server cannot send to this e-mail address")
                        .with_cause(error))
                }
                Err(DeliveryError::Server(why)) => {
                    if let Some(suppressed) = self.failures.allow() {
                        tracing::warn!(suppressed, "mail could not be sent through `{}`: {why}", self.host);
                    }
                    Err(Error::new(
                        &errors::MAIL_NOT_TAKEN,
                        "the mail server did not accept the message; try again in a minute",
                    )
                    .with_retry_after(60))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn w164_a_server_that_is_silent_holds_a_message_only_so_long() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = MailSettings {
            port: Some(listener.local_addr().unwrap().port()),
            from: Some("us@example.org".into()),
            ..MailSettings::default()
        };
        let mailer = SmtpMailer::new("127.0.0.1", &settings).unwrap();
        let mailer = std::sync::Arc::new(SmtpMailer { timeout: Duration::from_millis(100), ..mailer });
        // More than the concurrency limit: waiting in the queue does not extend the timeout.
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..2 * MAX_CONCURRENT_DELIVERIES {
            let mailer = mailer.clone();
            sending.spawn(async move { mailer.send("192.0.2.1", "ann@example.org", "Code", "1".into()).await });
        }
        for outcome in sending.join_all().await {
            assert_eq!(outcome.unwrap_err().code, &errors::MAIL_NOT_TAKEN);
        }
    }
}
