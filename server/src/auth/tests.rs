//! Tests of identity.

use std::net::IpAddr;
use std::sync::Arc;

use rstest::rstest;
use tempfile::TempDir;

use super::*;
use crate::clock::TestClock;

const CONFIG: &str = r#"
[user."root@pam"]
[user."tester@pbs"]
[user."gone@pbs"]
enable = false
[user."late@pbs"]
expire = 2000000000
[token."tester@pbs!tok"]
[token."tester@pbs!off"]
enable = false
[token."root@pam!t"]
[token."gone@pbs!t"]
[[acl]]
path = "/datastore"
id = "tester@pbs"
role = "DatastorePowerUser"
[[acl]]
path = "/datastore/one"
id = "tester@pbs!tok"
role = "DatastoreAdmin"
[[acl]]
path = "/datastore/one"
id = "root@pam!t"
role = "DatastoreAudit"
[[acl]]
path = "/"
id = "gone@pbs"
role = "Admin"
[[acl]]
path = "/"
id = "gone@pbs!t"
role = "Admin"
[[acl]]
path = "/"
id = "late@pbs"
role = "Audit"
"#;

const NOW: i64 = 1_795_184_975;

struct Setup {
    _dir: TempDir,
    time: TestClock,
    authority: Authority,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = ConfigStore::create(&dir.path().join("holdfast.toml"), CONFIG).expect("valid");
        let secrets = dir.path().join("secrets.toml");
        let secrets =
            SecretsStore::create(&secrets, &crate::config::Secrets::new_text()).expect("valid");
        let time = TestClock::at(NOW);
        let authority = Authority::new(
            Arc::new(config),
            Arc::new(secrets),
            time.clock(),
            password::cheap(),
        );
        Self {
            _dir: dir,
            time,
            authority,
        }
    }

    async fn with_passwords() -> Self {
        let setup = Self::new();
        for user in ["tester@pbs", "gone@pbs", "late@pbs"] {
            let user = user.parse().expect("a user id");
            setup
                .authority
                .accounts()
                .set_password(&user, "peertest123")
                .await
                .expect("set");
        }
        setup
    }

    async fn login(&self, user: &str, password: &str) -> Result<Login, AuthError> {
        self.authority.login(user, password, address()).await
    }
}

fn address() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

fn cookie(ticket: &str, csrf: Option<&str>) -> Credentials {
    Credentials::Ticket {
        raw: ticket.to_owned(),
        csrf: csrf.map(str::to_owned),
    }
}

#[tokio::test]
async fn a_login_gives_a_ticket_that_works_raw_and_encoded() {
    let setup = Setup::with_passwords().await;
    let login = setup.login("tester@pbs", "peertest123").await.expect("in");
    let encoded =
        percent_encoding::utf8_percent_encode(&login.ticket, percent_encoding::NON_ALPHANUMERIC);
    for raw in [login.ticket.clone(), encoded.to_string()] {
        let who = setup
            .authority
            .authenticate(&Method::GET, Some(&cookie(&raw, None)))
            .expect("known");
        assert_eq!(who.id().to_string(), "tester@pbs");
    }
    let post = |csrf: Option<&str>| {
        let credentials = cookie(&login.ticket, csrf);
        setup
            .authority
            .authenticate(&Method::POST, Some(&credentials))
    };
    assert!(post(Some(&login.csrf_token)).is_ok());
    assert_eq!(post(None), Err(AuthError::Unauthenticated));
    assert_eq!(post(Some("x:y")), Err(AuthError::Unauthenticated));
    let nothing = setup.authority.authenticate(&Method::GET, None);
    assert_eq!(nothing, Err(AuthError::Unauthenticated));
}

#[tokio::test]
async fn a_ticket_is_renewed_by_itself_until_it_expires() {
    let setup = Setup::with_passwords().await;
    let first = setup.login("tester@pbs", "peertest123").await.expect("in");
    setup.time.advance(7000);
    let second = setup.login("tester@pbs", &first.ticket).await.expect("in");
    assert_ne!(first.ticket, second.ticket);
    let other = setup.login("late@pbs", &second.ticket).await;
    assert_eq!(other, Err(AuthError::WrongPassword));
    setup.time.advance(300);
    assert!(setup.login("tester@pbs", &first.ticket).await.is_err());
    assert!(setup.login("tester@pbs", &second.ticket).await.is_ok());
}

#[tokio::test]
async fn a_new_password_ends_all_tickets() {
    let setup = Setup::with_passwords().await;
    let login = setup.login("tester@pbs", "peertest123").await.expect("in");
    let user = "tester@pbs".parse().expect("a user id");
    let accounts = setup.authority.accounts();
    accounts.set_password(&user, "another1").await.expect("set");
    let who = setup
        .authority
        .authenticate(&Method::GET, Some(&cookie(&login.ticket, None)));
    assert_eq!(who, Err(AuthError::Unauthenticated));
    assert!(setup.login("tester@pbs", "peertest123").await.is_err());
    assert!(setup.login("tester@pbs", "another1").await.is_ok());
}

#[rstest]
#[case("tester@pbs", "wrong")]
#[case("unknown@pbs", "peertest123")]
#[case("gone@pbs", "peertest123")]
#[case("root@pam", "")]
#[case("tester", "peertest123")]
#[case("tester@pbs!tok", "peertest123")]
#[tokio::test]
async fn every_refusal_reads_the_same(#[case] user: &str, #[case] password: &str) {
    let setup = Setup::with_passwords().await;
    assert_eq!(
        setup.login(user, password).await,
        Err(AuthError::WrongPassword)
    );
}

#[tokio::test]
async fn the_limit_comes_before_the_hash() {
    let setup = Setup::with_passwords().await;
    let mut refusals = 0;
    while setup.login("tester@pbs", "wrong").await == Err(AuthError::WrongPassword) {
        refusals += 1;
    }
    assert_eq!(refusals, 20);
    let right = setup.login("tester@pbs", "peertest123").await;
    assert!(matches!(right, Err(AuthError::TooMany(_))));
    setup.time.advance(3600);
    assert!(setup.login("tester@pbs", "peertest123").await.is_ok());
}

/// Wrong passwords until the account is locked.
async fn lock(setup: &Setup, user: &str) {
    for _ in 0..10 {
        let wrong = setup.login(user, "wrong").await;
        assert_eq!(wrong, Err(AuthError::WrongPassword));
    }
}

#[tokio::test]
async fn a_locked_account_refuses_the_right_password_in_the_same_words() {
    let setup = Setup::with_passwords().await;
    let before = setup.login("tester@pbs", "peertest123").await.expect("in");
    lock(&setup, "tester@pbs").await;
    let user: UserId = "tester@pbs".parse().expect("a user id");
    assert_eq!(setup.authority.locked_until(&user), Some(NOW + 600));
    assert_eq!(setup.authority.locked_users(), [user]);
    let right = setup.login("tester@pbs", "peertest123").await;
    assert_eq!(right, Err(AuthError::WrongPassword));
    // What somebody is in with goes on: a ticket, and its renewal.
    let who = setup
        .authority
        .authenticate(&Method::GET, Some(&cookie(&before.ticket, None)));
    assert!(who.is_ok());
    assert!(setup.login("tester@pbs", &before.ticket).await.is_ok());
    setup.time.advance(599);
    assert!(setup.login("tester@pbs", "peertest123").await.is_err());
    setup.time.advance(1);
    assert!(setup.login("tester@pbs", "peertest123").await.is_ok());
}

#[tokio::test]
async fn a_right_password_of_a_locked_account_is_limited_as_a_wrong_one() {
    let setup = Setup::with_passwords().await;
    lock(&setup, "tester@pbs").await;
    let mut refusals = 0;
    while setup.login("tester@pbs", "peertest123").await == Err(AuthError::WrongPassword) {
        refusals += 1;
    }
    assert_eq!(refusals, 10, "else the limit would tell which one is right");
}

#[tokio::test]
async fn of_many_attempts_at_once_no_more_are_judged() {
    let setup = Setup::with_passwords().await;
    let user = "tester@pbs";
    let tries = (0..20).map(|number| {
        let password = if number < 10 { "wrong" } else { "peertest123" };
        setup.login(user, password)
    });
    // They are judged in the order of their hashes; what comes after ten wrong ones is refused, whatever it is.
    let results = futures_util::future::join_all(tries).await;
    let locked = setup.authority.locked_users().len();
    let admitted = results.iter().filter(|result| result.is_ok()).count();
    assert!(admitted == 0 || locked == 0, "{admitted} came in");
}

#[tokio::test]
async fn an_unlocked_account_and_a_new_password_let_in() {
    let setup = Setup::with_passwords().await;
    let user: UserId = "tester@pbs".parse().expect("a user id");
    lock(&setup, "tester@pbs").await;
    assert!(setup.authority.unlock(&user));
    assert!(!setup.authority.unlock(&user), "it is not locked any more");
    assert!(setup.login("tester@pbs", "peertest123").await.is_ok());
    setup.time.advance(3600);
    lock(&setup, "tester@pbs").await;
    let accounts = setup.authority.accounts();
    accounts.set_password(&user, "another1").await.expect("set");
    assert!(setup.login("tester@pbs", "another1").await.is_ok());
}

#[tokio::test]
async fn old_tickets_and_made_up_names_lock_nobody() {
    let setup = Setup::with_passwords().await;
    let login = setup.login("tester@pbs", "peertest123").await.expect("in");
    setup.time.advance(8000);
    for _ in 0..19 {
        assert!(setup.login("tester@pbs", &login.ticket).await.is_err());
    }
    assert!(setup.authority.locked_users().is_empty());
    assert!(setup.login("tester@pbs", "peertest123").await.is_ok());
    // Neither of them has a password.
    setup.time.advance(8000);
    for name in ["unknown@pbs", "root@pam"] {
        for _ in 0..10 {
            let refused = setup.login(name, "wrong").await;
            assert_eq!(refused, Err(AuthError::WrongPassword));
        }
        setup.time.advance(8000);
    }
    let lockout = format!("{:?}", setup.authority.lockout);
    assert_eq!(lockout, "Lockout(0 rows)");
}

#[tokio::test]
async fn an_expired_user_is_out_at_once() {
    let setup = Setup::with_passwords().await;
    setup.time.advance(2_000_000_000 - NOW - 1);
    let login = setup.login("late@pbs", "peertest123").await.expect("in");
    let ask = || {
        setup
            .authority
            .authenticate(&Method::GET, Some(&cookie(&login.ticket, None)))
    };
    let who = ask().expect("known");
    let (root, audit) = (AclPath::root(), Privilege::SysAudit);
    assert!(setup.authority.allowed(&who, &root, audit));
    setup.time.advance(1);
    assert!(ask().is_err());
    assert!(!setup.authority.allowed(&who, &root, audit));
}

#[test]
fn tokens_come_and_go_with_their_secret() {
    let setup = Setup::new();
    let accounts = setup.authority.accounts();
    let id: TokenId = "tester@pbs!new".parse().expect("a token id");
    let secret = accounts
        .create_token(None, &id, &AccountChange::default())
        .expect("created");
    let ask = |id: &TokenId, secret: &str| {
        let credentials = Credentials::Token {
            id: id.clone(),
            secret: secret.to_owned(),
        };
        setup
            .authority
            .authenticate(&Method::POST, Some(&credentials))
            .is_ok()
    };
    assert!(ask(&id, secret.reveal()), "no CSRF token needed");
    assert!(!ask(&id, "00000000-0000-0000-0000-000000000000"));
    let other = "tester@pbs!tok".parse().expect("a token id");
    assert!(!ask(&other, secret.reveal()));
    let again = accounts.create_token(None, &id, &AccountChange::default());
    assert!(again.is_err(), "exists already");
    let renewed = accounts.renew_token_secret(&id).expect("renewed");
    assert!(!ask(&id, secret.reveal()));
    assert!(ask(&id, renewed.reveal()));
    let off = AccountChange {
        enable: Some(false),
        ..AccountChange::default()
    };
    accounts.update_token(None, &id, &off).expect("updated");
    assert!(!ask(&id, renewed.reveal()));
    accounts.delete_token(None, &id).expect("deleted");
    assert!(!ask(&id, renewed.reveal()));
    assert!(accounts.delete_token(None, &id).is_err());
}

#[test]
fn deleting_a_user_takes_everything_along() {
    let setup = Setup::new();
    let accounts = setup.authority.accounts();
    let user = "tester@pbs".parse().expect("a user id");
    accounts
        .delete_user(Some(&"0".repeat(64)), &user)
        .expect_err("another content was seen");
    accounts.delete_user(None, &user).expect("deleted");
    let config = setup.authority.config.read();
    assert!(config.tokens.keys().all(|token| token.user() != &user));
    assert!(
        config
            .acl_entries
            .iter()
            .all(|entry| entry.id.user() != &user)
    );
    assert!(accounts.delete_user(None, &user).is_err());
}

#[test]
fn rights_are_given_and_taken() {
    let setup = Setup::new();
    let accounts = setup.authority.accounts();
    let user: UserId = "admin@pbs".parse().expect("a user id");
    let entry = AclEntry {
        path: AclPath::root(),
        id: user.clone().into(),
        role: Role::Admin,
        propagate: true,
    };
    assert!(accounts.grant(None, &entry).is_err(), "no such user");
    accounts
        .create_user(None, &user, &AccountChange::default())
        .expect("created");
    accounts.grant(None, &entry).expect("granted");
    accounts.grant(None, &entry).expect("granted again");
    let who = Principal::of("admin@pbs");
    let path = AclPath::datastore("any");
    let allowed = || {
        setup
            .authority
            .allowed(&who, &path, Privilege::DatastoreAllocate)
    };
    assert!(allowed());
    accounts.revoke(None, &entry).expect("revoked");
    assert!(!allowed());
    assert!(accounts.revoke(None, &entry).is_err());
}

#[rstest]
// The superuser may do everything, the superuser's tokens what they are given.
#[case("root@pam", "/datastore/one", Privileges::ALL)]
#[case("root@pam!t", "/datastore/one", Role::DatastoreAudit.privileges())]
#[case("root@pam!t", "/datastore/two", Privileges::NONE)]
// A token may do what both it and its user may.
#[case("tester@pbs", "/datastore/one", Role::DatastorePowerUser.privileges())]
#[case("tester@pbs!tok", "/datastore/one", Role::DatastorePowerUser.privileges())]
#[case("tester@pbs!tok", "/datastore/two", Privileges::NONE)]
// Who is disabled or unknown may nothing.
#[case("tester@pbs!off", "/datastore/one", Privileges::NONE)]
#[case("gone@pbs", "/", Privileges::NONE)]
#[case("gone@pbs!t", "/", Privileges::NONE)]
#[case("unknown@pbs", "/", Privileges::NONE)]
fn privileges_of(#[case] who: &str, #[case] path: &str, #[case] expected: Privileges) {
    let setup = Setup::new();
    let path = path.parse().expect("a path");
    let found = setup.authority.privileges(&Principal::of(who), &path);
    assert_eq!(found, expected);
}

#[test]
fn what_lies_below_counts_for_lists() {
    let setup = Setup::new();
    let below = |who: &str, path: &str| {
        let path = path.parse().expect("a path");
        setup.authority.privileges_below(&Principal::of(who), &path)
    };
    let token = "tester@pbs!tok";
    assert!(below(token, "/").contains(Privilege::DatastoreBackup));
    assert!(!below(token, "/").contains(Privilege::DatastoreAudit));
    assert!(below(token, "/datastore/two").is_empty());
    assert!(below("gone@pbs", "/").is_empty());
}
