//! Plots as SVG: curves of a run, reliability of probabilities, bars of an ablation.
//!
//! SVG needs no font at drawing time, scales on paper and opens in every browser.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::calibrate::Bin;
use super::{Result, TrainError, atomic};

/// Colours that people with any kind of colour vision can distinguish (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const FONT: &str = "sans-serif";
/// Longer curves are thinned to means of neighbouring points; more points would not be visible.
const MOST_POINTS: usize = 600;

/// One line of a panel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y); non-finite ones are left out.
    pub points: Vec<(f64, f64)>,
    /// Half the height of an error bar per point; empty for none.
    pub spread: Vec<f64>,
}

impl Curve {
    /// A line without error bars.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, spread: Vec::new() }
    }
}

/// One pair of axes with its lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Panel {
    /// Title above the axes.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub x: String,
    /// Name and unit of the vertical axis.
    pub y: String,
    /// The lines.
    pub curves: Vec<Curve>,
}

/// One row of a bar chart: its name and, per series, mean and standard deviation (`None` without a
/// number).
pub type Row = (String, Vec<Option<(f64, f64)>>);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type DrawResult = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

fn draw(path: &Path, size: (u32, u32), body: impl FnOnce(&Area<'_>) -> DrawResult) -> Result<()> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)
            .and_then(|()| body(&root))
            .and_then(|()| root.present())
            .map_err(|e| TrainError::content(path, format!("the plot cannot be drawn: {e}")))?;
    }
    atomic::file(path, svg.as_bytes())
}

/// Averages runs of neighbouring finite points, so that at most [`MOST_POINTS`] are left.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    let run = finite.len().div_ceil(MOST_POINTS).max(1);
    let mean = |some: &[(f64, f64)]| {
        let n = some.len() as f64;
        (some.iter().map(|p| p.0).sum::<f64>() / n, some.iter().map(|p| p.1).sum::<f64>() / n)
    };
    finite.chunks(run).map(mean).collect()
}

/// Range of `values` with a margin; 0..1 without values. It is never empty.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low { (high - low) * margin } else { high.abs().max(1.0) * 0.1 };
    low - room..high + room
}

fn axes<'a, 'b>(
    area: &Area<'b>,
    panel: &Panel,
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> std::result::Result<Chart<'a, 'b>, DrawingAreaErrorKind<std::io::Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 17))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(62)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style((FONT, 12))
        .x_desc(&panel.x)
        .y_desc(&panel.y)
        .draw()?;
    Ok(chart)
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, at: SeriesLabelPosition) -> DrawResult {
    chart
        .configure_series_labels()
        .position(at)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 12))
        .draw()
}

fn lines<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, curves: &[Curve]) -> DrawResult {
    for (index, curve) in curves.iter().enumerate() {
        let style = ShapeStyle { color: colour(index).to_rgba(), filled: true, stroke_width: 2 };
        let points = thinned(&curve.points);
        let dots = if points.len() <= 40 { points.clone() } else { Vec::new() };
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        chart.draw_series(dots.into_iter().map(|p| Circle::new(p, 3, style)))?;
        let bars = curve.points.iter().zip(&curve.spread).filter(|(p, s)| p.1.is_finite() && s.is_finite());
        chart.draw_series(
            bars.map(|(p, s)| PathElement::new([(p.0, p.1 - s), (p.0, p.1 + s)], style.stroke_width(1))),
        )?;
    }
    if curves.len() > 1 {
        legend(chart, SeriesLabelPosition::UpperRight)?;
    }
    Ok(())
}

/// Draws `panels` one below the other.
///
/// # Errors
/// A file that cannot be written.
pub fn curves(path: &Path, panels: &[Panel]) -> Result<()> {
    let count = panels.len().max(1);
    draw(path, (860, 300 * count as u32), |root| {
        for (area, panel) in root.split_evenly((count, 1)).iter().zip(panels) {
            let all = || panel.curves.iter().flat_map(|c| c.points.iter()).filter(|p| p.0.is_finite());
            let spread =
                panel.curves.iter().flat_map(|c| c.points.iter().zip(&c.spread).flat_map(|(p, s)| [p.1 - s, p.1 + s]));
            let x = range(all().map(|p| p.0), 0.02);
            let y = range(all().map(|p| p.1).chain(spread).filter(|v| v.is_finite()), 0.06);
            lines(&mut axes(area, panel, x, y)?, &panel.curves)?;
        }
        Ok(())
    })
}

/// Draws a reliability diagram: for each named set of bins, the observed share of matches over the
/// mean probability, with the diagonal of perfect calibration. Below it are the numbers of pairs in
/// each bin.
///
/// # Errors
/// A file that cannot be written.
pub fn reliability(path: &Path, title: &str, sets: &[(String, Vec<Bin>)]) -> Result<()> {
    draw(path, (620, 780), |root| {
        let (upper, lower) = root.split_vertically(540);
        let full = |bins: &[Bin]| -> Vec<Bin> { bins.iter().copied().filter(|b| b.pairs > 0).collect() };
        let panel = Panel {
            title: title.to_owned(),
            x: "probability said".into(),
            y: "share of matches".into(),
            curves: sets
                .iter()
                .map(|(name, bins)| Curve::new(name, full(bins).iter().map(|b| (b.said, b.observed)).collect()))
                .collect(),
        };
        let mut chart = axes(&upper, &panel, 0.0..1.0, 0.0..1.0)?;
        chart.draw_series([PathElement::new([(0.0, 0.0), (1.0, 1.0)], BLACK.mix(0.4))])?;
        lines(&mut chart, &panel.curves)?;
        let panel = Panel { x: "probability said".into(), y: "pairs (log10)".into(), ..Panel::default() };
        let height = |b: &Bin| (b.pairs as f64).log10();
        let top = sets.iter().flat_map(|(_, bins)| full(bins)).map(|b| height(&b)).fold(1.0, f64::max);
        let mut chart = axes(&lower, &panel, 0.0..1.0, 0.0..top * 1.05)?;
        for (index, (_, bins)) in sets.iter().enumerate() {
            let (bin, bar) = (1.0 / bins.len().max(1) as f64, 0.8 / sets.len() as f64);
            chart.draw_series(bins.iter().enumerate().filter(|(_, b)| b.pairs > 0).map(|(i, b)| {
                let from = bin * (i as f64 + 0.1 + bar * index as f64);
                Rectangle::new([(from, 0.0), (from + bin * bar, height(b))], colour(index).mix(0.7).filled())
            }))?;
        }
        Ok(())
    })
}

/// Draws horizontal bars: one row per variant with one bar per series, each with an error bar and
/// its value as text.
///
/// # Errors
/// A file that cannot be written.
pub fn bars(path: &Path, title: &str, unit: &str, series: &[&str], rows: &[Row]) -> Result<()> {
    let thick = 22 * series.len().max(1) as u32 + 14;
    let (left, width, height) = (210, 860, 110 + thick * rows.len().max(1) as u32);
    draw(path, (width, height), |root| {
        let highest = rows.iter().flat_map(|r| r.1.iter().flatten()).map(|(v, s)| v + s).fold(0.0, f64::max);
        let count = rows.len().max(1) as f64;
        let mut chart = ChartBuilder::on(root)
            .caption(title, (FONT, 17))
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(left)
            .build_cartesian_2d(0.0..(highest * 1.12).max(1e-6), count..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .label_style((FONT, 12))
            .x_desc(unit)
            .draw()?;
        let bar = 0.8 / series.len().max(1) as f64;
        for (index, name) in series.iter().enumerate() {
            let fill = colour(index).mix(0.8).filled();
            let top = |row: usize| row as f64 + 0.1 + bar * index as f64;
            let values: Vec<(usize, f64, f64)> = rows
                .iter()
                .enumerate()
                .filter_map(|(row, (_, v))| v.get(index).copied().flatten().map(|(m, s)| (row, m, s)))
                .collect();
            chart
                .draw_series(
                    values
                        .iter()
                        .map(|&(row, mean, _)| Rectangle::new([(0.0, top(row)), (mean, top(row) + bar * 0.92)], fill)),
                )?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], fill));
            chart.draw_series(values.iter().map(|&(row, mean, spread)| {
                let middle = top(row) + bar * 0.46;
                PathElement::new([(mean - spread, middle), (mean + spread, middle)], BLACK.stroke_width(1))
            }))?;
            let label = TextStyle::from((FONT, 12)).pos(Pos::new(HPos::Left, VPos::Center));
            for &(row, mean, spread) in &values {
                let (x, y) = chart.backend_coord(&(mean + spread, top(row) + bar * 0.46));
                root.draw(&Text::new(format!("{mean:.1}"), (x + 6, y), label.clone()))?;
            }
        }
        let label = TextStyle::from((FONT, 13)).pos(Pos::new(HPos::Right, VPos::Center));
        for (row, (name, _)) in rows.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(0.0, row as f64 + 0.5));
            root.draw(&Text::new(name.clone(), (x - 8, y), label.clone()))?;
        }
        if series.len() > 1 {
            legend(&mut chart, SeriesLabelPosition::LowerRight)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(body: impl FnOnce(&Path) -> Result<()>) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plot.svg");
        body(&path).expect("drawn");
        std::fs::read_to_string(path).expect("written")
    }

    #[test]
    fn curves_of_any_length_and_of_nothing() {
        let long = Curve::new("loss", (0..50_000).map(|i| (f64::from(i), 1.0 / f64::from(i + 1))).collect());
        let odd = Curve::new("odd", vec![(1.0, f64::NAN), (2.0, 3.0), (f64::INFINITY, 1.0)]);
        let spread = Curve { name: "rank".into(), points: vec![(1.0, 2.0), (2.0, 2.5)], spread: vec![0.5, 0.25] };
        let panel = |title: &str, curves| Panel { title: title.into(), x: "step".into(), y: "nats".into(), curves };
        let all = [panel("a", vec![long, odd, spread]), panel("b", vec![]), panel("c", vec![Curve::default()])];
        let svg = drawn(|path| curves(path, &all));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("step") && svg.contains("loss") && svg.len() < 60_000, "{}", svg.len());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn thinning_keeps_means() {
        let points: Vec<(f64, f64)> = (0..1200).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let some = thinned(&points);
        assert_eq!(some.len(), 600);
        assert!(some.iter().all(|p| p.1 == 0.5));
    }

    #[test]
    fn reliability_with_empty_bins() {
        let bin = |said, observed, pairs| Bin { said, observed, pairs };
        let bins = vec![bin(0.05, 0.0, 900), bin(0.0, 0.0, 0), bin(0.9, 0.8, 12)];
        let svg = drawn(|path| reliability(path, "ECE 0.01", &[("fitted".into(), bins)]));
        assert!(svg.contains("ECE 0.01") && svg.contains("share of matches"));
    }

    #[test]
    fn bars_with_a_missing_number() {
        let rows: Vec<Row> = vec![
            ("baseline".into(), vec![Some((40.0, 1.0)), None]),
            ("all".into(), vec![Some((50.0, 0.5)), Some((60.0, 0.1))]),
        ];
        let svg = drawn(|path| bars(path, "losses", "Rank-1 (%)", &["global", "local"], &rows));
        assert!(["baseline", "local", "60.0", "Rank-1 (%)"].iter().all(|t| svg.contains(t)));
    }

    #[test]
    fn a_plot_that_cannot_be_written_says_where() {
        let e = curves(Path::new("no/such/folder/plot.svg"), &[]).expect_err("no folder").to_string();
        assert!(e.contains("no/such/folder"), "{e}");
    }
}
