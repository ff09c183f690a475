//! `[notify.ID]`: who is told how tasks end (decision 0014). The ID is a safe id of 3 to 32 characters. Passwords and tokens for it are in the
//! section `[notify]` of the secrets file.

use pbs_datastore::DatastoreName;
use serde::{Deserialize, Serialize};

use super::fault::{Faults, Section};
use super::model::Config;
use super::parse::{check_comment, check_name};
use crate::notify::check_template;

/// Most recipients of a mail.
const RECIPIENTS_MAX: usize = 32;
/// Types of tasks that can be asked for.
const TASKS: &[&str] = &[
    "backup",
    "garbage_collection",
    "move-group",
    "move-namespace",
    "prune",
    "prunejob",
    "reader",
    "s3-refresh",
    "sync",
    "syncjob",
    "verificationjob",
    "verify",
    "verify_group",
    "verify_snapshot",
];
/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Which ends of tasks are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NotifyLevel {
    /// All.
    Info,
    /// Warnings and errors.
    #[default]
    Warning,
    /// Errors.
    Error,
}

impl NotifyLevel {
    /// The name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotifyScheme {
    /// `http://`, `https://`: a POST to the URL.
    Webhook,
    /// `smtps://`: TLS from the beginning, port 465.
    MailTls,
    /// `smtp://`: TLS by STARTTLS, without which nothing is sent; port 587.
    MailStartTls,
    /// `smtp+plain://`: no TLS; port 25.
    MailPlain,
}

impl NotifyScheme {
    /// That of a URL, if it has one.
    pub(crate) fn of(url: &http::Uri) -> Option<Self> {
        Some(match url.scheme_str()? {
            "http" | "https" => Self::Webhook,
            "smtps" => Self::MailTls,
            "smtp" => Self::MailStartTls,
            "smtp+plain" => Self::MailPlain,
            _ => return None,
        })
    }
}

/// `[notify.ID]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notify {
    /// `url`: where to, and how; at most 2048 bytes. Required.
    pub(crate) url: http::Uri,
    /// What the URL begins with.
    pub(crate) scheme: NotifyScheme,
    /// `user`: as whom the mail server is entered. Default: nobody.
    pub(crate) user: Option<String>,
    /// `from`: the sender of a mail. Required for mail.
    pub(crate) from: Option<String>,
    /// `to`: the recipients of a mail, 1 to 32. Required for mail.
    pub(crate) to: Vec<String>,
    /// `level`: `info`, `warning` or `error`. Default: `warning`.
    pub(crate) level: NotifyLevel,
    /// `tasks`: only tasks of these types, such as `syncjob`. Default: all but backups and restores.
    pub(crate) tasks: Vec<String>,
    /// `store`: only tasks of these datastores. Default: all.
    pub(crate) stores: Vec<String>,
    /// `subject`: the template of a mail's subject, at most 16 KiB. Default: a sentence.
    pub(crate) subject: Option<String>,
    /// `body`: the template of what is sent, at most 16 KiB. Default: for a webhook all that is known, as JSON; for mail a text.
    pub(crate) body: Option<String>,
    /// `disable`. Default: false.
    pub(crate) disable: bool,
    /// One line of at most 256 bytes. Default: none.
    pub(crate) comment: Option<String>,
}

impl Notify {
    /// Whether it is a mail.
    pub(crate) fn is_mail(&self) -> bool {
        self.scheme != NotifyScheme::Webhook
    }
}

/// What is wrong with half of what a mail server is entered with.
pub(crate) fn login_fault(is_mail: bool, has_user: bool, has_secret: bool) -> Option<&'static str> {
    match (is_mail, has_user, has_secret) {
        (true, true, false) => {
            Some("'user' needs a secret, the password that the mail server is entered with")
        }
        (true, false, true) => {
            Some("a secret for mail needs 'user', as whom the mail server is entered with it")
        }
        _ => None,
    }
}

/// `[notify.ID]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawNotify {
    url: Option<String>,
    user: Option<String>,
    from: Option<String>,
    to: Vec<String>,
    level: NotifyLevel,
    tasks: Vec<String>,
    store: Vec<String>,
    subject: Option<String>,
    body: Option<String>,
    disable: bool,
    comment: Option<String>,
}

pub(super) fn read_notify(
    faults: &mut Faults<'_>,
    config: &mut Config,
    id: String,
    section: &mut Section,
) {
    check_name(faults, section, &id);
    let Some(raw) = section.read::<RawNotify>(faults) else {
        return;
    };
    check_comment(faults, section, raw.comment.as_deref());
    for (key, template) in [("subject", &raw.subject), ("body", &raw.body)] {
        if let Some(Err(why)) = template.as_deref().map(check_template) {
            section.fault(faults, key, why);
        }
    }
    if let Some(unknown) = raw
        .tasks
        .iter()
        .find(|task| !TASKS.contains(&task.as_str()))
    {
        let message = format!(
            "there are no tasks of type '{unknown}'; there are {}",
            TASKS.join(", ")
        );
        section.fault(faults, "tasks", message);
    }
    for name in &raw.store {
        if let Err(error) = name.parse::<DatastoreName>() {
            section.fault(faults, "store", error);
        }
    }
    let url = section.required(faults, "url", raw.url.clone());
    let Some((url, scheme)) = url.and_then(|url| read_url(faults, section, &url)) else {
        return;
    };
    if scheme == NotifyScheme::Webhook {
        for (key, present) in [
            ("user", raw.user.is_some()),
            ("from", raw.from.is_some()),
            ("to", !raw.to.is_empty()),
            ("subject", raw.subject.is_some()),
        ] {
            if present {
                section.fault(faults, key, "belongs to mail and does nothing here");
            }
        }
    } else {
        let from = section.required(faults, "from", raw.from.clone());
        let addresses = from.iter().map(|from| ("from", from));
        for (key, address) in addresses.chain(raw.to.iter().map(|to| ("to", to))) {
            if let Err(error) = address.parse::<lettre::message::Mailbox>() {
                section.fault(
                    faults,
                    key,
                    format!("'{address}' is no mail address: {error}"),
                );
            }
        }
        let bounds = 1..=RECIPIENTS_MAX;
        if !bounds.contains(&raw.to.len()) {
            let message = format!("must be 1 to {RECIPIENTS_MAX} mail addresses");
            section.fault(faults, "to", message);
        }
    }
    let notify = Notify {
        url,
        scheme,
        user: raw.user,
        from: raw.from,
        to: raw.to,
        level: raw.level,
        tasks: raw.tasks,
        stores: raw.store,
        subject: raw.subject,
        body: raw.body,
        disable: raw.disable,
        comment: raw.comment,
    };
    config.notify.insert(id, notify);
}

fn read_url(
    faults: &mut Faults<'_>,
    section: &mut Section,
    text: &str,
) -> Option<(http::Uri, NotifyScheme)> {
    let url = text.parse::<http::Uri>().ok();
    let url = url.filter(|url| text.len() <= URL_BYTES_MAX && url.host().is_some());
    let scheme = url.as_ref().and_then(NotifyScheme::of);
    let Some((url, scheme)) = url.zip(scheme) else {
        let message =
            "must be a URL that begins with https://, http://, smtps://, smtp:// or smtp+plain://";
        section.fault(faults, "url", message);
        return None;
    };
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    if authority.contains('@') {
        let message = "must not hold a name or password: those are 'user' and the secret";
        section.fault(faults, "url", message);
        return None;
    }
    let only_host = matches!(url.path(), "" | "/") && url.query().is_none();
    if scheme != NotifyScheme::Webhook && !only_host {
        section.fault(
            faults,
            "url",
            "must end after the mail server's name and port",
        );
        return None;
    }
    Some((url, scheme))
}
