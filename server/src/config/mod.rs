//! The daemon's settings: one TOML file with everything but secrets, a second one, mode 0600, with the secrets.
//!
//! Both are edited by the daemon, by the command line and by hand. Comments survive every edit; what is wrong with a
//! file is reported all at once, with lines.

mod edit;
mod fault;
mod job;
mod maintenance;
mod model;
mod notify;
mod parse;
mod s3;
mod secrets;
mod size;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod traffic;

#[expect(unused_imports, reason = "the surface for the rest of the daemon")]
pub(crate) use self::{
    edit::{add_acl, has_section, remove, remove_acl, remove_acl_of, section, set, set_in},
    fault::Fault,
    job::{JobTarget, KEEP_MAX, OUTDATED_AFTER_MAX, PruneJob, SAMPLE_MAX, VerifyJob},
    maintenance::{Maintenance, MaintenanceMode},
    model::{
        Account, Backend, Config, Datastore, Expiry, LogFormat, LogLevel, S3Backend, Server,
        SyncLevel,
    },
    notify::{Notify, NotifyLevel, NotifyScheme, login_fault},
    s3::{CredentialsKind, S3Endpoint},
    secrets::{S3Keys, Secrets},
    size::{ByteCount, ByteCountError, unless_zero},
    store::{ConfigError, ConfigStore, SecretsStore, open_both},
    sync::{REMOTE_PASSWORD_BYTES_MAX, Remote, SyncDirection, SyncJob},
    traffic::{TRAFFIC_LIST_MAX, TrafficRule},
};
