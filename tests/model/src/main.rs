//! x
#![allow(clippy::print_stdout, missing_docs)]
fn main() {
    let large = std::env::args().any(|a| a=="--large");
    let only: Vec<String> = std::env::args().skip(1).filter(|a| a!="--large").collect();
    for t in holdfast_model::chunk::trials::trials(large) {
        if !only.is_empty() && !only.iter().any(|o| t.name.contains(o.as_str())) { continue; }
        let f = t.run();
        println!("{t:?}: {:?} unique {} depth {} {:?} {}", t.expect, f.unique, f.depth, f.elapsed, match t.judge(&f) { Ok(()) => "ok".into(), Err(e) => format!("FAIL {e}") });
    }
}
