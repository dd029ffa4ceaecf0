//! Mail through a server of the operator's (SMTP, RFC 5321).

use std::{net::IpAddr, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};
use openorch_api::user::errors;
use openorch_chassis::{BoxFuture, Error, Result, mail::Mailer};

use crate::{
    StartError,
    settings::{MailSettings, SmtpSecurity},
};

/// A server that does not take a message within this time is away.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Stands in where no mail server is set.
pub struct NoMailer;

impl Mailer for NoMailer {
    fn check(&self) -> Result<()> {
        Err(Error::new(
            &errors::NO_MAIL_SERVER,
            "this daemon sends no mail: an operator must set OPENORCH_SMTP_HOST and OPENORCH_SMTP_FROM",
        ))
    }

    fn send<'a>(&'a self, _: &'a str, _: &'a str, _: String) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.check() })
    }
}

/// Sends through an SMTP server.
pub struct SmtpMailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl SmtpMailer {
    /// Connects with the first message.
    pub fn new(host: &str, settings: &MailSettings) -> Result<SmtpMailer, StartError> {
        let from = settings.from.as_deref().ok_or_else(|| {
            StartError("OPENORCH_SMTP_FROM is needed with OPENORCH_SMTP_HOST: the sender of the daemon's mail".into())
        })?;
        let from = from.parse().map_err(|error| StartError(format!("OPENORCH_SMTP_FROM: `{from}`: {error}")))?;
        let is_near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let usual = if is_near { SmtpSecurity::None } else { SmtpSecurity::StartTls };
        let security = settings.security.unwrap_or(usual);
        if security == SmtpSecurity::None && !is_near && settings.password.is_some() {
            return Err(StartError(
                "OPENORCH_SMTP_SECURITY=none would send the password of the mail account readable over the network; use \
                 starttls or tls"
                    .into(),
            ));
        }
        let unusable = |error| StartError(format!("OPENORCH_SMTP_HOST: `{}` cannot be used: {error}", host));
        let mut builder = match security {
            SmtpSecurity::StartTls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(host).map_err(unusable)?,
            SmtpSecurity::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(host).map_err(unusable)?,
            SmtpSecurity::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(587),
        };
        if let Some(port) = settings.port {
            builder = builder.port(port);
        }
        if let Some(user) = &settings.user {
            let password = settings.password.as_ref().map(|secret| secret.0.clone()).unwrap_or_default();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(SmtpMailer { transport: builder.timeout(Some(TIMEOUT)).build(), from })
    }
}

impl Mailer for SmtpMailer {
    fn send<'a>(&'a self, to: &'a str, subject: &'a str, text: String) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let to: Address =
                to.parse().map_err(|_| Error::new(&errors::MAIL_NOT_POSSIBLE, "this is no e-mail address"))?;
            let message = Message::builder()
                .from(self.from.clone())
                .to(Mailbox::new(None, to))
                .subject(subject)
                .header(ContentType::TEXT_PLAIN)
                .body(text)
                .map_err(|error| {
                    Error::new(&errors::MAIL_NOT_POSSIBLE, "mail cannot be sent to this e-mail address").because(error)
                })?;
            match self.transport.send(message).await {
                Ok(_) => Ok(()),
                // Letters in it that the server has no way to take (RFC 6531).
                Err(error) if error.is_client() => {
                    Err(Error::new(&errors::MAIL_NOT_POSSIBLE, "the mail server cannot send to this e-mail address")
                        .because(error))
                }
                Err(error) => {
                    tracing::warn!("mail could not be sent: {error}");
                    Err(Error::new(
                        &errors::MAIL_NOT_TAKEN,
                        "the mail server does not take the message; try again in a minute",
                    )
                    .after(60))
                }
            }
        })
    }
}
