//! A mail, through the mail server that is named.

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use sha2::{Digest as _, Sha256};

use super::DeliveryError;
use super::event::{BODY, Event, SUBJECT, render};
use crate::config::{Notify, NotifyScheme};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// Longest subject, in characters.
const SUBJECT_CHARS_MAX: usize = 200;

/// Sends the event to all recipients in one mail.
pub(super) async fn send(
    notify: &Notify,
    secret: Option<&str>,
    event: &Event,
) -> Result<(), DeliveryError> {
    let message = message(notify, event)?;
    let transport = transport(notify, secret)?;
    let sent = transport.send(message).await;
    sent.map(drop).map_err(|error| {
        if error.is_permanent() || error.is_client() {
            DeliveryError::refused(error.to_string())
        } else {
            DeliveryError::transient(error.to_string())
        }
    })
}

fn message(notify: &Notify, event: &Event) -> Result<Message, DeliveryError> {
    let address = |text: &str| {
        let mailbox = text.parse::<Mailbox>();
        mailbox.map_err(|error| DeliveryError::refused(format!("'{text}': {error}")))
    };
    let subject = render(notify.subject.as_deref().unwrap_or(SUBJECT), event)?;
    let subject = subject.lines().collect::<Vec<_>>().join(" ");
    let from = address(notify.from.as_deref().unwrap_or_default())?;
    // The same for every attempt, so that whoever gets it twice sees one.
    let name = hex::encode(&Sha256::digest(&event.id)[..16]);
    let id = format!("<{name}@{}>", from.email.domain());
    let mut message = Message::builder()
        .from(from)
        .message_id(Some(id))
        .header(ContentType::TEXT_PLAIN)
        .subject(subject.chars().take(SUBJECT_CHARS_MAX).collect::<String>());
    for to in &notify.to {
        message = message.to(address(to)?);
    }
    let body = render(notify.body.as_deref().unwrap_or(BODY), event)?;
    let message = message.body(body);
    message.map_err(|error| DeliveryError::refused(error.to_string()))
}

fn transport(notify: &Notify, secret: Option<&str>) -> Result<Transport, DeliveryError> {
    let host = notify.url.host().unwrap_or_default();
    let refused = |error: lettre::transport::smtp::Error| DeliveryError::refused(error.to_string());
    let mut builder = match notify.scheme {
        NotifyScheme::MailTls => Transport::relay(host).map_err(refused)?,
        NotifyScheme::MailStartTls => Transport::starttls_relay(host).map_err(refused)?,
        NotifyScheme::MailPlain | NotifyScheme::Webhook => Transport::builder_dangerous(host),
    };
    if let Some(port) = notify.url.port_u16() {
        builder = builder.port(port);
    }
    if let Some(user) = &notify.user {
        let secret = secret.unwrap_or_default().to_owned();
        builder = builder.credentials(Credentials::new(user.clone(), secret));
    }
    Ok(builder.build())
}
