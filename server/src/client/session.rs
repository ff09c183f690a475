//! A logged-in connection to a server: REST calls, and the upgrade to a backup or reader session.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use pbs_datastore::{AuthId, BackupGroup, Namespace, Snapshot};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::http::{BodyParts, H2, Http1, RequestError, USER_AGENT, json as parse, query};
use super::repository::{Access, Repository};

/// Most bytes of a REST answer: a list of some hundred thousand snapshots.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A connection on which the caller is known.
pub(crate) struct Session {
    access: Access,
    connection: Http1,
    credentials: Credentials,
}

/// The body of a request.
#[derive(Debug, Clone)]
enum Content {
    None,
    Json(Bytes),
    Bytes(Bytes),
}

impl Content {
    fn json(value: &Value) -> Self {
        Self::Json(Bytes::from(value.to_string()))
    }
}

#[derive(Clone)]
enum Credentials {
    Token(HeaderValue),
    Ticket {
        cookie: HeaderValue,
        csrf: HeaderValue,
    },
}

/// What a session is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Writing one snapshot.
    Backup {
        /// Nothing is kept; the group must be `host/benchmark`.
        benchmark: bool,
    },
    /// Reading one snapshot.
    Reader,
}

impl Session {
    /// Connects and, unless the caller is a token, logs in.
    pub(crate) async fn open(access: &Access) -> Result<Self, RequestError> {
        let connection = Http1::connect(access).await?;
        let credentials = match &access.repository.auth_id {
            AuthId::Token(token) => {
                let secret = utf8_percent_encode(&access.secret, NON_ALPHANUMERIC);
                Credentials::Token(secret_header(&format!("PBSAPIToken {token}:{secret}"))?)
            }
            // Replaced by the login below; a server answers 401 to it.
            AuthId::User(_) => Credentials::Ticket {
                cookie: HeaderValue::from_static(""),
                csrf: HeaderValue::from_static(""),
            },
        };
        let mut session = Self {
            access: access.clone(),
            connection,
            credentials,
        };
        if matches!(session.credentials, Credentials::Ticket { .. }) {
            session.login().await?;
        }
        Ok(session)
    }

    /// Another connection for the same caller, without another login.
    pub(crate) async fn another(&self) -> Result<Self, RequestError> {
        Ok(Self {
            access: self.access.clone(),
            connection: Http1::connect(&self.access).await?,
            credentials: self.credentials.clone(),
        })
    }

    async fn login(&mut self) -> Result<(), RequestError> {
        let body = json!({
            "username": self.access.repository.auth_id.to_string(),
            "password": self.access.secret,
        });
        let request = self.request(Method::POST, "/access/ticket", Content::json(&body), false)?;
        let answer = self.connection.send(request).await?;
        let body = self
            .connection
            .body(answer, self.access.answer_bytes_max)
            .await?;
        let envelope = parse(&self.server(), &body)?;
        let member = |name: &str| {
            let text = envelope["data"][name].as_str();
            text.ok_or_else(|| self.misunderstood(&format!("the login has no member '{name}'")))
        };
        let ticket = member("ticket")?;
        if ticket.contains("!tfa!") {
            let message = "this account asks for a second factor: use an API token".to_owned();
            return Err(RequestError::Refused {
                status: StatusCode::UNAUTHORIZED,
                message,
            });
        }
        let ticket = utf8_percent_encode(ticket, NON_ALPHANUMERIC);
        let cookie = secret_header(&format!("PBSAuthCookie={ticket}"))?;
        let csrf = secret_header(member("CSRFPreventionToken")?)?;
        self.credentials = Credentials::Ticket { cookie, csrf };
        Ok(())
    }

    /// The repository this session is for.
    pub(crate) fn repository(&self) -> &Repository {
        &self.access.repository
    }

    /// A path below the datastore: `/admin/datastore/NAME/what`.
    pub(crate) fn datastore(&self, what: &str) -> String {
        format!(
            "/admin/datastore/{}/{what}",
            self.access.repository.datastore
        )
    }

    /// GET; the whole envelope.
    pub(crate) async fn get(
        &mut self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Value, RequestError> {
        self.exchange(Method::GET, path, parameters, Content::None)
            .await
    }

    /// PUT of a JSON object, as a query would be too short for notes; `data` of the answer.
    pub(crate) async fn put(&mut self, path: &str, body: &Value) -> Result<Value, RequestError> {
        self.exchange(Method::PUT, path, &[], Content::json(body))
            .await
            .map(data)
    }

    /// DELETE; `data` of the answer.
    pub(crate) async fn delete(
        &mut self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Value, RequestError> {
        self.exchange(Method::DELETE, path, parameters, Content::None)
            .await
            .map(data)
    }

    /// POST of bytes, with parameters beside them; `data` of the answer.
    pub(crate) async fn upload(
        &mut self,
        path: &str,
        parameters: &[(&str, String)],
        bytes: Bytes,
    ) -> Result<Value, RequestError> {
        let content = Content::Bytes(bytes);
        self.exchange(Method::POST, path, parameters, content)
            .await
            .map(data)
    }

    /// POST of a JSON object; `data` of the answer.
    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, RequestError> {
        self.exchange(Method::POST, path, &[], Content::json(body))
            .await
            .map(data)
    }

    /// GET of a file.
    pub(crate) async fn download(
        &mut self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<BodyParts, RequestError> {
        let answer = self
            .ask(Method::GET, path, parameters, Content::None)
            .await?;
        self.connection.stream(answer).await
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        parameters: &[(&str, String)],
        content: Content,
    ) -> Result<Value, RequestError> {
        let answer = self.ask(method, path, parameters, content).await?;
        let body = self.connection.body(answer, self.access.answer_bytes_max);
        let envelope = parse(&self.server(), &body.await?)?;
        if envelope.get("data").is_none() {
            return Err(self.misunderstood("it has no member 'data'"));
        }
        Ok(envelope)
    }

    /// Sends a request and waits for the head of its answer; with a new ticket if that of before has expired.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        parameters: &[(&str, String)],
        content: Content,
    ) -> Result<Response<Incoming>, RequestError> {
        let target = match query(parameters) {
            query if query.is_empty() => path.to_owned(),
            query => format!("{path}?{query}"),
        };
        let mut logged_in_again = false;
        loop {
            if self.connection.is_closed() {
                self.connection = Http1::connect(&self.access).await?;
            }
            let request = self.request(method.clone(), &target, content.clone(), true)?;
            let answer = self.connection.send(request).await?;
            let expired = answer.status() == StatusCode::UNAUTHORIZED
                && matches!(self.credentials, Credentials::Ticket { .. })
                && !logged_in_again;
            if !expired {
                return Ok(answer);
            }
            // Tickets live for two hours; following a task may take longer. The refusal is taken off the connection.
            let body = self.connection.body(answer, self.access.answer_bytes_max);
            drop(body.await);
            logged_in_again = true;
            self.login().await?;
        }
    }

    /// Opens the backup or reader session of one snapshot.
    pub(crate) async fn upgrade(
        mut self,
        upgrade: Upgrade,
        namespace: &Namespace,
        snapshot: &Snapshot,
    ) -> Result<H2, RequestError> {
        let mut parameters = snapshot_parameters(namespace, snapshot);
        parameters.push(("store", self.access.repository.datastore.to_string()));
        parameters.push(("debug", "false".to_owned()));
        let (path, protocol) = match upgrade {
            Upgrade::Backup { benchmark } => {
                parameters.push(("benchmark", benchmark.to_string()));
                ("/backup", "proxmox-backup-protocol-v1")
            }
            Upgrade::Reader => ("/reader", "proxmox-backup-reader-protocol-v1"),
        };
        if self.connection.is_closed() {
            self.connection = Http1::connect(&self.access).await?;
        }
        let mut request = self.request(
            Method::GET,
            &format!("{path}?{}", query(&parameters)),
            Content::None,
            true,
        )?;
        request
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request
            .headers_mut()
            .insert(header::UPGRADE, HeaderValue::from_static(protocol));
        let answer = self.connection.send(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let server = self.server();
            self.connection
                .body(answer, self.access.answer_bytes_max)
                .await?;
            let reason = "it did not change protocols".to_owned();
            return Err(RequestError::Answer { server, reason });
        }
        self.connection.into_h2(answer).await
    }

    fn request(
        &self,
        method: Method,
        target: &str,
        content: Content,
        authenticated: bool,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let server = self.server();
        let (content_type, body) = match content {
            Content::None => ("application/x-www-form-urlencoded", Bytes::new()),
            Content::Json(body) => ("application/json", body),
            Content::Bytes(body) => ("application/octet-stream", body),
        };
        let mut request = Request::builder()
            .uri(format!("/api2/json{target}"))
            .header(header::HOST, &server)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, content_type);
        if authenticated {
            request = match &self.credentials {
                Credentials::Token(token) => request.header(header::AUTHORIZATION, token),
                Credentials::Ticket { cookie, .. } if method == Method::GET => {
                    request.header(header::COOKIE, cookie)
                }
                Credentials::Ticket { cookie, csrf } => request
                    .header(header::COOKIE, cookie)
                    .header("CSRFPreventionToken", csrf),
            };
        }
        request
            .method(method)
            .body(Full::new(body))
            .map_err(|error| RequestError::Connection {
                server,
                reason: error.to_string(),
            })
    }

    fn server(&self) -> String {
        format!(
            "{}:{}",
            self.access.repository.shown_host(),
            self.access.repository.port
        )
    }

    fn misunderstood(&self, reason: &str) -> RequestError {
        RequestError::Answer {
            server: self.server(),
            reason: reason.to_owned(),
        }
    }
}

fn data(mut envelope: Value) -> Value {
    envelope
        .get_mut("data")
        .map(Value::take)
        .unwrap_or_default()
}

/// A header value that is kept out of logs and header compression.
fn secret_header(text: &str) -> Result<HeaderValue, RequestError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| RequestError::Refused {
        status: StatusCode::UNAUTHORIZED,
        message: "the credentials hold characters that cannot be sent".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// `ns`, unless it is the root, as older servers know no namespaces.
pub(crate) fn namespace_parameters(namespace: &Namespace) -> Vec<(&'static str, String)> {
    if namespace.is_root() {
        Vec::new()
    } else {
        vec![("ns", namespace.to_string())]
    }
}

/// `ns`, `backup-type` and `backup-id`.
pub(crate) fn group_parameters(
    namespace: &Namespace,
    group: &BackupGroup,
) -> Vec<(&'static str, String)> {
    let mut parameters = namespace_parameters(namespace);
    parameters.push(("backup-type", group.kind.to_string()));
    parameters.push(("backup-id", group.id.to_string()));
    parameters
}

/// `ns`, `backup-type`, `backup-id` and `backup-time`.
pub(crate) fn snapshot_parameters(
    namespace: &Namespace,
    snapshot: &Snapshot,
) -> Vec<(&'static str, String)> {
    let mut parameters = group_parameters(namespace, &snapshot.group);
    parameters.push(("backup-time", snapshot.time.seconds().to_string()));
    parameters
}
