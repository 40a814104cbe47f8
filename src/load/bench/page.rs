//! A report in a folder: a page with plots that needs nothing else, and the raw data.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use minijinja::{Environment, context};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use super::outcome::{Outcome, Sample, number};

const TEMPLATE: &str = include_str!("page.html");
/// Of a plot, in pixels.
const SIZE: (u32, u32) = (760, 260);
const COLORS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
];
/// The end of the percentile axis: 99.999 %.
const NINES: f64 = 5.0;

/// A curve with its name.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn new(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            points: points.into_iter().collect(),
        }
    }
}

/// Makes the folder of a report and tries to write there.
///
/// # Errors
/// When that cannot be done, with the path.
pub fn prepare_report(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    create(folder, "index.html")?;
    Ok(())
}

/// Writes `index.html`, `result.json`, `samples.csv` and `latencies.csv` into `folder`, which is made if
/// it is not there.
///
/// # Errors
/// When something cannot be written, with its path.
pub fn write_report(outcome: &Outcome, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let write = |name: &str, text: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("index.html", page(outcome)?.as_bytes())?;
    write("result.json", &serde_json::to_vec_pretty(outcome)?)?;
    let mut samples = csv::Writer::from_writer(create(folder, "samples.csv")?);
    for sample in &outcome.samples {
        samples.serialize(sample)?;
    }
    samples.flush()?;
    let mut latencies = csv::Writer::from_writer(create(folder, "latencies.csv")?);
    latencies.write_record(["name", "up_to_us", "count"])?;
    for distribution in &outcome.latencies {
        for (up_to_us, count) in distribution.all.buckets() {
            let (up_to_us, count) = (up_to_us.to_string(), count.to_string());
            latencies.write_record([&distribution.name, &up_to_us, &count])?;
        }
    }
    latencies.flush()?;
    Ok(())
}

fn create(folder: &Path, name: &str) -> anyhow::Result<File> {
    let path = folder.join(name);
    File::create(&path).with_context(|| format!("cannot write {}", path.display()))
}

fn page(outcome: &Outcome) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.add_template("page.html", TEMPLATE)?;
    environment.add_filter("number", number);
    let page = environment.get_template("page.html")?;
    let plots: Vec<_> = plots(outcome)?
        .into_iter()
        .map(|(title, svg)| context! { title, svg })
        .collect();
    Ok(page.render(context! { outcome, plots })?)
}

fn plots(outcome: &Outcome) -> anyhow::Result<Vec<(&'static str, String)>> {
    let samples = &outcome.samples;
    let over_time = |of: &dyn Fn(&Sample) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |sample: &Sample| Some((sample.seconds, of(sample)?));
        samples.iter().filter_map(point).collect()
    };
    let rate = |of: &dyn Fn(&Sample) -> f64| -> Vec<(f64, f64)> {
        let pairs = samples.windows(2);
        let point = |pair: &[Sample]| {
            let seconds = pair[1].seconds - pair[0].seconds;
            (seconds > 0.05).then(|| (pair[1].seconds, (of(&pair[1]) - of(&pair[0])) / seconds))
        };
        pairs.filter_map(point).collect()
    };
    let mut plots = Vec::new();
    let mut add = |title, unit, curves: Vec<Curve>| -> anyhow::Result<()> {
        if curves.iter().any(|curve| curve.points.len() > 1) {
            let marks: Vec<f64> = outcome
                .phases
                .iter()
                .map(|phase| phase.began_seconds)
                .collect();
            plots.push((title, time_plot(unit, &curves, &marks)?));
        }
        Ok(())
    };
    add(
        "Connections over time",
        "connections",
        vec![Curve::new(
            "open",
            over_time(&|sample| Some(sample.connections as f64)),
        )],
    )?;
    add(
        "Server memory over time",
        "MB",
        vec![Curve::new(
            "private memory",
            over_time(&|sample| Some(sample.server_memory_bytes? as f64 / 1e6)),
        )],
    )?;
    if samples.last().is_some_and(|sample| sample.messages > 0) {
        let messages = rate(&|sample| sample.messages as f64);
        add(
            "Throughput",
            "messages per second",
            vec![Curve::new("messages", messages)],
        )?;
    }
    add(
        "Server CPU",
        "% of a core",
        vec![Curve::new(
            "processor time",
            rate(&|sample| sample.server_cpu_seconds.unwrap_or_default() * 100.0),
        )],
    )?;
    add(
        "Latency over time",
        "µs",
        vec![
            Curve::new("median", over_time(&|sample| sample.p50_us)),
            Curve::new("p99", over_time(&|sample| sample.p99_us)),
            Curve::new("longest", over_time(&|sample| sample.max_us)),
        ],
    )?;
    if !outcome.latencies.is_empty() {
        plots.push(("Latency by percentile", percentile_plot(outcome)?));
    }
    Ok(plots)
}

/// Curves over the seconds of the run, with a line where each phase begins.
fn time_plot(unit: &str, curves: &[Curve], marks: &[f64]) -> anyhow::Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let end = points().map(|point| point.0).fold(0.1, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max).max(1e-9) * 1.05;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(plot_error)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(40)
            .x_label_area_size(32)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..end, 0.0..top)
            .map_err(plot_error)?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT)
            .x_desc("seconds")
            .y_desc(unit);
        mesh.y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(plot_error)?;
        for &mark in marks.iter().filter(|mark| **mark > 0.0) {
            let line = LineSeries::new([(mark, 0.0), (mark, top)], BLACK.mix(0.25));
            chart.draw_series(line).map_err(plot_error)?;
        }
        draw(&mut chart, curves, SeriesLabelPosition::UpperLeft)?;
        area.present().map_err(plot_error)?;
    }
    Ok(svg)
}

/// Latencies by "nines": each step to the right leaves a tenth of what was slower.
fn percentile_plot(outcome: &Outcome) -> anyhow::Result<String> {
    let curves: Vec<Curve> = outcome
        .latencies
        .iter()
        .map(|distribution| {
            let all = &distribution.all;
            let end = (all.summary().count.max(1) as f64).log10().min(NINES);
            let steps = 200;
            let point = |step: i32| {
                let nines = end * f64::from(step) / f64::from(steps);
                (nines, all.quantile_us(1.0 - 10f64.powf(-nines)).max(0.1))
            };
            Curve::new(&distribution.name, (0..=steps).map(point))
        })
        .collect();
    let values = || {
        curves
            .iter()
            .flat_map(|curve| &curve.points)
            .map(|point| point.1)
    };
    let least = values().fold(f64::INFINITY, f64::min).max(0.1);
    let most = values().fold(least * 10.0, f64::max) * 1.2;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, SIZE.1 + 80)).into_drawing_area();
        area.fill(&WHITE).map_err(plot_error)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(40)
            .x_label_area_size(32)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..NINES, (least..most).log_scale())
            .map_err(plot_error)?;
        let percentile = |nines: &f64| match *nines {
            nines if nines < 0.05 => "0 %".to_owned(),
            nines => {
                let percent = 100.0 * (1.0 - 10f64.powf(-nines));
                let digits = if nines > 2.0 { 3 } else { 0 };
                format!("{percent:.digits$} %")
            }
        };
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT)
            .x_desc("percentile")
            .y_desc("µs");
        mesh.x_labels(6).x_label_formatter(&percentile);
        mesh.y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(plot_error)?;
        draw(&mut chart, &curves, SeriesLabelPosition::LowerRight)?;
        area.present().map_err(plot_error)?;
    }
    Ok(svg)
}

/// Draws the curves of a plot and, where there are several, says which is which.
fn draw<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    curves: &[Curve],
    labels_at: SeriesLabelPosition,
) -> anyhow::Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    for (curve, color) in curves.iter().zip(COLORS.iter().cycle()) {
        let line = LineSeries::new(curve.points.iter().copied(), color.stroke_width(2));
        let drawn = chart.draw_series(line).map_err(plot_error)?;
        if curves.len() > 1 {
            drawn.label(&curve.name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
            });
        }
    }
    if curves.len() > 1 {
        let mut labels = chart.configure_series_labels();
        labels
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2));
        labels.position(labels_at).draw().map_err(plot_error)?;
    }
    Ok(())
}

fn plot_error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot: {error}")
}

/// A number for an axis.
fn short(value: f64) -> String {
    match value.abs() {
        1e6.. => format!("{} M", number(value / 1e6)),
        1e4.. => format!("{} k", number(value / 1e3)),
        _ => number(value),
    }
}
