//! S3 servers for the tests: what they have in common, and the embedded one.
//!
//! Request budgets are asserted from what the *server* saw, so every server answers a list of the requests it has
//! answered, by S3's names of the operations.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use s3_client::serve::{self, RequestRecord, ServeOptions, Server};
use s3_client::{
    AwsConfig, AwsStore, Credentials, DirectoryStore, FaultPlan, FaultyStore, ModelOptions,
    ModelStore, ObjectStore, Secret, wall_clock,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Name of the one bucket of every server of the tests.
pub const BUCKET: &str = "backups";

/// Keys and address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// URL without path.
    pub endpoint: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

impl Access {
    /// Our own client for the bucket.
    pub async fn client(&self) -> Result<AwsStore> {
        let credentials = Credentials::Static {
            access_key: self.access_key.clone(),
            secret_key: Secret::new(&self.secret_key),
            session_token: None,
        };
        let config = AwsConfig::new(&self.endpoint, BUCKET, credentials);
        Ok(AwsStore::connect(config, wall_clock()).await?)
    }
}

/// One request as a server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// S3's name of the operation.
    pub operation: String,
    /// Key in the path; empty for requests to the bucket.
    pub key: String,
    /// HTTP status; `None` if it was not answered.
    pub status: Option<u16>,
    /// Bytes of the answer, where the server tells.
    pub bytes_out: u64,
}

/// What the tests ask of a server.
pub trait S3Server: Send + Sync {
    /// Name for messages.
    fn name(&self) -> &'static str;

    /// How to reach it.
    fn access(&self) -> Access;

    /// All requests so far, in the order of their answers.
    fn seen(&self) -> Result<Vec<Seen>>;
}

/// A place in a server's list of requests, to look at what came after it.
pub struct Since<'a> {
    server: &'a dyn S3Server,
    start: usize,
}

impl<'a> Since<'a> {
    /// From now on.
    pub fn now(server: &'a dyn S3Server) -> Result<Self> {
        let start = server.seen()?.len();
        Ok(Self { server, start })
    }

    /// The requests since then.
    pub fn seen(&self) -> Result<Requests> {
        Ok(Requests(self.server.seen()?.split_off(self.start)))
    }
}

/// A list of requests that can be counted.
#[derive(Clone, Debug)]
pub struct Requests(pub Vec<Seen>);

impl Requests {
    /// How many of one operation concern keys with `part` in them.
    pub fn count(&self, operation: &str, part: &str) -> usize {
        let wanted = |seen: &&Seen| seen.operation == operation && seen.key.contains(part);
        self.0.iter().filter(wanted).count()
    }

    /// How many of one operation there are.
    pub fn of(&self, operation: &str) -> usize {
        self.count(operation, "")
    }

    /// Counts by operation, for messages.
    pub fn by_operation(&self) -> std::collections::BTreeMap<&str, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for seen in &self.0 {
            *counts.entry(seen.operation.as_str()).or_insert(0) += 1;
        }
        counts
    }
}

/// What the embedded server keeps its objects in.
#[derive(Clone, Debug)]
pub enum Behind<'a> {
    /// Memory, with the manners of some server. Its clock is that of this machine unless the options say otherwise.
    Memory(ModelOptions),
    /// A bucket in this directory.
    Directory(&'a Path),
}

/// A model with the clock of this machine.
pub fn in_real_time() -> ModelOptions {
    ModelOptions {
        clock: wall_clock(),
        ..ModelOptions::default()
    }
}

/// Our own server, in this process and on threads of its own. It can be stopped and started again on the same address
/// with the same objects, and what its [`FaultPlan`] says goes wrong.
pub struct EmbeddedS3 {
    runtime: Option<Runtime>,
    store: Arc<dyn ObjectStore>,
    plan: FaultPlan,
    server: Mutex<Option<Server>>,
    options: ServeOptions,
    address: SocketAddr,
    log: Arc<Mutex<Vec<RequestRecord>>>,
}

impl EmbeddedS3 {
    /// Starts one with an empty memory and the best manners.
    pub fn start() -> Result<Self> {
        Self::start_over(Behind::Memory(in_real_time()))
    }

    /// Starts one.
    pub fn start_over(behind: Behind<'_>) -> Result<Self> {
        Self::start_with(behind, ServeOptions::new(BUCKET))
    }

    /// Starts one with manners of its HTTP side; bucket, keys and log are those of the tests.
    pub fn start_with(behind: Behind<'_>, options: ServeOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let store: Arc<dyn ObjectStore> = match behind {
            Behind::Memory(options) => Arc::new(ModelStore::new(options)),
            Behind::Directory(path) => Arc::new(runtime.block_on(DirectoryStore::open(path))?),
        };
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let server = Self {
            address: listener.local_addr()?,
            runtime: Some(runtime),
            store,
            plan: FaultPlan::new(),
            server: Mutex::new(None),
            options,
            log: Arc::default(),
        };
        server.serve(listener)?;
        Ok(server)
    }

    /// The threads it runs on, also for a test's own requests.
    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the drop")
    }

    /// What goes wrong with requests.
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    /// The objects, past HTTP, log and faults.
    pub fn store(&self) -> &dyn ObjectStore {
        self.store.as_ref()
    }

    /// Ends it: from now on nobody listens on its address. Requests under way are broken off.
    pub fn stop(&self) {
        drop(self.server().take());
        // Its tasks are aborted by the drop; the port is free when they are gone.
        let address = self.address;
        crate::process::wait_for(std::time::Duration::from_secs(10), || {
            std::net::TcpStream::connect(address).err().map(drop)
        });
    }

    /// Listens again, on the same address, with the same objects.
    pub fn start_again(&self) -> Result<()> {
        let listener = self.runtime().block_on(TcpListener::bind(self.address))?;
        self.serve(listener)
    }

    fn serve(&self, listener: TcpListener) -> Result<()> {
        let _entered = self.runtime().enter();
        let log = Arc::clone(&self.log);
        let mut options = self.options.clone();
        let access = self.access();
        options.credentials = Some(serve::Credentials {
            access_key: access.access_key,
            secret_key: access.secret_key,
        });
        options.request_log = Some(Arc::new(move |record| {
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(record.clone());
        }));
        let store = FaultyStore::new(Arc::clone(&self.store), self.plan.clone());
        let server = serve::serve(listener, Arc::new(store), options)
            .context("the embedded S3 server does not start")?;
        *self.server() = Some(server);
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl S3Server for EmbeddedS3 {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn access(&self) -> Access {
        Access {
            endpoint: format!("http://{}", self.address),
            access_key: "HOLDFASTTESTS".to_owned(),
            secret_key: "secret-of-the-tests".to_owned(),
        }
    }

    fn seen(&self) -> Result<Vec<Seen>> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = |record: &RequestRecord| Seen {
            operation: record.operation.clone(),
            key: record.key.clone(),
            status: record.status,
            bytes_out: record.bytes_out,
        };
        Ok(log.iter().map(seen).collect())
    }
}

impl Drop for EmbeddedS3 {
    fn drop(&mut self) {
        drop(self.server().take());
        // Handles may be dropped on a thread of another runtime, which must not be blocked.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
