//! Everything that somebody may show who is not to be let in, or not so far.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_tests::attack::http1::{Connection, Request};
use sha2::{Digest as _, Sha256};

use super::accounts::{ADMIN, OWNER, STORE, secret_of, token_header};
use super::world::World;

/// How long a ticket is good, in seconds, and how far its time may lie in the future.
const LIFE_SECONDS: i64 = 7200;
const SKEW_SECONDS: i64 = 300;

/// As whom credentials make their bearer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody.
    Stranger,
    /// A known user without rights on anything of the suite.
    Powerless,
    /// A ticket without a good token against forged requests: [`Standing::Powerless`] for GET, otherwise a stranger.
    Unproven,
}

/// What is shown.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    /// For messages.
    pub(crate) name: String,
    /// Headers.
    pub(crate) headers: Vec<(String, String)>,
    /// What they are worth.
    pub(crate) standing: Standing,
    /// A word that the bearer may know: it is in a right of the own that has become worthless.
    pub(crate) knows: Option<&'static str>,
}

/// The signing keys of an instance, and what a user's password is checked against.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    ticket: Vec<u8>,
    csrf: Vec<u8>,
    mark: String,
}

impl Keys {
    /// Those of the daemon, with the administrator's password.
    pub(crate) fn of(world: &World) -> Result<Self> {
        let file = world.daemon.config().with_file_name("secrets.toml");
        let text = fs::read_to_string(file)?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.map(|line| line.trim_start_matches(" = ").trim_matches('"'));
            value.with_context(|| format!("no '{name}' among the secrets"))
        };
        Ok(Self {
            ticket: hex::decode(value("ticket")?)?,
            csrf: hex::decode(value("csrf")?)?,
            mark: value("\"root@pbs\"")?.to_owned(),
        })
    }

    /// Those of another instance.
    fn foreign(&self) -> Self {
        Self {
            ticket: Sha256::digest(&self.ticket).to_vec(),
            csrf: Sha256::digest(&self.csrf).to_vec(),
            mark: self.mark.clone(),
        }
    }

    /// A ticket as the daemon makes it.
    pub(crate) fn ticket(&self, user: &str, time: i64) -> String {
        let text = format!("PBS:{user}:{time:08X}");
        let signed = [text.as_bytes(), &[0], self.mark.as_bytes()].concat();
        format!("{text}::{}", sign(&self.ticket, &signed))
    }

    /// A token against forged requests as the daemon makes it.
    pub(crate) fn csrf(&self, user: &str, time: i64) -> String {
        let time = format!("{time:08X}");
        let signature = sign(&self.csrf, format!("{time}:{user}").as_bytes());
        format!("{time}:{signature}")
    }
}

fn sign(key: &[u8], text: &[u8]) -> String {
    let mac = <Hmac<Sha256>>::new_from_slice(key).expect("keys of any length");
    let mac = mac.chain_update(text).finalize();
    STANDARD_NO_PAD.encode(mac.into_bytes())
}

/// The present time in seconds.
pub(crate) fn now() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "tickets are aged by the clock of the machine"
    )]
    let now = jiff::Timestamp::now();
    now.as_second()
}

/// The headers of a ticket.
pub(crate) fn cookie(ticket: &str, csrf: Option<&str>) -> Vec<(String, String)> {
    let mut headers = vec![("Cookie".to_owned(), format!("PBSAuthCookie={ticket}"))];
    headers.extend(csrf.map(|csrf| ("CSRFPreventionToken".to_owned(), csrf.to_owned())));
    headers
}

/// Logs in: ticket and token against forged requests.
pub(crate) async fn log_in(world: &World, user: &str, password: &str) -> Result<(String, String)> {
    let mut connection = Connection::open(&world.peer).await?;
    // A ticket may stand for a password; in a form a plus is a blank.
    let password = password.replace('+', "%2B");
    let body = format!("username={user}&password={password}");
    let request = Request::new("POST", "/api2/json/access/ticket").body(body);
    let answer = connection.ask(&request).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let data = &answer.json()?["data"];
    let text = |name: &str| {
        data[name]
            .as_str()
            .map(ToOwned::to_owned)
            .context("no text")
    };
    Ok((text("ticket")?, text("CSRFPreventionToken")?))
}

struct List(Vec<Credential>);

impl List {
    fn add(&mut self, standing: Standing, name: &str, headers: Vec<(String, String)>) {
        self.0.push(Credential {
            name: name.to_owned(),
            headers,
            standing,
            knows: None,
        });
    }

    fn stranger(&mut self, name: &str, headers: Vec<(String, String)>) {
        self.add(Standing::Stranger, name, headers);
    }

    /// An `Authorization` header of a stranger.
    fn header(&mut self, name: &str, value: &str) {
        let headers = vec![("Authorization".to_owned(), value.to_owned())];
        self.stranger(name, headers);
    }

    /// A token of a stranger.
    fn token(&mut self, name: &str, token: &str, secret: &str) {
        self.stranger(name, vec![token_header(token, secret)]);
    }
}

/// All of them. Some were good until a moment ago: accounts are removed, disabled and given new secrets here.
pub(crate) fn all(world: &World) -> Result<Vec<Credential>> {
    let keys = Keys::of(world)?;
    let mut list = List(Vec::new());
    headers_and_tokens(&mut list);
    tickets(&mut list, &keys);
    unproven(&mut list, &keys);
    withdrawn(&mut list, world)?;
    powerless(&mut list, &keys);
    Ok(list.0)
}

fn headers_and_tokens(list: &mut List) {
    let good = secret_of(ADMIN);
    list.stranger("nothing", Vec::new());
    list.header("an empty header", "");
    list.header("a scheme alone", "PBSAPIToken");
    list.header("a token without secret", &format!("PBSAPIToken {ADMIN}"));
    list.header("another scheme", &format!("Bearer {ADMIN}:{good}"));
    list.header("a password", "Basic cm9vdEBwYnM6cGFzc3dvcmQ=");
    list.header(
        "a user for a token",
        &format!("PBSAPIToken root@pbs:{good}"),
    );
    list.token("a wrong secret", ADMIN, &secret_of("another"));
    list.token("an empty secret", ADMIN, "");
    list.token("a shortened secret", ADMIN, &good[..good.len() - 1]);
    list.token("a secret in capitals", ADMIN, &good.to_uppercase());
    list.token("an overlong secret", ADMIN, &"x".repeat(8000));
    list.token("a secret and NUL", ADMIN, &format!("{good}%00"));
    let kept = hex::encode(Sha256::digest(&good));
    list.token("what is kept of the secret", ADMIN, &kept);
    list.token("the same with its kind", ADMIN, &format!("hashed:{kept}"));
    list.token(
        "the secret of another's token",
        ADMIN,
        &secret_of("nobody@pbs!t"),
    );
    list.token("a name in capitals", "ROOT@pbs!admin", &good);
    list.token(
        "a token of nobody",
        "missing@pbs!t",
        &secret_of("missing@pbs!t"),
    );
    list.token("an unknown token", "root@pbs!missing", &good);
    list.token(
        "a disabled token",
        "owner@pbs!off",
        &secret_of("owner@pbs!off"),
    );
    list.token(
        "an expired token",
        "owner@pbs!late",
        &secret_of("owner@pbs!late"),
    );
    list.token(
        "a token of a disabled user",
        "off@pbs!t",
        &secret_of("off@pbs!t"),
    );
    list.token(
        "a token of an expired user",
        "late@pbs!t",
        &secret_of("late@pbs!t"),
    );
    let twice = [token_header(ADMIN, "wrong"), token_header(ADMIN, &good)];
    list.stranger("a wrong token before a right one", twice.to_vec());
}

fn tickets(list: &mut List, keys: &Keys) {
    let (now, root) = (now(), "root@pbs");
    let csrf = keys.csrf(root, now);
    let mut add = |name: &str, ticket: &str| list.stranger(name, cookie(ticket, Some(&csrf)));
    let good = keys.ticket(root, now);
    add("an empty ticket", "");
    add("no ticket at all", "x");
    add(
        "a ticket of another instance",
        &keys.foreign().ticket(root, now),
    );
    let life = LIFE_SECONDS + 2;
    add("an expired ticket", &keys.ticket(root, now - life));
    add("a ticket of 1970", &keys.ticket(root, 0));
    // The suite may take a while until it is shown.
    let ahead = SKEW_SECONDS + 600;
    add("a ticket of the future", &keys.ticket(root, now + ahead));
    add("a ticket of 2106", &keys.ticket(root, i64::from(u32::MAX)));
    add("a shortened signature", &good[..good.len() - 1]);
    add("no signature", good.split("::").next().unwrap_or_default());
    let others = keys.ticket("nobody@pbs", now);
    add(
        "another's ticket under this name",
        &others.replace("nobody@pbs", root),
    );
    add("a ticket of a token", &keys.ticket(ADMIN, now));
    add("a ticket of nobody", &keys.ticket("missing@pbs", now));
    add("a ticket of a disabled user", &keys.ticket("off@pbs", now));
    add("a ticket of an expired user", &keys.ticket("late@pbs", now));
    add("a token against forgery for a ticket", &csrf);
    add(
        "an overlong ticket",
        &format!("PBS:{}:00000000::AA", "x".repeat(8000)),
    );
    let mut both = cookie(&good, Some(&csrf));
    both.push(token_header(ADMIN, "wrong"));
    list.stranger("a good ticket with a wrong token", both);
}

fn unproven(list: &mut List, keys: &Keys) {
    let (now, nobody) = (now(), "nobody@pbs");
    let ticket = keys.ticket(nobody, now);
    let foreign = keys.foreign().csrf(nobody, now);
    let shown: [(&str, Option<String>); 8] = [
        ("none", None),
        ("an empty one", Some(String::new())),
        ("a wrong one", Some(format!("{now:08X}:AAAA"))),
        ("that of another user", Some(keys.csrf("root@pbs", now))),
        ("that of another instance", Some(foreign)),
        (
            "an expired one",
            Some(keys.csrf(nobody, now - LIFE_SECONDS - 2)),
        ),
        (
            "one of the future",
            Some(keys.csrf(nobody, now + SKEW_SECONDS + 600)),
        ),
        ("the ticket itself", Some(ticket.clone())),
    ];
    for (name, csrf) in shown {
        let name = format!("a ticket; against forgery {name}");
        list.add(Standing::Unproven, &name, cookie(&ticket, csrf.as_deref()));
    }
}

/// What was good when it was given out.
fn withdrawn(list: &mut List, world: &World) -> Result<()> {
    let log_in = |user: &str| {
        let running = log_in(world, user, world.daemon.password());
        world.runtime.block_on(running)
    };
    let users = ["gone@pbs", "leaving@pbs", OWNER];
    let [gone, leaving, owner] = users.map(log_in);
    world.admin("DELETE", "access/users/gone@pbs")?;
    world.admin("PUT", "access/users/leaving@pbs?enable=0")?;
    world.admin(
        "PUT",
        &format!("access/password?userid={OWNER}&password=a-new-password"),
    )?;
    for (name, held) in [
        ("a ticket of a removed user", gone?),
        ("a ticket of a user disabled since", leaving?),
        ("a ticket from before a new password", owner?),
    ] {
        list.stranger(name, cookie(&held.0, Some(&held.1)));
    }
    list.token(
        "a token of a removed user",
        "gone@pbs!t",
        &secret_of("gone@pbs!t"),
    );
    world.admin("DELETE", "access/users/owner@pbs/token/second")?;
    let second = "owner@pbs!second";
    list.token("a removed token", second, &secret_of(second));
    world.admin("PUT", "access/users/owner@pbs/token/t?regenerate=1")?;
    list.token(
        "a secret that was renewed",
        "owner@pbs!t",
        &secret_of("owner@pbs!t"),
    );
    let revoked =
        "access/acl?delete=1&path=/datastore/vault&auth-id=reader@pbs&role=DatastoreReader";
    world.admin("PUT", revoked)?;
    Ok(())
}

fn powerless(list: &mut List, keys: &Keys) {
    for (name, token) in [
        ("a token without rights", "nobody@pbs!t"),
        (
            "a strong token of a user without rights",
            "nobody@pbs!strong",
        ),
        ("a token whose user has lost the right", "reader@pbs!t"),
        ("the administrator of something else", "elsewhere@pbs!t"),
        ("rights that are denied further down", "barred@pbs!t"),
        ("rights that do not go further down", "shallow@pbs!t"),
        ("a token of the superuser without rights", "root@pam!t"),
    ] {
        let headers = vec![token_header(token, &secret_of(token))];
        list.add(Standing::Powerless, name, headers);
        if token == "reader@pbs!t"
            && let Some(last) = list.0.last_mut()
        {
            last.knows = Some(STORE);
        }
    }
    let (now, nobody) = (now(), "nobody@pbs");
    let proven = cookie(&keys.ticket(nobody, now), Some(&keys.csrf(nobody, now)));
    list.add(
        Standing::Powerless,
        "a ticket of a user without rights",
        proven,
    );
}
