//! `/metrics` as Prometheus reads it, by Prometheus's own checker, and what is drawn and told from it: `docs/alerts.yml` and
//! `docs/grafana-board.json` name nothing that a daemon does not have.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::account::authorization;
use holdfast_tests::checkout;
use holdfast_tests::content;
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{Output, run, say, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use s3_client::{Fault, Op};
use serde_json::Value;

const STORE: &str = "store";
/// What Prometheus asks for.
const OPENMETRICS: &str =
    "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// Both formats of the figures of a daemon that has done everything there are figures of, and is in a backup.
fn figures() -> Result<[String; 2]> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.add_s3_store(
        "embedded",
        STORE,
        &["--quota", "1 TiB", "--gc-schedule", "yearly"],
    )?;
    daemon.start()?;
    let mut figures = None;
    daemon.explain(|| {
        figures = Some(figures_of(&server, &daemon)?);
        Ok(())
    });
    daemon.stop()?;
    figures.context("no figures")
}

fn figures_of(server: &EmbeddedS3, daemon: &Daemon) -> Result<[String; 2]> {
    let image = daemon.dir().join("image");
    content::write_image(&image, 1, 2)?;
    let archive = format!("disk.img:{}", image.display());
    let backup = ["backup", &archive, "--backup-id", "box"];
    daemon.client(STORE, &backup)?.success()?;
    daemon.client(STORE, &["gc", "start"])?.success()?;
    let job = ["prune-job", "create", "nightly", "--store", STORE];
    let job = [&job[..], &["--schedule", "yearly", "--keep-last", "1"]].concat();
    daemon.manage(&job)?.success()?;
    daemon.manage(&["prune-job", "run", "nightly"])?.success()?;

    content::write_image(&image, 2, 2)?;
    let gate = server
        .plan()
        .stop_before(Fault::on(Op::Put).containing("/.chunks/").nth(1));
    let mut command = daemon.client_command(STORE, &backup)?;
    let client = std::thread::spawn(move || run(&mut command, b"", COMMAND_TIME_MAX));
    let arrived = wait_for(COMMAND_TIME_MAX, || (gate.arrived() > 0).then_some(()));
    arrived.context("the first chunk never came")?;
    let header = monitor(daemon)?;
    let told = [vec![&*header, OPENMETRICS], vec![&*header]].map(|headers| {
        let answer = daemon.get_with("/metrics", &headers)?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(answer.text())
    });
    gate.release();
    client
        .join()
        .ok()
        .context("the client's thread")??
        .success()?;
    let [openmetrics, text] = told;
    Ok([openmetrics?, text?])
}

/// The header of an account that may look and nothing else, as the documentation has it.
fn monitor(daemon: &Daemon) -> Result<String> {
    let token = "monitor@pbs!prometheus";
    let user = ["user", "add", "monitor@pbs"];
    daemon
        .manage_with(&user, "a password of the tests\n")?
        .success()?;
    let secret = daemon.add_token(token)?;
    for who in ["monitor@pbs", token] {
        daemon.grant("/", who, "Audit")?;
    }
    Ok(format!("Authorization: {}", authorization(token, &secret)))
}

/// A metric that is named somewhere, with the values of labels that are asked of it.
#[derive(Debug)]
struct Use {
    metric: String,
    labels: Vec<(String, String)>,
}

/// The metrics of ours in a text of expressions.
fn uses(text: &str) -> Vec<Use> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut uses = Vec::new();
    for (at, _) in text.match_indices("holdfast_") {
        let rest = &text[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (metric, rest) = rest.split_at(end);
        let selector = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        let mut labels = Vec::new();
        for matcher in selector
            .into_iter()
            .flat_map(|selector| selector.split(','))
        {
            let (label, values) = matcher.split_once('"').unwrap_or((matcher, ""));
            let label = label.trim().trim_end_matches(['=', '~', '!']);
            let values = values.trim_end().trim_end_matches('"').split('|');
            let whole = values.filter(|value| !value.contains(['$', '*']));
            labels.extend(whole.map(|value| (label.to_owned(), value.to_owned())));
        }
        uses.push(Use {
            metric: metric.to_owned(),
            labels,
        });
    }
    uses
}

/// All texts in a JSON value, one to a line.
fn texts(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text}\n"),
        Value::Array(items) => items.iter().map(texts).collect(),
        Value::Object(members) => members.values().map(texts).collect(),
        _ => String::new(),
    }
}

/// Fails unless everything that is used is among the samples.
fn all_exist(figures: &str, uses: &[Use]) -> Result<()> {
    for Use { metric, labels } in uses {
        let samples: Vec<&str> = figures
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(metric))
            .collect();
        ensure!(!samples.is_empty(), "there is no '{metric}' in\n{figures}");
        for (label, value) in labels {
            let pair = format!("{label}=\"{value}\"");
            ensure!(
                samples.iter().any(|sample| sample.contains(&pair)),
                "no '{metric}' has {pair}: {samples:?}"
            );
        }
    }
    Ok(())
}

fn document(name: &str) -> Result<String> {
    let path = checkout::root().join("docs").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read '{}'", path.display()))
}

/// Prometheus's checker with these arguments; `None` where it is not installed.
fn promtool(arguments: &[&str], input: &str) -> Result<Option<Output>> {
    if !installed() {
        return Ok(None);
    }
    let mut command = Command::new("promtool");
    command.args(arguments);
    run(&mut command, input.as_bytes(), COMMAND_TIME_MAX).map(Some)
}

fn installed() -> bool {
    let found = Command::new("promtool").arg("--version").output();
    if found.is_err() {
        say("NOT RUN: promtool is not installed (apt-get install prometheus)");
    }
    found.is_ok()
}

#[test]
fn figures_are_read_by_prometheus_and_all_that_is_drawn_exists() -> Result<()> {
    let [openmetrics, text] = figures()?;
    for document in [
        document("alerts.yml")?,
        texts(&serde_json::from_str(&document("grafana-board.json")?)?),
    ] {
        let uses = uses(&document);
        ensure!(uses.len() > 8, "{uses:?}");
        all_exist(&text, &uses)?;
        all_exist(&openmetrics, &uses)?;
    }
    let unknown = uses("holdfast_datastore_up{datastore=\"another\"}");
    ensure!(all_exist(&text, &unknown).is_err());

    let Some(told) = promtool(&["check", "metrics"], &text)? else {
        return Ok(());
    };
    ensure!(told.code == Some(0) && told.stderr.is_empty(), "{told}");
    // The checker reads the newer format only where it imports it, which takes the times of samples.
    let mut stamped = String::new();
    for line in openmetrics.lines() {
        let time = if line.starts_with('#') {
            ""
        } else {
            " 1700000000"
        };
        stamped.extend([line, time, "\n"]);
    }
    let dir = tempfile::TempDir::new()?;
    let (file, blocks) = (dir.path().join("figures"), dir.path().join("blocks"));
    fs::write(&file, stamped)?;
    let import = ["tsdb", "create-blocks-from", "openmetrics"];
    let places = [file.display().to_string(), blocks.display().to_string()];
    let arguments = [&import[..], &[&places[0], &places[1]]].concat();
    let told = promtool(&arguments, "")?.context("it was there")?;
    told.success().map(drop)
}

/// Samples of a bad day, and who is alarmed.
const BAD_DAY: &str = r#"
rule_files: [ALERTS]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'holdfast_datastore_up{datastore="gone"}'
        values: '0x120'
      - series: 'holdfast_datastore_up{datastore="fine"}'
        values: '1x120'
      - series: 'holdfast_gc_chunks{datastore="hurt",state="missing"}'
        values: '0x60 2x60'
      - series: 'holdfast_job_last_run_ok{datastore="fine",kind="gc",id="fine"}'
        values: '0x120'
      - series: 'holdfast_job_next_run_seconds{datastore="fine",kind="prune",id="late"}'
        values: '600x120'
      - series: 'holdfast_job_running{datastore="fine",kind="prune",id="late"}'
        values: '0x120'
      - series: 'holdfast_job_next_run_seconds{datastore="fine",kind="prune",id="busy"}'
        values: '600x120'
      - series: 'holdfast_job_running{datastore="fine",kind="prune",id="busy"}'
        values: '1x120'
      - series: 'holdfast_datastore_used_bytes{datastore="full"}'
        values: '95x120'
      - series: 'holdfast_datastore_total_bytes{datastore="full"}'
        values: '100x120'
      - series: 'holdfast_s3_requests_total{datastore="far",operation="PutObject"}'
        values: '0+10x120'
      - series: 'holdfast_s3_request_troubles_total{datastore="far",operation="PutObject",trouble="error"}'
        values: '0+2x120'
      - series: 'holdfast_s3_request_troubles_total{datastore="far",operation="PutObject",trouble="retry"}'
        values: '0+9x120'
    promql_expr_test:
      - expr: count by (alertname, datastore, id) (ALERTS{alertstate="firing"})
        eval_time: 100m
        exp_samples:
          - { labels: '{alertname="HoldfastDatastoreDown", datastore="gone"}', value: 1 }
          - { labels: '{alertname="HoldfastChunksMissing", datastore="hurt"}', value: 1 }
          - { labels: '{alertname="HoldfastJobFailed", datastore="fine", id="fine"}', value: 1 }
          - { labels: '{alertname="HoldfastJobLate", datastore="fine", id="late"}', value: 1 }
          - { labels: '{alertname="HoldfastNearlyFull", datastore="full"}', value: 1 }
          - { labels: '{alertname="HoldfastBucketTrouble", datastore="far"}', value: 1 }
"#;

#[test]
fn alarms_are_raised_for_what_they_say() -> Result<()> {
    let rules = checkout::root().join("docs/alerts.yml");
    let rules = rules.display().to_string();
    let Some(told) = promtool(&["check", "rules", &rules], "")? else {
        return Ok(());
    };
    told.success()?;
    let dir = tempfile::TempDir::new()?;
    let test = dir.path().join("test.yml");
    fs::write(&test, BAD_DAY.replace("ALERTS]", &format!("{rules}]")))?;
    let told = promtool(&["test", "rules", &test.display().to_string()], "")?;
    told.context("it was there")?.success().map(drop)
}
