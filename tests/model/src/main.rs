//! x
#![allow(clippy::print_stdout, missing_docs)]
fn main() {
    let large = std::env::args().any(|a| a=="--large");
    let only: Vec<String> = std::env::args().skip(1).filter(|a| a!="--large").collect();
    let mut all = holdfast_model::chunk::trials::trials(large);
    all.extend(holdfast_model::roots::trials::trials(large));
    all.extend(holdfast_model::seal::trials::trials(large));
    all.extend(holdfast_model::cache::trials::trials(large));
    all.extend(holdfast_model::owner::trials::trials(large));
    for t in all {
        if !only.is_empty() && !only.iter().any(|o| format!("{t:?}").contains(o.as_str())) { continue; }
        let f = t.run();
        println!("{t:?}: {} unique {} depth {} {:?} {}", match t.expect {holdfast_model::trial::Expect::Breaks(_)=>"breaks",_=>"holds"}, f.unique, f.depth, f.elapsed, match t.judge(&f) { Ok(()) => "ok".into(), Err(e) => format!("FAIL {e}") });
    }
}
