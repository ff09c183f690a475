//! What all actors share, and how long they go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_tests::connection::{Entrance, Trouble};
use holdfast_tests::https;
use holdfast_tests::measure::noise::Noise;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::content::Pool;
use super::gate::Gate;
use super::ledger::Ledger;
use super::sentences;
use super::site::Site;
use super::tally::{Tally, Violation};

/// Shared by all actors.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) site: Site,
    pub(crate) pool: Pool,
    pub(crate) ledger: Ledger,
    pub(crate) gate: Gate,
    pub(crate) tally: Tally,
    tls: Arc<ClientConfig>,
    stopped: watch::Sender<bool>,
    now: s3_client::Clock,
}

impl World {
    /// With everything set up.
    pub(crate) fn new(seed: u64, site: Site) -> Result<Self> {
        Ok(Self {
            tls: Arc::new(https::pinned(site.daemon.fingerprint())?),
            seed,
            site,
            pool: Pool::new(seed),
            ledger: Ledger::default(),
            gate: Gate::new(),
            tally: Tally::new(),
            stopped: watch::Sender::new(false),
            now: s3_client::wall_clock(),
        })
    }

    /// Randomness of one actor.
    pub(crate) fn noise(&self, actor: u64) -> Noise {
        Noise::branch(self.seed, 0x6368_0000 + actor)
    }

    /// Unix seconds.
    pub(crate) fn seconds(&self) -> i64 {
        (self.now)().as_second()
    }

    /// Ends all actors at their next step.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether the actors are to end.
    pub(crate) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Does something, but no longer than until the actors are to end and `grace` after.
    pub(crate) async fn until_stopped<T>(
        &self,
        grace: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut stopped = self.stopped.subscribe();
        let over = async {
            // The sender lives as long as this borrow.
            drop(stopped.wait_for(|stopped| *stopped).await);
            sleep(grace).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = over => None,
        }
    }

    /// Waits, but not longer than until the actors are to end.
    pub(crate) async fn pause(&self, time: Duration) {
        let mut stopped = self.stopped.subscribe();
        drop(timeout(time, stopped.wait_for(|stopped| *stopped)).await);
    }

    /// The way into the daemon, as soon as it runs.
    pub(crate) async fn entrance(&self) -> Entrance {
        self.entrance_at(self.site.door.wait().await)
    }

    /// The way into the daemon at an address.
    pub(crate) fn entrance_at(&self, address: SocketAddr) -> Entrance {
        Entrance {
            address,
            tls: Arc::clone(&self.tls),
            authorization: self.site.authorization(),
        }
    }

    /// Counts what went wrong, and judges it.
    pub(crate) fn trouble(&self, doing: &str, trouble: &Trouble) {
        let tally = &self.tally;
        match trouble {
            Trouble::Refused { status, sentence } => {
                tally.count(&format!("failed: {doing}: refused"));
                tally.refused(doing, *status, sentence);
            }
            Trouble::Broken(how) => {
                tally.count(&format!("failed: {doing}: connection broken"));
                tally.count(&format!("broken: {doing}: {}", sentences::shape(how)));
            }
            Trouble::Chosen(what) => tally.count(&format!("failed: {doing}: {what}")),
            Trouble::Silent(what) => {
                tally.count(&format!("failed: {doing}: no answer"));
                tally.violation(Violation::Hang, format!("{doing}: no answer to {what}"));
            }
            Trouble::Wrong(what) => {
                tally.count(&format!("failed: {doing}: wrong"));
                tally.violation(Violation::Loss, format!("{doing}: {what}"));
            }
        }
    }
}
