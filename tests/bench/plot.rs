//! Line charts as SVG: cost against size.
//!
//! Linear axes begin at 0, logarithmic ones at the 1, 2 or 5 below the least value. The same figures give the same bytes, so that a
//! chart changes in a commit only if they do. Colours are readable on a light and on a dark page; every line has a marker of its own
//! shape as well.

use std::fmt::Write as _;

/// Of the whole picture.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Around the area of the lines: left, right (with the legend), top, bottom.
const MARGINS: (f64, f64, f64, f64) = (64.0, 168.0, 40.0, 52.0);
/// One per line, in turn.
const COLOURS: [&str; 6] = [
    "#3b82c4", "#d9822b", "#2fa37c", "#c2528b", "#8a7bd8", "#a08b00",
];
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 18.0;
/// Most steps of a linear axis.
const LINEAR_STEPS_MAX: f64 = 8.0;
/// Most ticks of a logarithmic axis before only the decades are left.
const LOG_TICKS_MAX: usize = 10;
const STYLE: &str = "text{font:12px sans-serif;fill:#57606a}.t{font-size:14px;font-weight:600}\
    .g{stroke:#8b949e;stroke-opacity:.3}.a{stroke:#8b949e}\
    @media(prefers-color-scheme:dark){text{fill:#a8b1bb}}";

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From 0.
    Linear,
    /// Values that are not positive are left out.
    Log,
}

/// One axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    title: String,
    scale: Scale,
}

impl Axis {
    /// `title` says what and in which unit.
    pub(crate) fn new(title: impl Into<String>, scale: Scale) -> Self {
        Self {
            title: title.into(),
            scale,
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// For the legend.
    pub(crate) name: String,
    /// In the order in which they are joined.
    pub(crate) points: Vec<Point>,
}

/// Size and cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// One chart.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    /// Above it.
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// An axis with its bounds, between two places of the picture.
struct Ruler {
    scale: Scale,
    ticks: Vec<f64>,
    start: f64,
    end: f64,
}

impl Ruler {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let ticks = match scale {
            Scale::Linear => linear_ticks(values.fold(0.0, f64::max)),
            Scale::Log => {
                let positive: Vec<f64> = values.filter(|value| *value > 0.0).collect();
                let least = positive.iter().copied().fold(f64::INFINITY, f64::min);
                log_ticks(least, positive.iter().copied().fold(0.0, f64::max))
            }
        };
        Self {
            scale,
            ticks,
            start,
            end,
        }
    }

    /// Where a value is; `None` if the axis has no place for it.
    fn place(&self, value: f64) -> Option<f64> {
        let (first, last) = (*self.ticks.first()?, *self.ticks.last()?);
        let part = match self.scale {
            Scale::Linear => (value - first) / (last - first),
            Scale::Log if value <= 0.0 => return None,
            Scale::Log => (value / first).ln() / (last / first).ln(),
        };
        let place = self.start + part * (self.end - self.start);
        place.is_finite().then_some(place)
    }
}

/// From 0 to at least `most`, in steps of 1, 2 or 5 and a power of ten.
fn linear_ticks(most: f64) -> Vec<f64> {
    let most = if most > 0.0 && most.is_finite() {
        most
    } else {
        1.0
    };
    let mut power = (most / LINEAR_STEPS_MAX).log10().floor() as i32;
    loop {
        for digit in [1.0, 2.0, 5.0] {
            let steps = (most / (digit * 10_f64.powi(power)) - 1e-9).ceil();
            if steps <= LINEAR_STEPS_MAX {
                // From the number of the step, so that rounding does not add up.
                let tick = |step: u32| shifted(f64::from(step) * digit, power);
                return (0..=steps as u32).map(tick).collect();
            }
        }
        power += 1;
    }
}

/// Numbers 1, 2 and 5 times a power of ten, from the last that is not above `least` to the first that is not below `most`; only the
/// powers themselves if these are too many.
fn log_ticks(least: f64, most: f64) -> Vec<f64> {
    if !(least.is_finite() && least > 0.0 && most >= least) {
        return vec![1.0, 10.0];
    }
    for digits in [&[1.0, 2.0, 5.0][..], &[1.0]] {
        let mut all = Vec::new();
        for power in least.log10().floor() as i32..=most.log10().ceil() as i32 {
            all.extend(digits.iter().map(|digit| shifted(*digit, power)));
        }
        let from = all
            .iter()
            .rposition(|tick| *tick <= least * (1.0 + 1e-9))
            .unwrap_or(0);
        let to = all
            .iter()
            .position(|tick| *tick >= most * (1.0 - 1e-9))
            .unwrap_or(all.len() - 1);
        // One value alone needs a second tick as well.
        let to = to.max(from + 1).min(all.len() - 1);
        if to - from < LOG_TICKS_MAX || digits.len() == 1 {
            return all[from.min(to - 1)..=to].to_vec();
        }
    }
    Vec::new()
}

/// `digits` times a power of ten, exact where it can be.
fn shifted(digits: f64, power: i32) -> f64 {
    if power < 0 {
        digits / 10_f64.powi(-power)
    } else {
        digits * 10_f64.powi(power)
    }
}

/// A number as short as people write it: `0.05`, `20`, `500k`, `1M`.
fn label(value: f64) -> String {
    for (unit, letter) in [(1e9, "G"), (1e6, "M"), (1e4, "k")] {
        if value >= unit {
            let unit = if letter == "k" { 1e3 } else { unit };
            return format!("{}{letter}", value / unit);
        }
    }
    format!("{value}")
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            _ => safe.push(letter),
        }
    }
    safe
}

impl Plot {
    /// The picture.
    pub(crate) fn svg(&self) -> String {
        let (left, right, top, bottom) = MARGINS;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Ruler::new(
            self.x.scale,
            points().map(|point| point.x),
            left,
            WIDTH - right,
        );
        let y = Ruler::new(
            self.y.scale,
            points().map(|point| point.y),
            HEIGHT - bottom,
            top,
        );
        let mut lines = vec![
            format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">"#
            ),
            format!("<title>{}</title>", escaped(&self.title)),
            format!("<style>{STYLE}</style>"),
            format!(
                r#"<text class="t" x="{left}" y="22">{}</text>"#,
                escaped(&self.title)
            ),
        ];
        self.axes(&mut lines, &x, &y);
        for (number, series) in self.series.iter().enumerate() {
            line(&mut lines, number, series, &x, &y);
        }
        lines.push("</svg>\n".to_owned());
        lines.join("\n")
    }

    fn axes(&self, lines: &mut Vec<String>, x: &Ruler, y: &Ruler) {
        for tick in &x.ticks {
            let Some(at) = x.place(*tick) else { continue };
            lines.push(format!(
                r#"<path class="g" d="M{at:.1} {:.1}V{:.1}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                y.start,
                y.end,
                y.start + 17.0,
                label(*tick)
            ));
        }
        for tick in &y.ticks {
            let Some(at) = y.place(*tick) else { continue };
            lines.push(format!(
                r#"<path class="g" d="M{:.1} {at:.1}H{:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                x.start,
                x.end,
                x.start - 7.0,
                at + 4.0,
                label(*tick)
            ));
        }
        let (middle_x, middle_y) = (f64::midpoint(x.start, x.end), f64::midpoint(y.start, y.end));
        lines.push(format!(
            r#"<path class="a" fill="none" d="M{:.1} {:.1}V{:.1}H{:.1}"/>"#,
            x.start, y.end, y.start, x.end
        ));
        lines.push(format!(
            r#"<text x="{middle_x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            HEIGHT - 12.0,
            escaped(&self.x.title)
        ));
        lines.push(format!(
            r#"<text transform="translate(16 {middle_y:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
            escaped(&self.y.title)
        ));
    }
}

/// A line with its markers, and its name in the legend.
fn line(lines: &mut Vec<String>, number: usize, series: &Series, x: &Ruler, y: &Ruler) {
    let colour = COLOURS[number % COLOURS.len()];
    let mut path = String::new();
    let mut markers = String::new();
    for point in &series.points {
        let (Some(at_x), Some(at_y)) = (x.place(point.x), y.place(point.y)) else {
            continue;
        };
        let letter = if path.is_empty() { 'M' } else { 'L' };
        // A string takes everything.
        let _ = write!(path, "{letter}{at_x:.1} {at_y:.1}");
        markers.push_str(&marker(number, at_x, at_y));
    }
    lines.push(format!(
        r#"<path fill="none" stroke="{colour}" stroke-width="2" d="{path}"/><path fill="{colour}" d="{markers}"/>"#
    ));
    let (left, top) = (x.end + 16.0, y.end + 6.0 + number as f64 * LEGEND_LINE);
    lines.push(format!(
        r#"<path stroke="{colour}" stroke-width="2" d="M{left:.1} {top:.1}h20"/><path fill="{colour}" d="{}"/><text x="{:.1}" y="{:.1}">{}</text>"#,
        marker(number, left + 10.0, top),
        left + 26.0,
        top + 4.0,
        escaped(&series.name)
    ));
}

/// Disc, square, triangle or diamond.
fn marker(number: usize, x: f64, y: f64) -> String {
    match number % 4 {
        0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x - 4.0),
        1 => format!("M{:.1} {:.1}h7v7h-7z", x - 3.5, y - 3.5),
        2 => format!("M{x:.1} {:.1}l4.5 8h-9z", y - 5.0),
        _ => format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5z", y - 5.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_ticks(ticks: Vec<f64>, expected: &[f64]) {
        assert_eq!(ticks, expected);
    }

    #[test]
    fn linear_ticks_begin_at_zero_and_cover_all() {
        assert_ticks(
            linear_ticks(7.3),
            &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        );
        assert_ticks(linear_ticks(100.0), &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_ticks(linear_ticks(0.3), &[0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]);
        assert_ticks(linear_ticks(0.0), &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        for most in [1e-7, 3.9, 812.0, 1.23e9] {
            let ticks = linear_ticks(most);
            assert!(
                ticks.len() > 3 && ticks[ticks.len() - 1] >= most,
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn log_ticks_are_ones_twos_and_fives_or_decades() {
        assert_ticks(log_ticks(64.0, 900.0), &[50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_ticks(log_ticks(0.02, 0.1), &[0.02, 0.05, 0.1]);
        assert_ticks(log_ticks(3.0, 3e4), &[1.0, 10.0, 100.0, 1000.0, 1e4, 1e5]);
        assert_ticks(log_ticks(1.0, 1.0), &[1.0, 2.0]);
        assert_ticks(log_ticks(1000.0, 1000.0), &[1000.0, 2000.0]);
        assert_ticks(log_ticks(f64::INFINITY, 0.0), &[1.0, 10.0]);
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.05, 20.0, 5000.0, 2e4, 5e5, 1e6, 2e9].map(label);
        assert_eq!(labels, ["0.05", "20", "5000", "20k", "500k", "1M", "2G"]);
    }

    #[test]
    fn a_chart_has_all_lines_and_no_foreign_markup() {
        let point = |x, y| Point { x, y };
        let plot = Plot {
            title: "gc <of> \"x\" & y".to_owned(),
            x: Axis::new("chunks", Scale::Log),
            y: Axis::new("s", Scale::Linear),
            series: vec![
                Series {
                    name: "a<b".to_owned(),
                    points: vec![point(0.0, 9.0), point(10.0, 1.0), point(100.0, 9.5)],
                },
                Series {
                    name: "none".to_owned(),
                    points: Vec::new(),
                },
            ],
        };
        let svg = plot.svg();
        assert_eq!(svg, plot.svg());
        assert!(svg.contains("<title>gc &lt;of&gt; &quot;x&quot; &amp; y</title>"));
        assert!(svg.contains(">a&lt;b</text>"));
        // What has no place on the axis is left out, the ends of the axes are where the lines end.
        let places = "d=\"M64.0 317.2L472.0 55.4\"";
        assert!(svg.contains(places), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
