//! A mail, through the mail server that is named.

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use pbs_datastore::Env;
use sha2::{Digest as _, Sha256};

use super::DeliveryError;
use super::event::{BODY, Event, SUBJECT, render, render_default};
use crate::config::{Notify, NotifyScheme, login_fault};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// Longest subject, in characters.
const SUBJECT_CHARS_MAX: usize = 200;

/// Sends the event to each recipient in a mail of its own, so that one whose address is wrong is in nobody else's way. An error is
/// final once somebody got it.
pub(super) async fn send(
    env: &Env,
    notify: &Notify,
    secret: Option<&str>,
    event: &Event,
) -> Result<(), DeliveryError> {
    let (making, secret) = (notify.clone(), secret.map(str::to_owned));
    // Reads the certificates of authorities.
    let transport = env.compute(move || transport(&making, secret.as_deref()));
    let transport = transport.await?;
    let mut faults = Vec::new();
    for to in &notify.to {
        if let Err(error) = send_to(&transport, to, notify, event).await {
            faults.push((to, error));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let nobody = faults.len() == notify.to.len();
    let transient = nobody && faults.iter().any(|(_, error)| error.transient);
    let all = faults.iter().map(|(to, error)| format!("{to}: {error}"));
    Err(DeliveryError {
        why: all.collect::<Vec<_>>().join("; "),
        transient,
    })
}

async fn send_to(
    transport: &Transport,
    to: &str,
    notify: &Notify,
    event: &Event,
) -> Result<(), DeliveryError> {
    let sent = transport.send(message(to, notify, event)?).await;
    sent.map(drop).map_err(|error| {
        if error.is_permanent() || error.is_client() {
            DeliveryError::refused(error.to_string())
        } else {
            DeliveryError::transient(error.to_string())
        }
    })
}

fn message(to: &str, notify: &Notify, event: &Event) -> Result<Message, DeliveryError> {
    let address = |text: &str| {
        let mailbox = text.parse::<Mailbox>();
        mailbox.map_err(|error| DeliveryError::refused(format!("'{text}': {error}")))
    };
    let text = |template: &Option<String>, default: &str| match template {
        Some(template) => render(template, event, || render_default(default, event)),
        None => render_default(default, event),
    };
    let subject = text(&notify.subject, SUBJECT)?;
    let subject = subject.lines().collect::<Vec<_>>().join(" ");
    let from = address(notify.from.as_deref().unwrap_or_default())?;
    // The same for every attempt, so that whoever gets it twice sees one.
    let name = Sha256::digest(format!("{}\n{to}", event.id));
    let id = format!("<{}@{}>", hex::encode(&name[..16]), from.email.domain());
    let message = Message::builder()
        .from(from)
        .to(address(to)?)
        .message_id(Some(id))
        .header(ContentType::TEXT_PLAIN)
        .subject(subject.chars().take(SUBJECT_CHARS_MAX).collect::<String>())
        .body(text(&notify.body, BODY)?);
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
    if let Some(fault) = login_fault(true, notify.user.is_some(), secret.is_some()) {
        return Err(DeliveryError::refused(fault));
    }
    if let Some((user, secret)) = notify.user.as_ref().zip(secret) {
        builder = builder.credentials(Credentials::new(user.clone(), secret.to_owned()));
    }
    Ok(builder.build())
}
