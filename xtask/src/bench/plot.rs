//! The cost of a packet over the number of flows, drawn.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use plotters::{coord::Shift, prelude::*, style::register_font};
use weir_lab::bench::{Measured, Packet, Report, State};

use crate::packages::{self, Unprivileged};

const SIZE: (u32, u32) = (960, 600);
/// Where Debian and others keep it.
const FONTS: [&str; 3] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
];
/// The font's name among those of this program.
const FONT: &str = "sans-serif";

/// The curves, each with its colour.
const CURVES: [(State, Packet, &str, RGBColor); 5] = [
    (State::Settled, Packet::Ack, "settled, ACK", RGBColor(0x1B, 0x6C, 0xA8)),
    (State::Settled, Packet::Syn, "settled, SYN", RGBColor(0x2A, 0x9D, 0x8F)),
    (State::Settled, Packet::Udp, "settled, UDP", RGBColor(0x8A, 0xB1, 0x7D)),
    (State::Exceptions, Packet::Ack, "exceptions, ACK", RGBColor(0xE9, 0xA2, 0x3B)),
    (State::Recorded, Packet::Ack, "recorded, ACK", RGBColor(0xC8, 0x4B, 0x31)),
];

/// Draws into `path` with the endings `.svg` and `.png`.
pub(super) fn draw(report: &Report, path: &Path) -> Result<()> {
    load_font()?;
    let svg = path.with_extension("svg");
    curves(&SVGBackend::new(&svg, SIZE).into_drawing_area(), report)
        .with_context(|| naming(&svg))?;
    let png = path.with_extension("png");
    curves(&BitMapBackend::new(&png, SIZE).into_drawing_area(), report)
        .with_context(|| naming(&png))?;
    println!("drawn: {} and {}", svg.display(), png.display());
    Ok(())
}

fn naming(path: &Path) -> String {
    format!("drawing {}", path.display())
}

fn load_font() -> Result<()> {
    let find = || FONTS.iter().map(PathBuf::from).find(|path| path.is_file());
    if find().is_none() {
        packages::ensure(&["fonts-dejavu-core"], "the plot", Unprivileged::Sudo)?;
    }
    let path = find().context("labels need the font DejaVu Sans: install it")?;
    let font = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    // Fonts live as long as the program that registers them.
    register_font(FONT, FontStyle::Normal, font.leak())
        .map_err(|_| anyhow!("{} is no font that can be used", path.display()))
}

fn curves<B: DrawingBackend>(area: &DrawingArea<B, Shift>, report: &Report) -> Result<()>
where
    B::ErrorType: Send + Sync + 'static,
{
    area.fill(&WHITE)?;
    let curve = |state, packet| {
        let points = report.results.iter().filter(move |row| belongs(row, state, packet));
        points.map(|row| (f64::from(row.flows), row.net_ns)).collect::<Vec<_>>()
    };
    let points = || CURVES.iter().flat_map(|(state, packet, ..)| curve(*state, *packet));
    let most_flows = points().map(|(flows, _)| flows).fold(10.0, f64::max);
    let highest = points().map(|(_, ns)| ns).fold(10.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption("A packet's cost over the number of flows", (FONT, 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((1.0..most_flows * 1.2).log_scale(), 0.0..highest)?;
    chart
        .configure_mesh()
        .x_desc("flows, one service of 100 backends")
        .y_desc("ns a packet, less an empty XDP_TX program")
        .x_label_formatter(&|flows| format!("{flows:.0}"))
        .label_style((FONT, 14))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (state, packet, name, colour) in CURVES {
        let points = curve(state, packet);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(0xBB, 0xBB, 0xBB))
        .label_font((FONT, 14))
        .legend_area_size(30)
        .draw()?;
    area.present()?;
    Ok(())
}

fn belongs(row: &Measured, state: State, packet: Packet) -> bool {
    let kind = (row.family, row.state, row.packet, row.services, row.backends);
    kind == (4, state, packet, 1, 100)
}
