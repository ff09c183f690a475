//! What `benchmark matrix` runs and draws: the sizes of each benchmark, its options for a point, and its charts.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::matrix::Sizes;
use crate::plot::Scale;
use crate::runs::words;

/// The sizes of one benchmark, and its charts.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Of the benchmark, and what the files begin with.
    pub(crate) name: &'static str,
    sizes: &'static [Size],
    /// Options of every point.
    options: &'static str,
    pub(crate) charts: &'static [Chart],
}

/// One size with its values.
#[derive(Debug)]
struct Size {
    name: &'static str,
    values: &'static [Setting],
}

/// One value of a size: as it is shown, and the option that chooses it.
#[derive(Debug)]
struct Setting {
    value: Shown,
    option: &'static str,
}

#[derive(Debug)]
enum Shown {
    Number(u64),
    Word(&'static str),
}

/// A chart, and which figures of which points are in it.
#[derive(Debug)]
pub(crate) struct Chart {
    /// Last part of the file's name.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// A size.
    pub(crate) x: Dimension,
    /// For all figures.
    pub(crate) y: Dimension,
    pub(crate) figures: &'static [Figure],
    /// Sizes by which points belong to different lines.
    pub(crate) by: &'static [By],
    /// Sizes that points must have to be in it, in words.
    pub(crate) only: &'static [(&'static str, &'static str)],
}

/// An axis.
#[derive(Debug)]
pub(crate) struct Dimension {
    /// Which size, of a horizontal axis.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) scale: Scale,
}

/// A figure of a report.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) key: &'static str,
    /// For the legend; nothing if it is the only one.
    pub(crate) name: &'static str,
    /// From the report's unit to the chart's.
    pub(crate) factor: f64,
}

/// A size in a legend.
#[derive(Debug)]
pub(crate) struct By {
    pub(crate) key: &'static str,
    pub(crate) unit: &'static str,
}

const fn number(value: u64, option: &'static str) -> Setting {
    Setting {
        value: Shown::Number(value),
        option,
    }
}

const fn named(value: &'static str, option: &'static str) -> Setting {
    Setting {
        value: Shown::Word(value),
        option,
    }
}

const fn figure(key: &'static str, name: &'static str) -> Figure {
    Figure {
        key,
        name,
        factor: 1.0,
    }
}

const fn x(key: &'static str, title: &'static str, scale: Scale) -> Dimension {
    Dimension { key, title, scale }
}

const fn y(title: &'static str, scale: Scale) -> Dimension {
    Dimension {
        key: "",
        title,
        scale,
    }
}

const MIB: f64 = 1.0 / (1 << 20) as f64;

const SESSIONS: Size = Size {
    name: "sessions",
    values: &[
        number(1, "--sessions 1"),
        number(4, "--sessions 4"),
        number(16, "--sessions 16"),
        number(64, "--sessions 64"),
    ],
};

const DELAYS: Size = Size {
    name: "delay-ms",
    values: &[
        number(0, "--delay-ms 0"),
        number(20, "--delay-ms 20"),
        number(50, "--delay-ms 50"),
        number(100, "--delay-ms 100"),
    ],
};

const BY_SESSIONS: &[By] = &[By {
    key: "sessions",
    unit: " sessions",
}];

const CHUNK_SIZE: Dimension = x("chunk-kib", "size of a chunk, KiB", Scale::Log);
const DELAY: Dimension = x("delay-ms", "added to every S3 request, ms", Scale::Linear);
const CHUNKS: Dimension = x("chunks", "chunks of the datastore", Scale::Log);

const INGEST: Plan = Plan {
    name: "ingest",
    sizes: &[
        Size {
            name: "chunk-kib",
            values: &[
                number(64, "--chunk-kib 64"),
                number(256, "--chunk-kib 256"),
                number(1024, "--chunk-kib 1024"),
                number(4096, "--chunk-kib 4096"),
            ],
        },
        Size {
            name: "content",
            values: &[named("noise", ""), named("compressible", "--compressible")],
        },
        SESSIONS,
    ],
    options: "--rounds 1 --mib 512",
    charts: &[
        Chart {
            name: "noise",
            title: "New chunks that do not compress, directory",
            x: CHUNK_SIZE,
            y: y("MB/s", Scale::Linear),
            figures: &[figure("daemon-mb-per-second", "")],
            by: BY_SESSIONS,
            only: &[("content", "noise")],
        },
        Chart {
            name: "compressible",
            title: "New chunks that compress to a half, directory",
            x: CHUNK_SIZE,
            y: y("MB/s, unpacked", Scale::Linear),
            figures: &[figure("daemon-mb-per-second", "")],
            by: BY_SESSIONS,
            only: &[("content", "compressible")],
        },
        Chart {
            name: "ceilings",
            title: "One session and what bounds it, noise",
            x: CHUNK_SIZE,
            y: y("MB/s", Scale::Linear),
            figures: &[
                figure("daemon-mb-per-second", "daemon"),
                figure("sink-mb-per-second", "TLS, HTTP/2 sink"),
                figure("disk-mb-per-second", "disk"),
                figure("sha256-mb-per-second", "SHA-256"),
            ],
            by: &[],
            only: &[("content", "noise"), ("sessions", "1")],
        },
        Chart {
            name: "cpu",
            title: "Processor time of the daemon, one session",
            x: CHUNK_SIZE,
            y: y("seconds per GiB", Scale::Linear),
            figures: &[figure("daemon-cpu-seconds-per-gib", "")],
            by: &[By {
                key: "content",
                unit: "",
            }],
            only: &[("sessions", "1")],
        },
    ],
};

const UPLOADS: Plan = Plan {
    name: "uploads",
    sizes: &[
        Size {
            name: "chunk-kib",
            values: &[
                number(256, "--chunk-kib 256"),
                number(4096, "--chunk-kib 4096"),
            ],
        },
        DELAYS,
        SESSIONS,
    ],
    options: "--pairs 1 --mib 512",
    charts: &[
        Chart {
            name: "large",
            title: "New chunks of 4 MiB into S3, at most 60 MB/s",
            x: DELAY,
            y: y("MB/s", Scale::Linear),
            figures: &[figure("daemon-mb-per-second", "")],
            by: BY_SESSIONS,
            only: &[("chunk-kib", "4096")],
        },
        Chart {
            name: "small",
            title: "New chunks of 256 KiB into S3, at most 60 MB/s",
            x: DELAY,
            y: y("MB/s", Scale::Linear),
            figures: &[figure("daemon-mb-per-second", "")],
            by: BY_SESSIONS,
            only: &[("chunk-kib", "256")],
        },
        Chart {
            name: "raw",
            title: "Beside raw PUTs, 16 sessions, chunks of 256 KiB",
            x: DELAY,
            y: y("MB/s", Scale::Linear),
            figures: &[
                figure("daemon-mb-per-second", "daemon"),
                figure("raw-mb-per-second", "raw PUTs"),
            ],
            by: &[],
            only: &[("chunk-kib", "256"), ("sessions", "16")],
        },
        Chart {
            name: "memory",
            title: "Peak memory of the daemon, chunks of 4 MiB",
            x: DELAY,
            y: y("MiB", Scale::Linear),
            figures: &[Figure {
                key: "vm-hwm",
                name: "",
                factor: MIB,
            }],
            by: BY_SESSIONS,
            only: &[("chunk-kib", "4096")],
        },
    ],
};

const RESTORE: Plan = Plan {
    name: "restore",
    sizes: &[
        Size {
            name: "cache",
            values: &[named("cold", ""), named("warm", "--warm")],
        },
        Size {
            name: "order",
            values: &[
                named("sequential", "--order sequential"),
                named("random", "--order random"),
            ],
        },
        DELAYS,
    ],
    options: "--pairs 1 --mib 256 --gain-chunk-kib 0",
    charts: &[
        Chart {
            name: "cold",
            title: "One reader, empty cache, at most 60 MB/s",
            x: DELAY,
            y: y("MB/s", Scale::Linear),
            figures: &[figure("daemon-mb-per-second", "")],
            by: BY_ORDER,
            only: &[("cache", "cold")],
        },
        Chart {
            name: "warm",
            title: "One reader, everything in the cache",
            x: DELAY,
            y: y("MB/s", Scale::Linear),
            figures: &[figure("daemon-mb-per-second", "")],
            by: BY_ORDER,
            only: &[("cache", "warm")],
        },
        Chart {
            name: "raw",
            title: "Beside raw GETs, empty cache, in order",
            x: DELAY,
            y: y("MB/s", Scale::Linear),
            figures: &[
                figure("daemon-mb-per-second", "one reader"),
                figure("raw-mb-per-second", "raw GETs"),
            ],
            by: &[],
            only: &[("cache", "cold"), ("order", "sequential")],
        },
    ],
};

const BY_ORDER: &[By] = &[By {
    key: "order",
    unit: "",
}];

const GC: Plan = Plan {
    name: "gc",
    sizes: &[
        Size {
            name: "chunks",
            values: &[
                number(10_000, "--chunks 10000"),
                number(100_000, "--chunks 100000"),
                number(1_000_000, "--chunks 1000000"),
            ],
        },
        Size {
            name: "snapshots",
            values: &[number(10, "--snapshots 10"), number(500, "--snapshots 500")],
        },
        Size {
            name: "garbage-percent",
            values: &[
                number(0, "--garbage 0"),
                number(10, "--garbage 10"),
                number(90, "--garbage 90"),
            ],
        },
    ],
    options: "--rounds 1 --no-mark",
    charts: &[
        Chart {
            name: "seconds",
            title: "Time of a collection",
            x: CHUNKS,
            y: y("seconds", Scale::Log),
            figures: &[figure("seconds", "")],
            by: GC_LINES,
            only: &[],
        },
        Chart {
            name: "memory",
            title: "Peak memory of the process that collects",
            x: CHUNKS,
            y: y("MiB", Scale::Linear),
            figures: &[Figure {
                key: "peak-bytes",
                name: "",
                factor: MIB,
            }],
            by: GC_LINES,
            only: &[],
        },
        Chart {
            name: "phases",
            title: "Marking and sweeping, 500 snapshots, 90 % garbage",
            x: CHUNKS,
            y: y("seconds", Scale::Log),
            figures: &[
                figure("mark-seconds", "mark"),
                figure("sweep-seconds", "sweep"),
            ],
            by: &[],
            only: &[("snapshots", "500"), ("garbage-percent", "90")],
        },
    ],
};

const GC_LINES: &[By] = &[
    By {
        key: "snapshots",
        unit: " snap.",
    },
    By {
        key: "garbage-percent",
        unit: " %",
    },
];

const PLANS: [&Plan; 4] = [&INGEST, &UPLOADS, &RESTORE, &GC];

impl Plan {
    /// The plan of this name.
    pub(crate) fn of(name: &str) -> Result<&'static Self> {
        let plan = PLANS.into_iter().find(|plan| plan.name == name);
        let names: Vec<&str> = PLANS.iter().map(|plan| plan.name).collect();
        plan.with_context(|| format!("no '{name}'; there are: {}", names.join(", ")))
    }

    /// The sizes of every point, and the benchmark's arguments for it. The last size changes fastest.
    pub(crate) fn points(&self) -> Vec<(Sizes, Vec<String>)> {
        let mut points = vec![(Sizes::new(), vec![self.name.to_owned()])];
        for size in self.sizes {
            let every = points.iter().flat_map(|(sizes, arguments)| {
                size.values.iter().map(move |setting| {
                    let mut sizes = sizes.clone();
                    sizes.insert(size.name.to_owned(), setting.json());
                    (sizes, [arguments.clone(), words(setting.option)].concat())
                })
            });
            points = every.collect();
        }
        for (_, arguments) in &mut points {
            arguments.extend(words(self.options));
        }
        points
    }
}

impl Setting {
    fn json(&self) -> Value {
        match self.value {
            Shown::Number(number) => json!(number),
            Shown::Word(word) => json!(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_combination_of_sizes_is_one_command() {
        let points = Plan::of("ingest").unwrap().points();
        assert_eq!(points.len(), 4 * 2 * 4);
        let commands: BTreeSet<String> = points.iter().map(|(_, args)| args.join(" ")).collect();
        assert_eq!(commands.len(), points.len());
        let one = "ingest --chunk-kib 64 --compressible --sessions 16 --rounds 1 --mib 512";
        assert!(commands.contains(one), "{commands:?}");
        assert!(Plan::of("other").is_err());
    }

    #[test]
    fn charts_name_sizes_that_points_have() {
        for plan in PLANS {
            let points = plan.points();
            let mut files = BTreeSet::new();
            for chart in plan.charts {
                assert!(files.insert(chart.name), "{} twice", chart.name);
                let by = chart.by.iter().map(|by| by.key).chain([chart.x.key]);
                for key in by.chain(chart.only.iter().map(|(key, _)| *key)) {
                    assert!(points[0].0.contains_key(key), "{}: {key}", chart.name);
                }
            }
        }
    }
}
