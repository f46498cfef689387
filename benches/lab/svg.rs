//! Latency distributions as a picture: a logarithmic time axis, and nines on the other.

use std::fmt::Write as _;

use super::stats::Series;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Microseconds: 1 to 10,000.
const DECADES: f64 = 4.0;
/// 0 to 99.99 %.
const NINES: f64 = 4.0;
const COLOURS: [&str; 12] = [
    "#888888", "#1b9e77", "#66a61e", "#d95f02", "#7570b3", "#e7298a", "#e6ab02", "#a6761d", "#1f78b4",
    "#b2182b", "#000000", "#35978f",
];

fn x(us: f64) -> f64 {
    let part = (us.max(1.0).log10() / DECADES).min(1.0);
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn y(nines: f64) -> f64 {
    HEIGHT - BOTTOM - (nines / NINES).min(1.0) * (HEIGHT - TOP - BOTTOM)
}

/// One line for each series.
pub fn distributions(series: &[&Series], title: &str) -> String {
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>"
    );
    for decade in 0..=DECADES as i32 {
        for step in 1..10 {
            let us = 10f64.powi(decade) * f64::from(step);
            if us > 10f64.powf(DECADES) {
                break;
            }
            let (at, colour) = (x(us), if step == 1 { "#bbbbbb" } else { "#eeeeee" });
            let (from, to) = (y(0.0), y(NINES));
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\" stroke=\"{colour}\"/>"
            );
            if step == 1 {
                let label = if us < 1000.0 { format!("{us} µs") } else { format!("{} ms", us / 1000.0) };
                let below = from + 18.0;
                let _ = writeln!(
                    svg,
                    "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{label}</text>"
                );
            }
        }
    }
    for (nines, label) in [
        (0.0, "0 %"),
        (std::f64::consts::LOG10_2, "50 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
    ] {
        let (at, right, left) = (y(nines), WIDTH - RIGHT, LEFT - 6.0);
        let text = at + 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#bbbbbb\"/>\n\
             <text x=\"{left}\" y=\"{text:.1}\" text-anchor=\"end\">{label}</text>"
        );
    }
    for (number, one) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut points = String::new();
        for step in 0..=200 {
            let nines = NINES * f64::from(step) / 200.0;
            let _ = write!(points, "{:.1},{:.1} ", x(one.at(100.0 * (1.0 - 10f64.powf(-nines)))), y(nines));
        }
        let (line_x, text_x) = (WIDTH - RIGHT + 14.0, WIDTH - RIGHT + 44.0);
        let (line_end, at) = (line_x + 24.0, TOP + 18.0 * number as f64 + 8.0);
        let text_y = at + 4.0;
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>\n\
             <line x1=\"{line_x}\" x2=\"{line_end}\" y1=\"{at}\" y2=\"{at}\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{text_x}\" y=\"{text_y}\">{}</text>",
            points.trim_end(),
            one.title
        );
    }
    svg.push_str("</svg>\n");
    svg
}
