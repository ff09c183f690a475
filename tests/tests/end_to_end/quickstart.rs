//! `holdfast quickstart`: the README's first command.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::binary::holdfast;
use holdfast_tests::content::write_tree;
use holdfast_tests::process::{Output, run};
use tempfile::TempDir;

/// How long one run may take on a busy machine.
const TIME_MAX: Duration = Duration::from_mins(5);

fn quickstart(dir: &Path, path: &Path) -> Result<Output> {
    let mut command = holdfast()?.command();
    command
        .args(["quickstart", "--once", "--dir"])
        .arg(dir)
        .arg(path);
    run(&mut command, b"", TIME_MAX)
}

/// The row of the table that begins with `step`, in words.
fn row<'a>(text: &'a str, step: &str) -> Result<Vec<&'a str>> {
    let line = text.lines().find(|line| line.starts_with(step));
    let line = line.with_context(|| format!("no row '{step}' in:\n{text}"))?;
    Ok(line[step.len()..].split_whitespace().collect())
}

/// Chunks, new ones, duplicates and S3 requests of a backup's row.
fn counts(text: &str, step: &str) -> Result<[u64; 4]> {
    let words = row(text, step)?;
    // Bytes are two words, a number and its unit.
    let number = |at: usize| -> Result<u64> {
        let word = words
            .get(at)
            .with_context(|| format!("a short row: {words:?}"))?;
        Ok(word.parse()?)
    };
    Ok([number(2)?, number(3)?, number(4)?, number(5)?])
}

#[test]
fn everything_matches_and_the_second_run_goes_on_with_the_first() -> Result<()> {
    let dir = TempDir::new()?;
    let (home, tree) = (dir.path().join("home"), dir.path().join("tree"));
    write_tree(&tree, 7, 40)?;

    let first = quickstart(&home, &tree)?.success()?.text();
    ensure!(first.contains("All that was restored is equal"), "{first}");
    let [chunks, new, _, asked_at_first] = counts(&first, "first backup ")?;
    ensure!(chunks > 0 && new > 0, "{first}");
    let [chunks, new, duplicates, _] = counts(&first, "third backup, with new data")?;
    ensure!(new > 0 && duplicates > 0, "{first}");
    ensure!(chunks == new + duplicates, "{first}");

    let second = quickstart(&home, &tree)?.success()?.text();
    // What the client sends again is in the bucket already, and costs no request.
    let [chunks, _, _, asked] = counts(&second, "first backup ")?;
    ensure!(asked + chunks <= asked_at_first, "{first}\n{second}");
    ensure!(!home.join("work/copy").exists(), "the copy was not removed");
    Ok(())
}

#[test]
fn what_cannot_be_backed_up_is_said_in_a_sentence() -> Result<()> {
    let dir = TempDir::new()?;
    let home = dir.path().join("home");
    let missing = quickstart(&home, &dir.path().join("missing"))?.expect_code(1)?;
    ensure!(
        missing.stderr.contains("missing cannot be backed up"),
        "{missing}"
    );
    let inside = quickstart(dir.path(), &home)?.expect_code(1)?;
    ensure!(inside.stderr.contains("give another --dir"), "{inside}");
    Ok(())
}
