//! The families as text, part by part. prometheus-client writes the samples; what announces a family is written here,
//! since the two formats differ in nothing else.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::Format;
use super::families::{FAMILIES, Family, Kind, One, Read, Source};

/// A part is sent when it is this long: our choice.
const PART_BYTES: usize = 128 * 1024;
/// Services of one family written in one go: our choice, less than a part for the longest of them.
const SERVICES: usize = 64;

/// Writes everything once.
#[derive(Debug)]
pub(super) struct Writer {
    source: Arc<Source>,
    format: Format,
    /// Where it has got to.
    family: usize,
    service: usize,
    ended: bool,
}

impl Writer {
    pub fn new(source: Source, format: Format) -> Self {
        Self { source: Arc::new(source), format, family: 0, service: 0, ended: false }
    }

    /// The next part; an empty one after the last.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn next(&mut self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(PART_BYTES + PART_BYTES / 2);
        while text.len() < PART_BYTES && !self.ended {
            let Some(family) = FAMILIES.get(self.family) else {
                self.ended = true;
                if self.format == Format::Open {
                    text.push_str("# EOF\n");
                }
                break;
            };
            let services = self.source.services();
            let range = self.service..(self.service + SERVICES).min(services);
            self.piece(family, range.clone(), &mut text)?;
            if matches!(family.read, Read::Services(_)) && range.end < services {
                self.service = range.end;
            } else {
                (self.family, self.service) = (self.family + 1, 0);
            }
        }
        Ok(text)
    }

    /// The last part has been given.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// One family of the monitor, or some services of one about services.
    fn piece(&self, family: &'static Family, range: Range<usize>, text: &mut String) -> fmt::Result {
        let from = text.len();
        let is_first = range.start == 0;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Piece { family, source: self.source.clone(), range }));
        text::encode_registry(text, &registry)?;
        let announced =
            |text: &str| text.lines().take_while(|line| line.starts_with("# ")).map(|line| line.len() + 1).sum();
        let head: usize = text.get(from..).map_or(0, announced);
        let samples = text.len() - from - head;
        // A number that cannot be told is left out whole; what has not happened yet is announced.
        let silent = samples == 0 && family.kind == Kind::Gauge && matches!(family.read, Read::Monitor(_));
        let header = if is_first && !silent { self.header(family) } else { String::new() };
        text.replace_range(from..from + head, &header);
        Ok(())
    }

    /// Counters are announced with their suffix in the older format, and without it in OpenMetrics.
    fn header(&self, family: &Family) -> String {
        let suffix = if family.kind == Kind::Counter && self.format == Format::Text { "_total" } else { "" };
        let (name, help, kind) = (family.name, family.help, family.kind.as_str());
        format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n")
    }
}

/// A gauge with all its samples, each with at most one label.
#[derive(Debug)]
pub struct Gauge {
    pub name: &'static str,
    pub help: &'static str,
    pub samples: Vec<(Option<(&'static str, &'static str)>, f64)>,
}

impl Collector for Gauges {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|gauge| {
            let mut samples = Samples(to.encode_descriptor(gauge.name, gauge.help, None, MetricType::Gauge)?);
            gauge.samples.iter().try_for_each(|(label, value)| samples.gauge(label.as_slice(), *value))
        })
    }
}

#[derive(Debug)]
struct Gauges(Vec<Gauge>);

/// A page of gauges: the same in both formats but for the end.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn page(gauges: Vec<Gauge>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Gauges(gauges)));
    let mut text = String::new();
    text::encode_registry(&mut text, &registry)?;
    if format == Format::Open {
        text::encode_eof(&mut text)?;
    }
    Ok(text)
}

struct Piece {
    family: &'static Family,
    source: Arc<Source>,
    range: Range<usize>,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.family.name, self.range)
    }
}

impl Collector for Piece {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.family.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut samples = Samples(to.encode_descriptor(self.family.name, "", None, kind)?);
        match self.family.read {
            Read::Monitor(read) => read(&self.source, &mut samples),
            Read::Services(read) => self.source.each(self.range.clone(), |one: One<'_>| read(&one, &mut samples)),
        }
    }
}

/// Where the samples of one family go. Label values are escaped there.
pub(super) struct Samples<'a>(MetricEncoder<'a>);

impl Samples<'_> {
    pub fn gauge(&mut self, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        if labels.is_empty() {
            self.0.encode_gauge(&value)
        } else {
            self.0.encode_family(&labels)?.encode_gauge(&value)
        }
    }

    /// 1 or 0.
    pub fn flag(&mut self, labels: &[(&str, &str)], set: bool) -> fmt::Result {
        self.gauge(labels, f64::from(u8::from(set)))
    }

    pub fn counter(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        let none: Option<&Exemplar<NoLabelSet, u64>> = None;
        if labels.is_empty() {
            self.0.encode_counter(&value, none)
        } else {
            self.0.encode_family(&labels)?.encode_counter(&value, none)
        }
    }

    /// A counter that grows by parts of one.
    pub fn sum(&mut self, value: f64) -> fmt::Result {
        let none: Option<&Exemplar<NoLabelSet, f64>> = None;
        self.0.encode_counter(&value, none)
    }

    /// `counts`: of what is within each of `bounds` and above the one before, and of what is above the last.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        sum: f64,
        bounds: impl Iterator<Item = f64>,
        counts: impl Iterator<Item = u64>,
    ) -> fmt::Result {
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        if labels.is_empty() {
            self.0.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        } else {
            self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}
