//! Tests of planning: the table in `cases.txt`, the hour that comes twice, and properties against a second reading of the
//! rules.

use std::collections::BTreeMap;

use jiff::civil::DateTime;
use proptest::prelude::*;

use super::*;

const CASES: &str = include_str!("cases.txt");

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).expect("a zone that is known")
}

/// Rules and zone of a line such as `last 1, daily 7, in Europe/Berlin`.
fn rules(line: &str) -> (KeepOptions, TimeZone) {
    let (mut keep, mut at) = (KeepOptions::default(), TimeZone::UTC);
    if line == "nothing given" {
        return (keep, at);
    }
    for rule in line.split(", ") {
        let (name, value) = rule.split_once(' ').expect("a rule and its count");
        if name == "in" {
            at = zone(value);
            continue;
        }
        let count = match name {
            "last" => &mut keep.last,
            "hourly" => &mut keep.hourly,
            "daily" => &mut keep.daily,
            "weekly" => &mut keep.weekly,
            "monthly" => &mut keep.monthly,
            "yearly" => &mut keep.yearly,
            other => panic!("no such rule: {other}"),
        };
        *count = Some(value.parse().expect("a count"));
    }
    (keep, at)
}

/// One snapshot of a case, and what is to become of it.
fn snapshot(line: &str, zone: &TimeZone) -> (PruneCandidate, String) {
    let (time, rest) = line.split_at("2026-01-01 10:00".len());
    let local: DateTime = time.parse().expect("a local time");
    let expected = rest.split('(').next().unwrap_or_default().trim();
    let candidate = PruneCandidate {
        time: zone.to_timestamp(local).expect("a time of the zone"),
        finished: !rest.contains("(unfinished)"),
        protected: rest.contains("(protected)"),
    };
    (candidate, expected.to_owned())
}

#[test]
fn the_table_of_cases_holds() {
    let mut cases = 0;
    for case in CASES.split("\n\n").filter(|case| !case.starts_with('#')) {
        let mut lines = case.lines();
        let name = lines.next().expect("a name");
        let keep = lines.next().and_then(|line| line.strip_prefix("keep: "));
        let (keep, zone) = rules(keep.expect("a line of rules"));
        let snapshots: Vec<_> = lines.map(|line| snapshot(line, &zone)).collect();
        let candidates: Vec<_> = snapshots.iter().map(|(candidate, _)| *candidate).collect();
        let ordered = candidates.is_sorted_by(|a, b| a.time > b.time);
        assert!(ordered, "{name}: newest first");
        let marks = plan(&candidates, &keep, &zone).into_iter();
        let reasons: Vec<_> = marks.map(PruneMark::reason).collect();
        let expected: Vec<_> = snapshots.iter().map(|(_, mark)| mark.as_str()).collect();
        assert_eq!(reasons, expected, "{name}");
        cases += 1;
    }
    assert_eq!(cases, CASES.matches("\n= ").count());
}

#[test]
fn the_hour_that_comes_twice_is_one_hour() {
    let at = |time: &str| PruneCandidate {
        time: time.parse().expect("a time"),
        finished: true,
        protected: false,
    };
    // 02:30 in summer time, 02:15 an hour later, and 03:05.
    let times = [
        "2026-10-25T02:05:00Z",
        "2026-10-25T01:15:00Z",
        "2026-10-25T00:30:00Z",
    ];
    let keep = KeepOptions {
        hourly: Some(9),
        ..KeepOptions::default()
    };
    let marks = plan(&times.map(at), &keep, &zone("Europe/Berlin"));
    let kept = PruneMark::Keep("keep-hourly");
    assert_eq!(marks, [kept, kept, PruneMark::Remove]);
}

/// The rules read another way: over runs of snapshots of one period, with periods as they are printed.
fn reference(
    candidates: &[PruneCandidate],
    keep: &KeepOptions,
    zone: &TimeZone,
) -> Vec<&'static str> {
    let mut newest_first = candidates.to_vec();
    newest_first.sort_by_key(|candidate| std::cmp::Reverse(candidate.time));
    let mut marks: BTreeMap<Timestamp, &'static str> = BTreeMap::new();
    let formats = ["%s", "%Y/%m/%d/%H", "%Y/%m/%d", "%G/%V", "%Y/%m", "%Y"];
    for ((name, count), format) in keep.named().into_iter().zip(formats) {
        let Some(count) = count else {
            continue;
        };
        let print = |time: Timestamp| {
            let local = time.to_zoned(zone.clone());
            local.strftime(format).to_string()
        };
        let kept = marks.iter().filter(|(_, mark)| **mark != "remove");
        let covered: Vec<String> = kept.map(|(time, _)| print(*time)).collect();
        let open: Vec<Timestamp> = newest_first
            .iter()
            .filter(|it| it.finished && !it.protected && !marks.contains_key(&it.time))
            .map(|it| it.time)
            .filter(|time| !covered.contains(&print(*time)))
            .collect();
        let periods = open.chunk_by(|a, b| print(*a) == print(*b));
        for period in periods.take(usize::try_from(count).expect("a small count")) {
            for time in period {
                marks.insert(*time, "remove");
            }
            marks.insert(period[0], name);
        }
    }
    let newest = newest_first.first().map(|candidate| candidate.time);
    let decided = candidates.iter().map(|candidate| match candidate {
        it if it.protected => "protected",
        _ if keep.keeps_all() => "all",
        it if !it.finished && Some(it.time) == newest => "keep, not finished",
        it => marks.get(&it.time).copied().unwrap_or("remove"),
    });
    decided.collect()
}

/// Snapshots of a few years, many of them close together; no two at one time.
fn candidates() -> impl Strategy<Value = Vec<PruneCandidate>> {
    let gap = prop_oneof![
        4 => 1..3_600_i64,
        4 => 3_600..100_000_i64,
        2 => 100_000..3_000_000_i64,
        1 => 3_000_000..40_000_000_i64,
    ];
    let one = (gap, prop::bool::weighted(0.9), prop::bool::weighted(0.1));
    let group = prop::collection::vec(one, 0..60).prop_map(|snapshots| {
        let mut seconds = 1_700_000_000;
        let at = snapshots.into_iter().map(|(gap, finished, protected)| {
            seconds += gap;
            PruneCandidate {
                time: Timestamp::from_second(seconds).expect("a time"),
                finished,
                protected,
            }
        });
        at.collect::<Vec<_>>()
    });
    group.prop_shuffle()
}

fn options() -> impl Strategy<Value = KeepOptions> {
    let count = || prop::option::weighted(0.5, 0..6_u64);
    (count(), count(), count(), count(), count(), count()).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly)| KeepOptions {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        },
    )
}

fn zones() -> impl Strategy<Value = TimeZone> {
    let names = ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"];
    prop::sample::select(names.map(zone).to_vec())
}

proptest! {
    #[test]
    fn a_plan_is_what_the_rules_say(
        candidates in candidates(),
        keep in options(),
        zone in zones(),
    ) {
        let marks = plan(&candidates, &keep, &zone).into_iter();
        let reasons: Vec<_> = marks.map(PruneMark::reason).collect();
        prop_assert_eq!(reasons, reference(&candidates, &keep, &zone));
    }

    #[test]
    fn whoever_prunes_twice_removes_nothing_more(
        candidates in candidates(),
        keep in options(),
        zone in zones(),
    ) {
        let stays = |candidates: &[PruneCandidate]| -> Vec<PruneCandidate> {
            let marks = plan(candidates, &keep, &zone);
            let both = candidates.iter().zip(marks);
            both.filter(|(_, mark)| mark.keeps()).map(|(it, _)| *it).collect()
        };
        let once = stays(&candidates);
        prop_assert_eq!(stays(&once), once);
    }

    #[test]
    fn protected_ones_stay_and_change_nothing_for_the_others(
        candidates in candidates(),
        keep in options(),
        zone in zones(),
    ) {
        let finished: Vec<_> = candidates.into_iter().filter(|it| it.finished).collect();
        let marks = plan(&finished, &keep, &zone);
        let both = finished.iter().zip(marks);
        let (protected, others): (Vec<_>, Vec<_>) = both.partition(|(it, _)| it.protected);
        prop_assert!(protected.iter().all(|(_, mark)| mark.keeps()));
        let (alone, marks): (Vec<_>, Vec<_>) = others.into_iter().map(|(it, mark)| (*it, mark)).unzip();
        prop_assert_eq!(plan(&alone, &keep, &zone), marks);
    }

    #[test]
    fn a_rule_keeps_no_more_than_its_count_and_the_newest_always_stays(
        candidates in candidates(),
        keep in options(),
        zone in zones(),
    ) {
        let marks = plan(&candidates, &keep, &zone);
        for (name, count) in keep.named() {
            let kept = marks.iter().filter(|mark| mark.reason() == name).count() as u64;
            prop_assert!(kept <= count.unwrap_or(0), "{name} kept {kept}");
        }
        let rules = keep.named();
        if rules.iter().any(|(_, count)| count.is_some_and(|count| count > 0)) {
            let counted = candidates.iter().zip(&marks).filter(|(it, _)| it.finished && !it.protected);
            let newest = counted.max_by_key(|(it, _)| it.time);
            prop_assert!(newest.is_none_or(|(_, mark)| mark.keeps()));
        }
    }
}
