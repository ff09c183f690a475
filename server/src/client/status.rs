//! `holdfast status` and `holdfast version`: how full a datastore is, and what answers there.

use super::ServerArgs;
use super::output::{bytes_of, plain};

/// The member of an installation's id.
const INSTANCE: &str = "pbs-instance-id";

/// `holdfast status`, `holdfast version`
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
}

impl StatusArgs {
    /// Shows how full the datastore is.
    pub(super) async fn status(self) -> anyhow::Result<()> {
        let mut session = self.server.session().await?;
        let path = session.datastore("status");
        let parameters = [("verbose", "true".to_owned())];
        let status = session.get(&path, &parameters).await?["data"].take();
        let bytes = |name: &str| bytes_of(&status[name]);
        let mut lines = vec![
            format!("total: {}", bytes("total")),
            format!("used: {}", bytes("used")),
            format!("available: {}", bytes("avail")),
        ];
        // Only our own server tells more than what the room is.
        for (name, member) in [
            ("stored", "stored"),
            ("of that garbage", "garbage"),
            ("of that since the last collection", "added"),
            ("in the cache", "cached"),
            ("quota", "quota"),
        ] {
            let figure = &status["usage"][member];
            if !figure.is_null() {
                lines.push(format!("{name}: {}", bytes_of(figure)));
            }
        }
        let cost = &status["cost"];
        for (name, member) in [
            ("requests so far cost", "requests"),
            ("a month of what is stored costs", "storage-month"),
        ] {
            if let (Some(price), Some(currency)) =
                (cost[member].as_str(), cost["currency"].as_str())
            {
                lines.push(format!("{name}: {price} {currency}"));
            }
        }
        for (kind, counts) in status["counts"].as_object().into_iter().flatten() {
            if let (Some(groups), Some(snapshots)) =
                (counts["groups"].as_u64(), counts["snapshots"].as_u64())
            {
                lines.push(format!("{kind}: {groups} groups, {snapshots} snapshots"));
            }
        }
        self.server.output().value(&status, &lines.join("\n"))
    }

    /// Shows the version of the server, and which installation it is where it tells that.
    pub(super) async fn version(self) -> anyhow::Result<()> {
        let mut session = self.server.session().await?;
        let mut version = session.get("/version", &[]).await?["data"].take();
        let (major, patch) = (plain(&version["version"]), plain(&version["release"]));
        let mut text = format!("server: {major}.{patch}");
        // Not every server has one, and not everybody may ask.
        let identity = session.get("/nodes/localhost/identity", &[]).await;
        if let Ok(identity) = identity {
            let id = &identity["data"][INSTANCE];
            text = format!("{text}\ninstance: {}", plain(id));
            version[INSTANCE] = id.clone();
        }
        self.server.output().value(&version, &text)
    }
}
